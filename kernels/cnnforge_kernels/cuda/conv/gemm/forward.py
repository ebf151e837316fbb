"""Convolution as an implicit matrix product: forward pass and gradient of the inputs.

The forward pass reads the inputs as its source and writes the outputs as its target. The gradient
reads the upstream gradient and writes the gradient of the inputs.

The rows of the product are pixels of the target and its columns are channels of the target. The
sum runs over taps and channels of the source. The matrix of patches is never written to memory. The
kernel gathers each tile of it in shared memory (K. Chellapilla et al., "High Performance
Convolutional Neural Networks for Document Processing", 2006). A thread computes a register tile of
the product while it loads the next tiles into registers (V. Volkov, J. Demmel, "Benchmarking GPUs
to Tune Dense Linear Algebra", 2008).

The gradient of the inputs is the same product with transposed weights. With a stride it splits into
phases. A phase has the inputs whose row and column have the same remainders modulo the strides. All
of them need the same taps, so each phase is a dense product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, load4, store4
from cnnforge_kernels.cuda.conv.specialization import ConvSpecialization, size_of

float32, int32, uint32 = np.float32, np.int32, np.uint32


@dataclass(frozen=True)
class Tile:
    """Number of results per block and per thread, and terms of the sum per step (``depth``)."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    depth: int = 8

    @property
    def name(self) -> str:
        """Name of the tile, such as ``"128x64"``."""
        return f"{self.rows}x{self.columns}"

    @property
    def threads(self) -> int:
        """Number of threads per block."""
        return self.rows * self.columns // (self.thread_rows * self.thread_columns)


@dataclass(frozen=True, kw_only=True)
class Gemm(ConvSpecialization):
    """Constants that a kernel of the implicit matrix product is compiled for."""

    tile: Tile
    bias: bool = False
    backward: bool = False

    @property
    def phases(self) -> tuple[int, int]:
        """Number of phases of the rows and of the columns of the target."""
        return self.strides if self.backward else (1, 1)

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"conv2d_gemm 3x3x64x64 tile 128x64"``."""
        op = "conv2d_grad_inputs" if self.backward else "conv2d_gemm"
        tile = size_of("tile", (self.tile.rows, self.tile.columns))
        return self.named(op, tile, "bias" * self.bias)


@cache
def gemm(c: Gemm) -> Kernel:
    """Make the kernel for these constants.

    Its arguments are source, mask (outputs of the forward pass, for the ReLU of ``backward``),
    weights, bias and target; then the number of images, height and width of the source, rows and
    columns of the target, and the top and left padding of the inputs. The grid is (row tiles of the
    largest phase, column tiles, groups * phases).
    """
    BACKWARD, BIAS, RELU = c.backward, c.bias, c.relu
    KH, KW = c.window
    PHASES_R, PHASES_C = c.phases
    PHASED = PHASES_R * PHASES_C > 1
    # Distance in the source between neighbouring pixels of the target (STEP) and between
    # neighbouring taps (TAP).
    STEP_R, STEP_C = (1, 1) if BACKWARD else c.strides
    TAP_R, TAP_C = c.dilation if not BACKWARD else (-c.dilation[0], -c.dilation[1])
    CHANNELS, FILTERS = c.channels, c.filters
    INNER, OUTER = (FILTERS, CHANNELS) if BACKWARD else (CHANNELS, FILTERS)
    ALL_SOURCE, ALL_TARGET = INNER * c.groups, OUTER * c.groups
    ALL_FILTERS, GROUPS = FILTERS * c.groups, c.groups
    BM, BN, BK, TM, TN = (
        c.tile.rows,
        c.tile.columns,
        c.tile.depth,
        c.tile.thread_rows,
        c.tile.thread_columns,
    )
    THREADS = c.tile.threads
    ACROSS = BN // TN
    # A thread computes groups of four rows (columns) at these distances, so that the threads of a
    # warp read neighbouring quads (four floats) of shared memory.
    ROW_GAP, COLUMN_GAP = BM // (TM // 4), BN // (TN // 4)
    VS = 4 if c.aligned and INNER % 4 == 0 else 1
    VW = 4 if c.aligned and FILTERS % 4 == 0 else 1
    VT = 4 if c.aligned and OUTER % 4 == 0 else 1
    # Number of loads per thread and step. With vector loads, neighbouring threads load neighbouring
    # channels, which are consecutive in memory. Otherwise neighbouring threads load neighbouring
    # pixels, and each thread loads from one pixel.
    SOURCE_LOADS = BM * BK // VS // THREADS
    WEIGHT_LOADS = -(-BN * BK // VW // THREADS)
    QUADS = BK // 4
    SOURCE_VALUES, WEIGHT_VALUES = SOURCE_LOADS * VS, WEIGHT_LOADS * VW
    WEIGHT_TOTAL = BN * BK // VW
    A_LINE, B_LINE = BM + 4, BN + 4
    A_SIZE, B_SIZE = BK * A_LINE, BK * B_LINE
    A_BUFFERS, B_BUFFERS = 2 * A_SIZE, 2 * B_SIZE
    ACCUMULATORS = TM * TN
    UNROLL = 2

    @kernel(
        c.name,
        *("float32*",) * 5,
        *("int32",) * 7,
        threads=THREADS,
        blocks=2 if THREADS == 256 else 0,
        identity=(c,),
    )
    def conv2d_gemm(
        source, mask, weights, bias, target, images, height, width, rows, columns, top, left
    ):
        shared_a = cuda.shared.array(A_BUFFERS, float32, alignment=16)
        shared_b = cuda.shared.array(B_BUFFERS, float32, alignment=16)
        acc = cuda.local.array(ACCUMULATORS, float32)
        lines = cuda.local.array(TM, float32)
        across = cuda.local.array(TN, float32)
        next_a = cuda.local.array(SOURCE_VALUES, float32)
        next_b = cuda.local.array(WEIGHT_VALUES, float32)
        pixel_row = cuda.local.array(SOURCE_LOADS, int32)
        pixel_column = cuda.local.array(SOURCE_LOADS, int32)
        pixel_base = cuda.local.array(SOURCE_LOADS, np.int64)

        thread = int32(cuda.threadIdx.x)
        group = int32(cuda.blockIdx.z)
        phase_row, phase_column = int32(0), int32(0)
        tap_row0, tap_column0 = int32(0), int32(0)
        taps_down, taps_across = int32(KH), int32(KW)
        base_row, base_column = int32(-top), int32(-left)
        if BACKWARD:
            base_row, base_column = int32(top), int32(left)
        if PHASED:
            phase = divide(cuda.blockIdx.z, GROUPS)
            group = int32(cuda.blockIdx.z - phase * GROUPS)
            phase_row = divide(phase, PHASES_C)
            phase_column = int32(phase - phase_row * PHASES_C)
            base_row = divide(phase_row + top, PHASES_R)
            base_column = divide(phase_column + left, PHASES_C)
            tap_row0 = int32(phase_row + top - base_row * PHASES_R)
            tap_column0 = int32(phase_column + left - base_column * PHASES_C)
            taps_down = divide(max(KH - tap_row0 + PHASES_R - 1, 0), PHASES_R)
            taps_across = divide(max(KW - tap_column0 + PHASES_C - 1, 0), PHASES_C)
        # Number of rows and columns of the target in this phase.
        part_rows, part_columns = rows, columns
        if PHASED:
            part_rows = divide(max(rows - phase_row + PHASES_R - 1, 0), PHASES_R)
            part_columns = divide(max(columns - phase_column + PHASES_C - 1, 0), PHASES_C)
        part = int32(part_rows * part_columns)
        pixels = int32(images * part)
        depth = int32(taps_down * taps_across * INNER)
        block_row, block_column = int32(cuda.blockIdx.x * BM), int32(cuda.blockIdx.y * BN)

        for n in range(SOURCE_LOADS):
            e = int32(thread + n * THREADS)
            pixel = divide(e, QUADS)
            if VS == 1:
                pixel = int32(e - divide(e, BM) * BM)
            pixel += block_row
            if pixel < pixels:
                image = divide(pixel, part)
                rest = int32(pixel - image * part)
                row = divide(rest, part_columns)
                column = int32(rest - row * part_columns)
                pixel_row[n] = int32(row * STEP_R + base_row)
                pixel_column[n] = int32(column * STEP_C + base_column)
                pixel_base[n] = np.int64(image) * (height * width * ALL_SOURCE) + group * INNER
            else:
                # There is no such pixel. Place it so far outside that no tap reads the image.
                pixel_row[n] = int32(-(1 << 30))
                pixel_column[n] = int32(0)
                pixel_base[n] = np.int64(0)
        for a in range(ACCUMULATORS):
            acc[a] = float32(0)
        thread_row = divide(thread, ACROSS)
        thread_column = int32(thread - thread_row * ACROSS)

        steps = divide(depth + BK - 1, BK)
        for step in range(steps + 1):
            k0 = int32(step * BK)
            if step < steps:
                for n in range(SOURCE_LOADS):
                    e = int32(thread + n * THREADS)
                    k = int32(k0 + 4 * (e - divide(e, QUADS) * QUADS))
                    if VS == 1:
                        k = int32(k0 + divide(e, BM))
                    for v in range(VS):
                        next_a[n * VS + v] = float32(0)
                    tap = divide(k, INNER)
                    tap_row = divide(tap, KW)
                    if PHASED:
                        tap_row = divide(tap, max(taps_across, 1))
                    tap_column = int32(tap - tap_row * taps_across)
                    row = int32(pixel_row[n] + tap_row * TAP_R)
                    column = int32(pixel_column[n] + tap_column * TAP_C)
                    if (
                        k < depth
                        and uint32(row) < uint32(height)
                        and uint32(column) < uint32(width)
                    ):
                        place = pixel_base[n] + int32(
                            (row * width + column) * ALL_SOURCE + k - tap * INNER
                        )
                        if VS == 4:
                            x = load4(source, place)
                            next_a[n * 4] = x[0]
                            next_a[n * 4 + 1] = x[1]
                            next_a[n * 4 + 2] = x[2]
                            next_a[n * 4 + 3] = x[3]
                            if BACKWARD and RELU:
                                m = load4(mask, place)
                                if not m[0] > float32(0):
                                    next_a[n * 4] = float32(0)
                                if not m[1] > float32(0):
                                    next_a[n * 4 + 1] = float32(0)
                                if not m[2] > float32(0):
                                    next_a[n * 4 + 2] = float32(0)
                                if not m[3] > float32(0):
                                    next_a[n * 4 + 3] = float32(0)
                        else:
                            value = source[place]
                            if BACKWARD and RELU and not mask[place] > float32(0):
                                value = float32(0)
                            next_a[n] = value
                for n in range(WEIGHT_LOADS):
                    e = int32(thread + n * THREADS)
                    for v in range(VW):
                        next_b[n * VW + v] = float32(0)
                    if BACKWARD:
                        # The sum runs over filters, whose weights are consecutive in memory.
                        line = divide(e, BK // VW)
                        k = int32(k0 + VW * (e - line * (BK // VW)))
                        column = int32(block_column + line)
                        tap = divide(k, INNER)
                        f = int32(k - tap * INNER)
                        if PHASED:
                            down = divide(tap, max(taps_across, 1))
                            tap_column = int32(tap - down * taps_across)
                            tap = int32(
                                (tap_row0 + down * PHASES_R) * KW
                                + tap_column0
                                + tap_column * PHASES_C
                            )
                        place = int32((tap * CHANNELS + column) * ALL_FILTERS + f)
                    else:
                        line = divide(e, BN // VW)
                        k = int32(k0 + line)
                        column = int32(block_column + VW * (e - line * (BN // VW)))
                        place = int32(k * ALL_FILTERS + column)
                    place += group * FILTERS
                    if e < WEIGHT_TOTAL and k < depth and column < OUTER:
                        if VW == 4:
                            w = load4(weights, place)
                            next_b[n * 4] = w[0]
                            next_b[n * 4 + 1] = w[1]
                            next_b[n * 4 + 2] = w[2]
                            next_b[n * 4 + 3] = w[3]
                        else:
                            next_b[n] = weights[place]
            if step > 0:
                a_start = uint32(((step - 1) & 1) * A_SIZE + 4 * thread_row)
                b_start = uint32(((step - 1) & 1) * B_SIZE + 4 * thread_column)
                for k0 in range(0, BK, UNROLL):
                    for u in range(UNROLL):
                        k = k0 + u
                        for h in range(0, TM, 4):
                            x = load4(shared_a, a_start + uint32(k * A_LINE + h // 4 * ROW_GAP))
                            lines[h] = x[0]
                            lines[h + 1] = x[1]
                            lines[h + 2] = x[2]
                            lines[h + 3] = x[3]
                        for h in range(0, TN, 4):
                            x = load4(shared_b, b_start + uint32(k * B_LINE + h // 4 * COLUMN_GAP))
                            across[h] = x[0]
                            across[h + 1] = x[1]
                            across[h + 2] = x[2]
                            across[h + 3] = x[3]
                        for i in range(TM):
                            for j in range(TN):
                                acc[i * TN + j] += lines[i] * across[j]
            if step < steps:
                buffer = int32(step & 1)
                for n in range(SOURCE_LOADS):
                    e = int32(thread + n * THREADS)
                    if VS == 4:
                        pixel = divide(e, QUADS)
                        place = uint32(buffer * A_SIZE + 4 * (e - pixel * QUADS) * A_LINE + pixel)
                        for v in range(4):
                            shared_a[place + uint32(v * A_LINE)] = next_a[n * 4 + v]
                    else:
                        k = divide(e, BM)
                        shared_a[uint32(buffer * A_SIZE + k * A_LINE + e - k * BM)] = next_a[n]
                for n in range(WEIGHT_LOADS):
                    e = int32(thread + n * THREADS)
                    if e < WEIGHT_TOTAL:
                        if BACKWARD:
                            line = divide(e, BK // VW)
                            k = int32(VW * (e - line * (BK // VW)))
                            for v in range(VW):
                                place = uint32(buffer * B_SIZE + (k + v) * B_LINE + line)
                                shared_b[place] = next_b[n * VW + v]
                        else:
                            line = divide(e, BN // VW)
                            column = int32(VW * (e - line * (BN // VW)))
                            place = uint32(buffer * B_SIZE + line * B_LINE + column)
                            if VW == 4:
                                store4(
                                    shared_b,
                                    place,
                                    next_b[n * 4],
                                    next_b[n * 4 + 1],
                                    next_b[n * 4 + 2],
                                    next_b[n * 4 + 3],
                                )
                            else:
                                shared_b[place] = next_b[n]
            cuda.syncthreads()

        for h in range(0, TN, 4):
            for j in range(4):
                column = int32(block_column + h // 4 * COLUMN_GAP + 4 * thread_column + j)
                across[h + j] = float32(0)
                if BIAS and column < OUTER:
                    across[h + j] = bias[int32(group * OUTER + column)]
        for i in range(TM):
            pixel = int32(block_row + i // 4 * ROW_GAP + 4 * thread_row + i % 4)
            if pixel < pixels:
                where = np.int64(pixel)
                if PHASED:
                    image = divide(pixel, part)
                    rest = int32(pixel - image * part)
                    row = divide(rest, part_columns)
                    column = int32((rest - row * part_columns) * PHASES_C + phase_column)
                    row = int32(row * PHASES_R + phase_row)
                    where = np.int64(image) * (rows * columns) + int32(row * columns + column)
                where = where * ALL_TARGET + group * OUTER
                for h in range(0, TN, 4):
                    first = int32(block_column + h // 4 * COLUMN_GAP + 4 * thread_column)
                    for j in range(4):
                        if BIAS:
                            acc[i * TN + h + j] += across[h + j]
                        if RELU and not BACKWARD and acc[i * TN + h + j] < float32(0):
                            acc[i * TN + h + j] = float32(0)
                    if VT == 4:
                        if first < OUTER:
                            t = i * TN + h
                            store4(
                                target, where + first, acc[t], acc[t + 1], acc[t + 2], acc[t + 3]
                            )
                    else:
                        for j in range(4):
                            if first + j < OUTER:
                                target[where + first + j] = acc[i * TN + h + j]

    return conv2d_gemm
