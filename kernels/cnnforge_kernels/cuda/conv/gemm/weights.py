"""Gradients of the weights and the bias of a convolution, as an implicit matrix product.

A row of the product is a tap and a channel, and a column is a filter. The sum runs over all pixels
of the outputs. It is cut into slices. Each block writes the sums of its slice to a scratch array,
and ``reduce.py`` adds the slices in order. No sum is atomic, so two runs give the same bits.

If the product has few results, a block computes its tile of results several times, each time for a
share of the pixels, and adds these copies.
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
class WeightsTile:
    """Results per block and per thread, copies of the tile per block, and pixels per step."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    copies: int = 1
    pixels: int = 8

    @property
    def name(self) -> str:
        """Name of the tile, such as ``"128x64"``."""
        return f"{self.rows}x{self.columns}"

    @property
    def threads(self) -> int:
        """Number of threads per block."""
        return self.copies * self.rows * self.columns // (self.thread_rows * self.thread_columns)


@dataclass(frozen=True, kw_only=True)
class GemmWeights(ConvSpecialization):
    """Constants that a kernel of the implicit matrix product is compiled for."""

    tile: WeightsTile

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"conv2d_grad_weights 3x3x64x64 tile 64x64"``."""
        tile = size_of("tile", (self.tile.rows, self.tile.columns))
        return self.named("conv2d_grad_weights", tile)


@cache
def gemm_weights(c: GemmWeights) -> Kernel:
    """Make the kernel for these constants.

    Its arguments are inputs, grad_outputs, mask (outputs of the forward pass, for ``relu``) and
    scratch; then height and width of the inputs, rows and columns of the outputs, top and left
    padding, the total number of pixels, the number of pixels per slice and the number of floats per
    slice of the scratch array. The grid is (row tiles * column tiles, slices, groups). A slice of
    the scratch array holds the gradient of the weights (KH, KW, C / groups, F), then that of the
    bias (F,).
    """
    RELU = c.relu
    KW = c.window[1]
    SR, SC = c.strides
    DR, DC = c.dilation
    CHANNELS, FILTERS = c.channels, c.filters
    ALL_CHANNELS, ALL_FILTERS = CHANNELS * c.groups, FILTERS * c.groups
    ROWS = c.window[0] * KW * CHANNELS
    BM, BN, BP = c.tile.rows, c.tile.columns, c.tile.pixels
    TM, TN, COPIES = c.tile.thread_rows, c.tile.thread_columns, c.tile.copies
    THREADS = c.tile.threads
    ACROSS = BN // TN
    COPY_THREADS = THREADS // COPIES
    ROW_GAP, COLUMN_GAP = BM // (TM // 4), BN // (TN // 4)
    COLUMN_TILES = -(-FILTERS // BN)
    VA = 4 if c.aligned and CHANNELS % 4 == 0 else 1
    VB = 4 if c.aligned and FILTERS % 4 == 0 else 1
    # In every step a thread loads operands of the same rows (columns) of the product, for different
    # pixels.
    A_ACROSS, B_ACROSS = BM // VA, BN // VB
    A_PIXELS, B_PIXELS = THREADS // A_ACROSS, THREADS // B_ACROSS
    A_LOADS, B_LOADS = -(-BP // A_PIXELS), -(-BP // B_PIXELS)
    A_VALUES, B_VALUES = A_LOADS * VA, B_LOADS * VB
    A_SIZE, B_SIZE = BP * BM, BP * BN
    A_BUFFERS, B_BUFFERS = 2 * A_SIZE, 2 * B_SIZE
    ACCUMULATORS = TM * TN
    TOTALS = B_PIXELS * BN
    SUMS = COPIES * BM * BN if COPIES > 1 else 1

    @kernel(
        c.name,
        *("float32*",) * 4,
        *("int32",) * 9,
        threads=THREADS,
        blocks=2 if THREADS == 256 else 0,
        identity=(c,),
    )
    def conv2d_grad_weights(
        inputs,
        grads,
        mask,
        scratch,
        height,
        width,
        rows,
        columns,
        top,
        left,
        pixels,
        slice_pixels,
        slice_floats,
    ):
        shared_a = cuda.shared.array(A_BUFFERS, float32, alignment=16)
        shared_b = cuda.shared.array(B_BUFFERS, float32, alignment=16)
        totals = cuda.shared.array(TOTALS, float32, alignment=16)
        sums = cuda.shared.array(SUMS, float32, alignment=16)
        acc = cuda.local.array(ACCUMULATORS, float32)
        lines = cuda.local.array(TM, float32)
        across = cuda.local.array(TN, float32)
        next_a = cuda.local.array(A_VALUES, float32)
        next_b = cuda.local.array(B_VALUES, float32)
        total = cuda.local.array(VB, float32)

        thread = int32(cuda.threadIdx.x)
        group = int32(cuda.blockIdx.z)
        row_tile = divide(cuda.blockIdx.x, COLUMN_TILES)
        block_row = int32(row_tile * BM)
        block_column = int32((cuda.blockIdx.x - row_tile * COLUMN_TILES) * BN)
        begin = int32(cuda.blockIdx.y * slice_pixels)
        end = int32(min(begin + slice_pixels, pixels))

        a_pixel = divide(thread, A_ACROSS)
        a_place = int32(VA * (thread - a_pixel * A_ACROSS))
        a_row = int32(block_row + a_place)
        tap = divide(a_row, CHANNELS)
        channel = int32(group * CHANNELS + a_row - tap * CHANNELS)
        tap_row = divide(tap, KW)
        row0 = int32(tap_row * DR - top)
        column0 = int32((tap - tap_row * KW) * DC - left)
        b_pixel = divide(thread, B_ACROSS)
        b_place = int32(VB * (thread - b_pixel * B_ACROSS))
        b_column = int32(block_column + b_place)

        copy = divide(thread, COPY_THREADS)
        lane = int32(thread - copy * COPY_THREADS)
        thread_row = divide(lane, ACROSS)
        thread_column = int32(lane - thread_row * ACROSS)
        for a in range(ACCUMULATORS):
            acc[a] = float32(0)
        for v in range(VB):
            total[v] = float32(0)

        steps = divide(max(end - begin, 0) + BP - 1, BP)
        for step in range(steps + 1):
            if step < steps:
                for n in range(A_LOADS):
                    for v in range(VA):
                        next_a[n * VA + v] = float32(0)
                    place = int32(a_pixel + n * A_PIXELS)
                    pixel = int32(begin + step * BP + place)
                    line = divide(pixel, columns)
                    image = divide(line, rows)
                    row = int32((line - image * rows) * SR + row0)
                    column = int32((pixel - line * columns) * SC + column0)
                    if (
                        place < BP
                        and pixel < end
                        and a_row < ROWS
                        and uint32(row) < uint32(height)
                        and uint32(column) < uint32(width)
                    ):
                        where = np.int64(image) * (height * width * ALL_CHANNELS)
                        where += int32((row * width + column) * ALL_CHANNELS + channel)
                        if VA == 4:
                            x = load4(inputs, where)
                            next_a[n * 4] = x[0]
                            next_a[n * 4 + 1] = x[1]
                            next_a[n * 4 + 2] = x[2]
                            next_a[n * 4 + 3] = x[3]
                        else:
                            next_a[n] = inputs[where]
                for n in range(B_LOADS):
                    for v in range(VB):
                        next_b[n * VB + v] = float32(0)
                    place = int32(b_pixel + n * B_PIXELS)
                    pixel = int32(begin + step * BP + place)
                    if place < BP and pixel < end and b_column < FILTERS:
                        where = np.int64(pixel) * ALL_FILTERS + int32(group * FILTERS + b_column)
                        if VB == 4:
                            x = load4(grads, where)
                            next_b[n * 4] = x[0]
                            next_b[n * 4 + 1] = x[1]
                            next_b[n * 4 + 2] = x[2]
                            next_b[n * 4 + 3] = x[3]
                            if RELU:
                                m = load4(mask, where)
                                if not m[0] > float32(0):
                                    next_b[n * 4] = float32(0)
                                if not m[1] > float32(0):
                                    next_b[n * 4 + 1] = float32(0)
                                if not m[2] > float32(0):
                                    next_b[n * 4 + 2] = float32(0)
                                if not m[3] > float32(0):
                                    next_b[n * 4 + 3] = float32(0)
                        else:
                            value = grads[where]
                            if RELU and not mask[where] > float32(0):
                                value = float32(0)
                            next_b[n] = value
            if step > 0:
                buffer = int32((step - 1) & 1)
                for p0 in range(0, BP, COPIES):
                    a_start = uint32(buffer * A_SIZE + (p0 + copy) * BM + 4 * thread_row)
                    b_start = uint32(buffer * B_SIZE + (p0 + copy) * BN + 4 * thread_column)
                    for h in range(0, TM, 4):
                        x = load4(shared_a, a_start + uint32(h // 4 * ROW_GAP))
                        lines[h] = x[0]
                        lines[h + 1] = x[1]
                        lines[h + 2] = x[2]
                        lines[h + 3] = x[3]
                    for h in range(0, TN, 4):
                        x = load4(shared_b, b_start + uint32(h // 4 * COLUMN_GAP))
                        across[h] = x[0]
                        across[h + 1] = x[1]
                        across[h + 2] = x[2]
                        across[h + 3] = x[3]
                    for i in range(TM):
                        for j in range(TN):
                            acc[i * TN + j] += lines[i] * across[j]
            if step < steps:
                buffer = int32(step & 1)
                for n in range(A_LOADS):
                    place = int32(a_pixel + n * A_PIXELS)
                    if place < BP:
                        where = uint32(buffer * A_SIZE + place * BM + a_place)
                        if VA == 4:
                            store4(
                                shared_a,
                                where,
                                next_a[n * 4],
                                next_a[n * 4 + 1],
                                next_a[n * 4 + 2],
                                next_a[n * 4 + 3],
                            )
                        else:
                            shared_a[where] = next_a[n]
                for n in range(B_LOADS):
                    for v in range(VB):
                        total[v] += next_b[n * VB + v]
                    place = int32(b_pixel + n * B_PIXELS)
                    if place < BP:
                        where = uint32(buffer * B_SIZE + place * BN + b_place)
                        if VB == 4:
                            store4(
                                shared_b,
                                where,
                                next_b[n * 4],
                                next_b[n * 4 + 1],
                                next_b[n * 4 + 2],
                                next_b[n * 4 + 3],
                            )
                        else:
                            shared_b[where] = next_b[n]
            cuda.syncthreads()

        base = np.int64(cuda.blockIdx.y) * slice_floats + group * FILTERS
        if COPIES > 1:
            for i in range(TM):
                for h in range(0, TN, 4):
                    row = int32(i // 4 * ROW_GAP + 4 * thread_row + i % 4)
                    column = int32(h // 4 * COLUMN_GAP + 4 * thread_column)
                    t = i * TN + h
                    store4(
                        sums,
                        uint32((copy * BM + row) * BN + column),
                        acc[t],
                        acc[t + 1],
                        acc[t + 2],
                        acc[t + 3],
                    )
            cuda.syncthreads()
            for e in range(thread, BM * BN, THREADS):
                value = float32(0)
                for k in range(COPIES):
                    value += sums[uint32(k * (BM * BN) + e)]
                row = divide(e, BN)
                column = int32(block_column + e - row * BN)
                row = int32(row + block_row)
                if row < ROWS and column < FILTERS:
                    scratch[base + int32(row * ALL_FILTERS + column)] = value
        else:
            for i in range(TM):
                row = int32(block_row + i // 4 * ROW_GAP + 4 * thread_row + i % 4)
                if row < ROWS:
                    for h in range(0, TN, 4):
                        column = int32(block_column + h // 4 * COLUMN_GAP + 4 * thread_column)
                        where = base + int32(row * ALL_FILTERS + column)
                        t = i * TN + h
                        if VB == 4:
                            if column < FILTERS:
                                store4(scratch, where, acc[t], acc[t + 1], acc[t + 2], acc[t + 3])
                        else:
                            for j in range(4):
                                if column + j < FILTERS:
                                    scratch[where + j] = acc[t + j]
        if block_row == 0:
            if b_pixel < B_PIXELS:
                for v in range(VB):
                    totals[uint32(b_pixel * BN + b_place + v)] = total[v]
            cuda.syncthreads()
            if thread < BN and block_column + thread < FILTERS:
                value = float32(0)
                for k in range(B_PIXELS):
                    value += totals[uint32(k * BN + thread)]
                scratch[base + int32(ROWS * ALL_FILTERS + block_column + thread)] = value

    return conv2d_grad_weights
