"""Direct convolution for few channels, with or without max pooling in the same kernel.

A thread computes a small block of neighbouring outputs for 4 or 8 filters and keeps the sums in
registers. The weights of these filters are in shared memory. Threads with the same filters read the
same four weights at a time. A thread reads the inputs of one row of taps at a time, through the L1
cache, and uses each input for every output of its block that needs it. With pooling, the block of
outputs is the pooling window. Its outputs stay in registers, and the thread writes only their
maximum and the argmax: the index of the cell of the window that holds the maximum.

The window, strides, dilation, channels and filters are constants of a compiled kernel. The sizes of
the images are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, exceeds, load4, store4, store4_bytes
from cnnforge_kernels.cuda.conv.specialization import ConvSpecialization, size_of, threads_of

float32, int32, uint32, int64 = np.float32, np.int32, np.uint32, np.int64

# The argmax of a window without a positive output. No gradient passes the ReLU there.
NO_ARGMAX = 255
THREADS = 128
_SHARED_FLOATS = 4608
_MAX_SHARED_FLOATS = 12288
# Maximum number of inputs and of products in the body of the innermost loop. Above these limits the
# compiler does not unroll the loop, and then the arrays of the loop are in slow local memory
# instead of registers.
_PATCH_FLOATS, _PRODUCTS = 48, 450


@dataclass(frozen=True, kw_only=True)
class Direct(ConvSpecialization):
    """Constants that a direct kernel is compiled for.

    Attributes:
        bias: Whether a bias is added.
        pool: Rows and columns of the pooling window; ``None`` for a plain convolution.
        windows: Number of neighbouring pooling windows per thread; 2 only in results of ``paired``.
        threads: Number of threads per block.
    """

    bias: bool = False
    pool: tuple[int, int] | None = None
    windows: int = 1
    threads: int = THREADS

    @property
    def filter_tile(self) -> int:
        """Number of filters per thread."""
        return 4 if self.filters <= 4 else 8

    @property
    def cells(self) -> tuple[int, int]:
        """Number of rows and columns of outputs that a thread holds in registers at a time."""
        if self.pool is None:
            return 1, 4
        if self.pool[0] * self.pool[1] <= 4:
            return self.pool[0], self.pool[1] * self.windows
        return (1, self.pool[1]) if self.pool[1] <= 4 else (1, 1)

    @property
    def tile(self) -> tuple[int, int]:
        """Number of rows and columns of convolution outputs that a thread computes."""
        return self.cells if self.pool is None or self.windows > 1 else self.pool

    @property
    def paired(self) -> Direct | None:
        """Constants for two pooling windows per thread; ``None`` if registers are too few."""
        if self.pool is None or self.pool[0] * self.pool[1] > 4:
            return None
        made = replace(self, windows=2)
        return made if made._fits(made.together) else None

    def patch_columns(self, taps: int) -> int:
        """Number of input columns that a row of ``cells`` reads for ``taps`` neighbouring taps."""
        return (self.cells[1] - 1) * self.strides[1] + (taps - 1) * self.dilation[1] + 1

    @property
    def tap_columns(self) -> int:
        """Number of taps of a row whose inputs are in registers at a time: all or one."""
        return self.window[1] if self._fits(self.vector) else 1

    def _fits(self, channels: int) -> bool:
        loads = self.patch_columns(self.window[1]) * self.cells[0] * channels
        products = self.window[1] * channels * self.cells[0] * self.cells[1] * self.filter_tile
        return loads <= _PATCH_FLOATS and products <= _PRODUCTS

    @property
    def together(self) -> int:
        """Number of channels whose inputs are in registers at a time."""
        few = self.vector == 1 and self.channels <= 4 and self._fits(self.channels)
        return self.channels if few else self.vector

    @property
    def lanes(self) -> int:
        """Number of neighbouring threads that compute the same outputs for different filters.

        These threads read the same inputs at the same time, so a warp touches fewer cache lines.
        """
        each = self.window[0] * self.window[1] * self.channels * self.filter_tile
        lanes = 4
        while lanes > 1 and (self.filter_blocks % lanes or lanes * each > _SHARED_FLOATS):
            lanes //= 2
        return lanes

    @property
    def tap_rows(self) -> int:
        """Number of rows of taps whose weights are in shared memory at a time."""
        floats = self.window[0] * self.window[1] * self.together * self.filter_tile
        return self.window[0] if floats <= _MAX_SHARED_FLOATS else 1

    @property
    def chunk(self) -> int:
        """Number of channels whose weights are in shared memory at a time."""
        floats = self.tap_rows * self.window[1] * self.filter_tile * self.lanes
        step = self.together
        limit = max(_SHARED_FLOATS // floats // step * step, step)
        chunks = -(-self.channels // limit)
        each = -(-self.channels // chunks)
        return -(-each // step) * step

    @property
    def filter_blocks(self) -> int:
        """Number of threads that share the filters of a group."""
        return -(-self.filters // self.filter_tile)

    @property
    def shared_floats(self) -> int:
        """Size of the shared memory in floats."""
        return self.tap_rows * self.window[1] * self.chunk * self.filter_tile * self.lanes

    @property
    def possible(self) -> bool:
        """Whether the weights of at least one row of taps fit into shared memory."""
        return self.shared_floats <= _MAX_SHARED_FLOATS

    @property
    def resident(self) -> int:
        """Number of blocks that must fit on a multiprocessor.

        These blocks have 512 threads in total, which leaves 128 registers for each thread.
        """
        return 512 // self.threads

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"conv2d_direct 5x5x1x8"``."""
        op = "conv2d_direct" if self.pool is None else "conv_block"
        threads = threads_of(self.threads, THREADS)
        pool = size_of("pool", self.pool)
        windows = f"windows {self.windows}" if self.windows > 1 else ""
        return self.named(op, pool, windows, threads, "bias" * self.bias)


@cache
def direct(c: Direct) -> Kernel:
    """Make the kernel for these constants.

    Its arguments are inputs, weights, bias, outputs and argmax; then height and width of the
    inputs, rows and columns of the outputs, number of rows and columns of tiles in an image, top
    and left padding, and the total number of tiles. A thread computes one tile. The grid is (tiles
    * lanes / threads, filter blocks / lanes * groups).
    """
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    CH, CW = c.cells
    TILE_H, TILE_W = c.tile
    WINDOWS, POOL_W = c.windows, c.tile[1] // c.windows
    BESTS = c.windows * c.filter_tile
    PARTS_H, PARTS_W = TILE_H // CH, TILE_W // CW
    CHANNELS, ALL_CHANNELS = c.channels, c.channels * c.groups
    FILTERS, ALL_FILTERS, FT = c.filters, c.filters * c.groups, c.filter_tile
    FILTER_BLOCKS = c.filter_blocks // c.lanes
    V, CC, J, RI = c.together, c.chunk, c.tap_columns, c.tap_rows
    WIDE, EVEN = c.vector == 4, c.channels % c.chunk == 0
    LANES = c.lanes
    LINE = LANES * FT
    WIDTH = c.patch_columns(J)
    ACCUMULATORS, PATCH, SHARED = CH * CW * FT, CH * WIDTH * V, c.shared_floats
    THREADS = c.threads
    BIAS, RELU, POOLED = c.bias, c.relu, c.pool is not None
    WHOLE = c.aligned and c.filters % 4 == 0
    VW = 4 if WHOLE else 1

    @kernel(
        c.name,
        *("float32*",) * 4,
        "uint8*",
        *("int32",) * 9,
        threads=THREADS,
        blocks=c.resident,
        identity=(c,),
    )
    def conv2d_direct(
        inputs,
        weights,
        bias,
        outputs,
        argmax,
        height,
        width,
        rows,
        columns,
        tile_rows,
        tile_columns,
        top,
        left,
        tiles,
    ):
        shared = cuda.shared.array(SHARED, float32, alignment=16)
        acc = cuda.local.array(ACCUMULATORS, float32)
        best = cuda.local.array(BESTS, float32)
        cell = cuda.local.array(BESTS, int32)
        offset = cuda.local.array(FT, float32)
        patch = cuda.local.array(PATCH, float32)
        thread = int32(cuda.threadIdx.x)
        tile = divide(cuda.blockIdx.x * THREADS + thread, LANES)
        live = tile < tiles
        group = divide(cuda.blockIdx.y, FILTER_BLOCKS)
        first0 = int32((cuda.blockIdx.y - group * FILTER_BLOCKS) * LINE)
        lane0 = int32((thread & (LANES - 1)) * FT)
        first = int32(first0 + lane0)
        filter0 = int32(group * FILTERS + first)

        line = divide(tile, tile_columns)
        tile_column = int32(tile - line * tile_columns)
        image = divide(line, tile_rows)
        tile_row = int32(line - image * tile_rows)
        # An image has fewer than 2**31 values, but a batch may have more. So the offset of the
        # image in the batch needs 64 bits.
        source = int64(image) * (height * width * ALL_CHANNELS) + group * CHANNELS

        for f in range(BESTS):
            best[f] = float32(0)
            cell[f] = int32(NO_ARGMAX)
        for f in range(FT):
            offset[f] = float32(0)
            if BIAS and first + f < FILTERS:
                offset[f] = bias[filter0 + f]
        for part_row in range(PARTS_H):
            for part_column in range(PARTS_W):
                cell_row = int32(tile_row * TILE_H + part_row * CH)
                cell_column = int32(tile_column * TILE_W + part_column * CW)
                row0 = int32(cell_row * SR - top)
                column0 = int32(cell_column * SC - left)
                for a in range(ACCUMULATORS):
                    acc[a] = offset[a & (FT - 1)]
                for chunk in range(0, CHANNELS, CC):
                    for i0 in range(0, KH, RI):
                        cuda.syncthreads()
                        for e in range(thread, SHARED // VW, THREADS):
                            k = divide(e, LINE // VW)
                            f = int32(first0 + (e - k * (LINE // VW)) * VW)
                            tap = divide(k, CC)
                            ch = int32(chunk + k - tap * CC)
                            place = int32(((i0 * KW + tap) * CHANNELS + ch) * ALL_FILTERS)
                            place += group * FILTERS + f
                            inside = f < FILTERS and ch < CHANNELS
                            if WHOLE:
                                a, b, u, v = float32(0), float32(0), float32(0), float32(0)
                                if inside:
                                    a, b, u, v = load4(weights, place)
                                store4(shared, uint32(e * 4), a, b, u, v)
                            else:
                                value = float32(0)
                                if inside:
                                    value = weights[place]
                                shared[uint32(e)] = value
                        cuda.syncthreads()
                        if live:
                            for i in range(RI):
                                for j0 in range(0, KW, J):
                                    for ch in range(0, CC, V):
                                        for a in range(CH):
                                            row = int32(row0 + a * SR + (i0 + i) * DR)
                                            inside = uint32(row) < uint32(height)
                                            # Compute only the index of the first column. The other
                                            # columns are at constant distances from it.
                                            start = int32(row * width + column0 + j0 * DC)
                                            start = source + int64(start) * ALL_CHANNELS
                                            start += chunk + ch
                                            for b in range(WIDTH):
                                                column = int32(column0 + j0 * DC + b)
                                                p = (a * WIDTH + b) * V
                                                for v in range(V):
                                                    patch[p + v] = float32(0)
                                                if inside and uint32(column) < uint32(width):
                                                    place = start + b * ALL_CHANNELS
                                                    if EVEN or chunk + ch < CHANNELS:
                                                        if WIDE:
                                                            x = load4(inputs, place)
                                                            patch[p] = x[0]
                                                            patch[p + 1] = x[1]
                                                            patch[p + 2] = x[2]
                                                            patch[p + 3] = x[3]
                                                        else:
                                                            for v in range(V):
                                                                patch[p + v] = inputs[place + v]
                                        for j in range(J):
                                            for v in range(V):
                                                k = uint32(
                                                    ((i * KW + j0 + j) * CC + ch + v) * LINE + lane0
                                                )
                                                for q in range(0, FT, 4):
                                                    w = load4(shared, k + uint32(q))
                                                    for a in range(CH):
                                                        for b in range(CW):
                                                            p = (a * WIDTH + b * SC + j * DC) * V
                                                            x = patch[p + v]
                                                            t = (a * CW + b) * FT + q
                                                            acc[t] += x * w[0]
                                                            acc[t + 1] += x * w[1]
                                                            acc[t + 2] += x * w[2]
                                                            acc[t + 3] += x * w[3]
                # With pooling the maximum starts at 0 (`best`), which already applies the ReLU.
                if RELU and not POOLED:
                    for t in range(ACCUMULATORS):
                        if acc[t] < float32(0):
                            acc[t] = float32(0)
                if POOLED:
                    for a in range(CH):
                        for b in range(CW):
                            w = b // POOL_W if WINDOWS > 1 else 0
                            beside = int32(part_column * CW + b - w * POOL_W)
                            here = int32((part_row * CH + a) * POOL_W + beside)
                            t = (a * CW + b) * FT
                            for f in range(FT):
                                value = acc[t + f]
                                if exceeds(value, best[w * FT + f]):
                                    best[w * FT + f] = value
                                    cell[w * FT + f] = here
                if not POOLED and live:
                    for a in range(CH):
                        row = int32(cell_row + a)
                        for b in range(CW):
                            column = int32(cell_column + b)
                            if row < rows and column < columns:
                                place = int64(image) * (rows * columns * ALL_FILTERS)
                                place += int32((row * columns + column) * ALL_FILTERS + filter0)
                                t = (a * CW + b) * FT
                                for q in range(0, FT, 4):
                                    if WHOLE and first + q < FILTERS:
                                        store4(
                                            outputs,
                                            place + q,
                                            acc[t + q],
                                            acc[t + q + 1],
                                            acc[t + q + 2],
                                            acc[t + q + 3],
                                        )
                                    elif not WHOLE:
                                        for f in range(4):
                                            if first + q + f < FILTERS:
                                                outputs[place + q + f] = acc[t + q + f]
        if POOLED and live:
            for f in range(BESTS):
                # A maximum of NaN passes no gradient, because the gradient of the ReLU is zero at
                # NaN.
                if best[f] != best[f]:
                    cell[f] = int32(NO_ARGMAX)
            for w in range(WINDOWS):
                column = int32(tile_column * WINDOWS + w)
                place = (int64(line) * columns + column) * ALL_FILTERS + filter0
                if column < columns:
                    for q in range(0, FT, 4):
                        t = w * FT + q
                        if WHOLE and first + q < FILTERS:
                            store4(
                                outputs, place + q, best[t], best[t + 1], best[t + 2], best[t + 3]
                            )
                            store4_bytes(
                                argmax, place + q, cell[t], cell[t + 1], cell[t + 2], cell[t + 3]
                            )
                        elif not WHOLE:
                            for f in range(4):
                                if first + q + f < FILTERS:
                                    outputs[place + q + f] = best[t + f]
                                    argmax[place + q + f] = np.uint8(cell[t + f])

    return conv2d_direct
