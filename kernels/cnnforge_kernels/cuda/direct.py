"""Direct convolution, with or without max pooling in the same kernel: for few channels.

A thread computes a small window of neighbouring outputs for a handful of filters, all in registers.
The weights of those filters stand in shared memory, where all threads of a warp read the same four
at a time; the inputs come through the L1 cache, one row of taps after the other, and are used for
every output of the window that meets them. With pooling the window is the pooling window: its
outputs never leave the registers, only the largest does, with its cell.

A kernel is written once and compiled for its constants: window, strides, dilation, channels,
filters. Only the sizes of the images are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from cnnforge_kernels.cuda.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.kinds import Kind, size_of, threads_of
from cnnforge_kernels.cuda.memory import divide, load4, store4, store4_bytes

float32, int32, uint32 = np.float32, np.int32, np.uint32

NO_WINNER = 255
THREADS = 128
_SHARED_FLOATS = 4096
_MOST_SHARED_FLOATS = 12288
# A longer body is not unrolled, and what it indexes leaves the registers.
_PATCH_FLOATS, _PRODUCTS = 48, 400


@dataclass(frozen=True, kw_only=True)
class Direct(Kind):
    """What a direct kernel is compiled for.

    ``pool`` is ``None`` for a plain convolution.
    """

    bias: bool = False
    pool: tuple[int, int] | None = None
    threads: int = THREADS

    @property
    def filter_tile(self) -> int:
        """Filters of a thread."""
        return 4 if self.filters <= 4 else 8

    @property
    def cells(self) -> tuple[int, int]:
        """Outputs of a thread that are in registers at a time."""
        if self.pool is None:
            return 1, 4
        if self.pool[0] * self.pool[1] <= 4:
            return self.pool
        return (1, self.pool[1]) if self.pool[1] <= 4 else (1, 1)

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of convolution outputs that belong to a thread."""
        return self.pool or self.cells

    def patch_columns(self, taps: int) -> int:
        """Columns of inputs that ``taps`` neighbouring taps of all cells of a row meet."""
        return (self.cells[1] - 1) * self.strides[1] + (taps - 1) * self.dilation[1] + 1

    @property
    def tap_columns(self) -> int:
        """Taps of a row whose inputs are in registers at a time: all of them, or one."""
        loads = self.patch_columns(self.window[1]) * self.cells[0] * self.vector
        products = self.window[1] * self.vector * self.cells[0] * self.cells[1] * self.filter_tile
        fits = loads <= _PATCH_FLOATS and products <= _PRODUCTS
        return self.window[1] if fits else 1

    @property
    def tap_rows(self) -> int:
        """Rows of taps whose weights are in shared memory at a time."""
        floats = self.window[0] * self.window[1] * self.vector * self.filter_tile
        return self.window[0] if floats <= _MOST_SHARED_FLOATS else 1

    @property
    def chunk(self) -> int:
        """Channels whose weights are in shared memory at a time."""
        floats = self.tap_rows * self.window[1] * self.filter_tile
        most = max(_SHARED_FLOATS // floats // self.vector * self.vector, self.vector)
        chunks = -(-self.channels // most)
        each = -(-self.channels // chunks)
        return -(-each // self.vector) * self.vector

    @property
    def filter_blocks(self) -> int:
        """Blocks that share the filters of a group."""
        return -(-self.filters // self.filter_tile)

    @property
    def shared_floats(self) -> int:
        """Size of the shared memory."""
        return self.tap_rows * self.window[1] * self.chunk * self.filter_tile

    @property
    def possible(self) -> bool:
        """Whether one row of weights fits into shared memory."""
        return self.shared_floats <= _MOST_SHARED_FLOATS

    @property
    def resident(self) -> int:
        """Blocks that shall fit on a multiprocessor: 512 threads, of 128 registers each."""
        return 512 // self.threads

    @property
    def name(self) -> str:
        """``"conv2d_direct 5x5x1x8"`` and what differs from the plain case."""
        kind = "conv2d_direct" if self.pool is None else "conv_block"
        threads = threads_of(self.threads, THREADS)
        return self.named(kind, size_of("pool", self.pool), threads, "bias" * self.bias)


@cache
def direct(c: Direct) -> Kernel:
    """The kernel for these constants.

    Arguments: inputs, weights, bias, outputs, winners; height and width of the inputs; rows and
    columns of the outputs; rows and columns of tiles (one for each thread) of an image; padding at
    the top and left; tiles in all. Grid: (tiles / threads, filter blocks * groups).
    """
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    CH, CW = c.cells
    TILE_H, TILE_W = c.tile
    PARTS_H, PARTS_W = TILE_H // CH, TILE_W // CW
    CHANNELS, ALL_CHANNELS = c.channels, c.channels * c.groups
    FILTERS, ALL_FILTERS, FT = c.filters, c.filters * c.groups, c.filter_tile
    FILTER_BLOCKS = c.filter_blocks
    V, CC, J, RI = c.vector, c.chunk, c.tap_columns, c.tap_rows
    WIDTH = c.patch_columns(J)
    ACCUMULATORS, PATCH, SHARED = CH * CW * FT, CH * WIDTH * V, c.shared_floats
    THREADS = c.threads
    BIAS, RELU, POOLED = c.bias, c.relu, c.pool is not None
    WHOLE = c.aligned and c.filters % 4 == 0

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
        winners,
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
        best = cuda.local.array(FT, float32)
        cell = cuda.local.array(FT, int32)
        offset = cuda.local.array(FT, float32)
        patch = cuda.local.array(PATCH, float32)
        thread = int32(cuda.threadIdx.x)
        tile = int32(cuda.blockIdx.x * THREADS + thread)
        live = tile < tiles
        group = divide(cuda.blockIdx.y, FILTER_BLOCKS)
        first = int32((cuda.blockIdx.y - group * FILTER_BLOCKS) * FT)
        filter0 = int32(group * FILTERS + first)

        line = divide(tile, tile_columns)
        tile_column = int32(tile - line * tile_columns)
        image = divide(line, tile_rows)
        tile_row = int32(line - image * tile_rows)
        # One image may hold no more than 2**31 values, all of them may: hence 64 bits here only.
        source = np.int64(image) * (height * width * ALL_CHANNELS) + group * CHANNELS

        for f in range(FT):
            best[f] = float32(0)
            cell[f] = int32(NO_WINNER)
        for part_row in range(PARTS_H):
            for part_column in range(PARTS_W):
                cell_row = int32(tile_row * TILE_H + part_row * CH)
                cell_column = int32(tile_column * TILE_W + part_column * CW)
                row0 = int32(cell_row * SR - top)
                column0 = int32(cell_column * SC - left)
                for a in range(ACCUMULATORS):
                    acc[a] = float32(0)
                for chunk in range(0, CHANNELS, CC):
                    for i0 in range(0, KH, RI):
                        cuda.syncthreads()
                        for e in range(thread, SHARED, THREADS):
                            k = divide(e, FT)
                            f = int32(e - k * FT)
                            tap = divide(k, CC)
                            ch = int32(chunk + k - tap * CC)
                            value = float32(0)
                            if first + f < FILTERS and ch < CHANNELS:
                                place = int32(((i0 * KW + tap) * CHANNELS + ch) * ALL_FILTERS)
                                value = weights[place + filter0 + f]
                            shared[uint32(e)] = value
                        cuda.syncthreads()
                        if live:
                            for i in range(RI):
                                for j0 in range(0, KW, J):
                                    for ch in range(0, CC, V):
                                        for a in range(CH):
                                            row = int32(row0 + a * SR + (i0 + i) * DR)
                                            inside = uint32(row) < uint32(height)
                                            start = int32(row * width * ALL_CHANNELS + chunk + ch)
                                            for b in range(WIDTH):
                                                column = int32(column0 + j0 * DC + b)
                                                p = (a * WIDTH + b) * V
                                                for v in range(V):
                                                    patch[p + v] = float32(0)
                                                if inside and uint32(column) < uint32(width):
                                                    place = source + int32(
                                                        start + column * ALL_CHANNELS
                                                    )
                                                    if V == 4:
                                                        x = load4(inputs, place)
                                                        patch[p] = x[0]
                                                        patch[p + 1] = x[1]
                                                        patch[p + 2] = x[2]
                                                        patch[p + 3] = x[3]
                                                    elif chunk + ch < CHANNELS:
                                                        patch[p] = inputs[place]
                                        for j in range(J):
                                            for v in range(V):
                                                k = uint32(((i * KW + j0 + j) * CC + ch + v) * FT)
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
                # Several short loops: a long one is not unrolled for every architecture, and the
                # accumulators would have to leave their registers.
                for f in range(FT):
                    offset[f] = float32(0)
                    if BIAS and first + f < FILTERS:
                        offset[f] = bias[filter0 + f]
                for t in range(ACCUMULATORS):
                    if BIAS:
                        acc[t] += offset[t & (FT - 1)]
                for t in range(ACCUMULATORS):
                    if RELU and acc[t] < float32(0):
                        acc[t] = float32(0)
                if POOLED:
                    for a in range(CH):
                        for b in range(CW):
                            here = int32((part_row * CH + a) * TILE_W + part_column * CW + b)
                            t = (a * CW + b) * FT
                            for f in range(FT):
                                value = acc[t + f]
                                if value > best[f] or (value != value and best[f] == best[f]):
                                    best[f] = value
                                    cell[f] = here
                if not POOLED and live:
                    for a in range(CH):
                        row = int32(cell_row + a)
                        for b in range(CW):
                            column = int32(cell_column + b)
                            if row < rows and column < columns:
                                place = np.int64(image) * (rows * columns * ALL_FILTERS)
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
            place = np.int64(tile) * ALL_FILTERS + filter0
            for f in range(FT):
                # NaN comes out, but no gradient goes back through it: ReLU's is zero there.
                if best[f] != best[f]:
                    cell[f] = int32(NO_WINNER)
            for q in range(0, FT, 4):
                if WHOLE and first + q < FILTERS:
                    store4(outputs, place + q, best[q], best[q + 1], best[q + 2], best[q + 3])
                    store4_bytes(winners, place + q, cell[q], cell[q + 1], cell[q + 2], cell[q + 3])
                elif not WHOLE:
                    for f in range(4):
                        if first + q + f < FILTERS:
                            outputs[place + q + f] = best[q + f]
                            winners[place + q + f] = np.uint8(cell[q + f])

    return conv2d_direct
