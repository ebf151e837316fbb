"""Tensor-core kernel of the convolution and of the gradient of its inputs.

Experimental: not yet run on a device.

The forward pass and the gradient of the inputs are the same implicit matrix product. The kernel
writes an array that is called the *target*. A row of the product is a pixel of the target, and a
column is one of its channels. The kernel reads an array that is called the *source*. The sum runs
over the taps of the window and, for each tap, over the channels of the source (their number is
``depth``), 16 at a time:

* forward: target = outputs, source = inputs, ``source row = row * stride - top + tap * dilation``;
* gradient: target = inputs, source = grad_outputs. The pixels of the target are split into phases,
  by the remainders of their row and column modulo the strides. ``blockIdx.z`` is the index of the
  phase. The pixels of one phase are read by the same taps, which are ``stride`` apart, and
  ``source row = row of the phase + origin - tap * dilation``.

The matrix of the source values of all pixels and taps is never written to memory. The copies into
shared memory compute the address of each pixel and write zeros for the padding.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.tensor_cores import layout
from cnnforge_kernels.cuda.tensor_cores.fragments import (
    copy_chunk,
    copy_words,
    load_a_lines,
    load_b_lines,
    load_b_terms,
    multiply,
)
from cnnforge_kernels.cuda.tensor_cores.layout import (
    BLOCKS,
    DEPTH,
    PADDING,
    STAGES,
    THREADS,
    Tile,
    U,
)

Precision = Literal["tf32", "bfloat16"]

clamped = layout.inlined(layout.clamped)
copied_row = layout.inlined(layout.copied_row)
copied_column = layout.inlined(layout.copied_column)
swizzled = layout.inlined(layout.swizzled)
fragment_row = layout.inlined(layout.fragment_row)
fragment_column = layout.inlined(layout.fragment_column)
warp_row = layout.inlined(layout.warp_row)
warp_column = layout.inlined(layout.warp_column)
phase_size = layout.inlined(layout.phase_size)
phase_first_tap = layout.inlined(layout.phase_first_tap)
phase_taps = layout.inlined(layout.phase_taps)
phase_origin = layout.inlined(layout.phase_origin)

PARAMETERS = (
    *("images", "source_height", "source_width", "depth"),
    *("target_height", "target_width", "columns", "window_height", "window_width"),
    *("row_stride", "column_stride", "row_dilation", "column_dilation", "top", "left"),
    *("biases", "rectify"),
)


@cache
def convolution(precision: Precision, tile: Tile, vector: bool, gradient: bool) -> Kernel:
    """Make the kernel for a precision and a tile.

    Its arguments are source, weights (KH, KW, C, F), bias and target, all float32, then the numbers
    that ``PARAMETERS`` names. ``biases`` is F, or 0 without a bias. ``rectify`` is 1 if the kernel
    applies a ReLU, otherwise 0.

    Args:
        precision: Precision of the operands. Sums are float32.
        tile: Rows and columns of results that a block computes.
        vector: Whether to copy 16 bytes at a time. Every array must then be 16-byte aligned, and C
            and F must be multiples of 4.
        gradient: Whether it is the gradient of the inputs; otherwise it is the forward pass.
    """
    ROWS, COLUMNS = tile.rows, tile.columns
    WARP_ROWS, WARP_COLUMNS = tile.warp_rows, tile.warp_columns
    WIDTH = 4 if vector else 1
    BFLOAT16 = precision == "bfloat16"
    GRADIENT, VECTOR = gradient, vector
    # A is the matrix of the source, and B is the matrix of the weights. In shared memory A has a
    # line of 16 summed channels for each row of the tile. In the gradient B has such a line for
    # each column of the tile. In the forward pass B has a row of columns for each summed channel,
    # like the weights. The contiguous axis is that of global memory, because a 16-byte copy moves
    # neighbouring words.
    A_COPIES = ROWS * DEPTH // (4 * THREADS)
    B_COPIES = COLUMNS * DEPTH // ((4 if gradient else WIDTH) * THREADS)
    A_WORDS = ROWS * DEPTH
    B_ROW = COLUMNS + PADDING
    STAGE = A_WORDS + (COLUMNS * DEPTH if gradient else DEPTH * B_ROW)
    SHARED = STAGES * STAGE
    AHEAD, PENDING = STAGES - 1, STAGES - 2
    PIECES, ACROSS = WARP_ROWS // 16, WARP_COLUMNS // 8

    name = f"{'conv2d_grad_inputs' if gradient else 'conv2d'} {precision}"
    shape = f"{tile.rows}x{tile.columns} {'vector' if vector else 'scalar'}"

    @kernel(
        f"{name} {shape}",
        *("float32*",) * 4,
        *("uint32",) * len(PARAMETERS),
        threads=THREADS,
        blocks=BLOCKS,
        since=(8, 0),
        identity=(precision, tile, vector, gradient),
    )
    def _convolution_kernel(
        source: Any,
        weights: Any,
        bias: Any,
        target: Any,
        images: Any,
        source_height: Any,
        source_width: Any,
        depth: Any,
        target_height: Any,
        target_width: Any,
        columns: Any,
        window_height: Any,
        window_width: Any,
        row_stride: Any,
        column_stride: Any,
        row_dilation: Any,
        column_dilation: Any,
        top: Any,
        left: Any,
        biases: Any,
        rectify: Any,
    ) -> None:
        thread = U(cuda.threadIdx.x)
        lane, warp = U(thread & 31), U(thread >> 5)
        first_row = U(U(cuda.blockIdx.x) * U(ROWS))
        first_column = U(U(cuda.blockIdx.y) * U(COLUMNS))

        # Size of the target in the phase of this block, and the taps that the phase needs.
        # `row_tap_step` and `column_tap_step` are the distances between the source pixels of
        # neighbouring taps.
        if GRADIENT:
            phases = clamped(column_stride, target_width)
            row_phase = U(U(cuda.blockIdx.z) // phases)
            column_phase = U(U(cuda.blockIdx.z) % phases)
            height = phase_size(target_height, row_phase, row_stride)
            width = phase_size(target_width, column_phase, column_stride)
            row_tap = phase_first_tap(row_phase, top, row_stride)
            column_tap = phase_first_tap(column_phase, left, column_stride)
            row_taps = phase_taps(window_height, row_tap, row_stride)
            column_taps = phase_taps(window_width, column_tap, column_stride)
            row_origin = phase_origin(row_phase, top, row_stride)
            column_origin = phase_origin(column_phase, left, column_stride)
            row_step, column_step = U(1), U(1)
            row_tap_step, column_tap_step = U(U(0) - row_dilation), U(U(0) - column_dilation)
            row_tap_stride, column_tap_stride = row_stride, column_stride
        else:
            row_phase, column_phase = U(0), U(0)
            height, width = target_height, target_width
            row_tap, column_tap = U(0), U(0)
            row_taps, column_taps = window_height, window_width
            row_origin, column_origin = U(U(0) - top), U(U(0) - left)
            row_step, column_step = row_stride, column_stride
            row_tap_step, column_tap_step = row_dilation, column_dilation
            row_tap_stride, column_tap_stride = U(1), U(1)
        pixels = U(U(images * height) * width)
        if first_row >= pixels:
            return

        shared = cuda.shared.array(SHARED, U, alignment=16)
        sums = cuda.local.array((PIECES, ACROSS, 4), np.float32)
        a = cuda.local.array((PIECES, 4), U)
        b = cuda.local.array((ACROSS, 2), U)
        for i in range(PIECES):
            for j in range(ACROSS):
                for r in range(4):
                    sums[i, j, r] = np.float32(0)

        # Source pixels that this thread copies for the first tap. Rows of A beyond the last pixel
        # copy the last pixel, and their sums are not stored.
        base = cuda.local.array(A_COPIES, U)
        source_row = cuda.local.array(A_COPIES, U)
        source_column = cuda.local.array(A_COPIES, U)
        chunk = U(copied_column(thread, DEPTH, 4))
        for k in range(A_COPIES):
            pixel = clamped(U(first_row + copied_row(thread, k, DEPTH, 4)), U(pixels - U(1)))
            image = U(pixel // U(height * width))
            rest = U(pixel - U(image * U(height * width)))
            row = U(rest // width)
            base[k] = U(image * source_height)
            source_row[k] = U(U(row * row_step) + row_origin)
            source_column[k] = U(U(U(rest - U(row * width)) * column_step) + column_origin)

        steps = U(U(row_taps * column_taps) * U(U(depth + U(DEPTH - 1)) // U(DEPTH)))
        row_offset, column_offset, term = U(0), U(0), U(0)
        written, read = U(0), U(0)
        part_row = U(warp_row(warp, COLUMNS, WARP_COLUMNS, WARP_ROWS))
        part_column = U(warp_column(warp, COLUMNS, WARP_COLUMNS))

        # A step multiplies 16 terms of the sum, and a stage is a buffer in shared memory for one
        # step. Iteration t starts the copies of step t into one stage and computes step t - AHEAD
        # from another stage, so the copies of AHEAD steps are in flight. One barrier per iteration
        # is enough. Before it, each thread waits for its own copies of step t - AHEAD, so after it
        # the copies of all threads are visible. After it, no warp reads step t - AHEAD - 1, whose
        # stage is overwritten next. Every iteration commits a group of copies, even an empty one,
        # so the number of pending groups is constant.
        for t in range(steps + U(AHEAD)):
            if t >= AHEAD:
                ptx.copy_async_wait(PENDING)
                cuda.syncthreads()

            if t < steps:
                for k in range(A_COPIES):
                    row = U(source_row[k] + U(row_offset * row_tap_step))
                    column = U(source_column[k] + U(column_offset * column_tap_step))
                    # A negative row is a huge unsigned number, so one comparison checks both
                    # bounds.
                    inside = (row < source_height) & (column < source_width)
                    place = U(U(U(U(base[k] + row) * source_width) + column) * depth)
                    where = U(written + swizzled(copied_row(thread, k, DEPTH, 4), chunk >> 2))
                    copy_chunk(shared, where, source, place, U(term + chunk), depth, inside, VECTOR)
                row_at = U(row_tap + U(row_offset * row_tap_stride))
                column_at = U(column_tap + U(column_offset * column_tap_stride))
                tap = U(U(row_at * window_width) + column_at)
                for k in range(B_COPIES):
                    if GRADIENT:
                        line = U(copied_row(thread, k, DEPTH, 4))
                        n = U(first_column + line)
                        where = U(U(written + U(A_WORDS)) + swizzled(line, chunk >> 2))
                        place = U(U(U(tap * columns) + n) * depth)
                        c, valid = U(term + chunk), n < columns
                        copy_chunk(shared, where, weights, place, c, depth, valid, VECTOR)
                    else:
                        line = U(copied_row(thread, k, COLUMNS, WIDTH))
                        column = U(copied_column(thread, COLUMNS, WIDTH))
                        c, n = U(term + line), U(first_column + column)
                        where = U(U(written + U(A_WORDS)) + U(U(line * U(B_ROW)) + column))
                        place = U(U(U(U(tap * depth) + c) * columns) + n)
                        valid = (n < columns) & (c < depth)
                        copy_words(shared, where, weights, place, valid, VECTOR)
                term = U(term + U(DEPTH))
                if term >= depth:
                    term = U(0)
                    column_offset = U(column_offset + U(1))
                    if column_offset == column_taps:
                        column_offset = U(0)
                        row_offset = U(row_offset + U(1))
                written = U(written + U(STAGE))
                if written == U(SHARED):
                    written = U(0)
            ptx.copy_async_commit()

            if t >= AHEAD:
                start = U(read + U(A_WORDS))
                for half in range(2):
                    load_a_lines(shared, read, part_row, lane, half, a, PIECES, BFLOAT16)
                    if GRADIENT:
                        load_b_lines(shared, start, part_column, lane, half, b, ACROSS, BFLOAT16)
                    else:
                        load_b_terms(
                            shared, start, part_column, B_ROW, lane, half, b, ACROSS, BFLOAT16
                        )
                    if not BFLOAT16 or half == 1:
                        multiply(sums, a, b, PIECES, ACROSS, BFLOAT16)
                read = U(read + U(STAGE))
                if read == U(SHARED):
                    read = U(0)

        column = U(U(first_column + part_column) + U(2 * fragment_column(lane)))
        if not GRADIENT:
            for j in range(ACROSS):
                for e in range(2):
                    n = U(column + U(8 * j + e))
                    value = ptx.load_if(bias, n, U(n < biases))
                    for i in range(PIECES):
                        sums[i, j, e] += value
                        sums[i, j, e + 2] += value
            if rectify > 0:
                for i in range(PIECES):
                    for j in range(ACROSS):
                        for r in range(4):
                            sums[i, j, r] = ptx.relu(sums[i, j, r])
        for i in range(PIECES):
            for half in range(2):
                pixel = U(U(first_row + part_row) + U(U(16 * i + 8 * half) + fragment_row(lane)))
                stored = pixel < pixels
                place = U(pixel * columns)
                if GRADIENT:
                    image = U(pixel // U(height * width))
                    rest = U(pixel - U(image * U(height * width)))
                    row = U(rest // width)
                    y = U(row_phase + U(row * row_stride))
                    x = U(column_phase + U(U(rest - U(row * width)) * column_stride))
                    place = U(U(U(image * target_height) + y) * target_width)
                    place = U(U(place + x) * columns)
                for j in range(ACROSS):
                    n = U(column + U(8 * j))
                    v0, v1 = sums[i, j, 2 * half], sums[i, j, 2 * half + 1]
                    if VECTOR:
                        valid = U(stored & (n < columns))
                        ptx.store2_if(target, U(place + n), v0, v1, valid)
                    else:
                        ptx.store_if(target, U(place + n), v0, U(stored & (n < columns)))
                        n = U(n + U(1))
                        ptx.store_if(target, U(place + n), v1, U(stored & (n < columns)))

    return _convolution_kernel
