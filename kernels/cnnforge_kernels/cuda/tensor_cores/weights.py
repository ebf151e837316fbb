"""Tensor-core kernel of the gradients of the weights and the bias.

Experimental: not yet run on a device.

The gradient is an implicit matrix product. A row of the result is a tap and a channel, (KH, KW, C)
flattened, and a column is a filter. The sum runs over the pixels of the outputs. There are few
results and many pixels, so the pixels are cut into slices (``blockIdx.z``). Each block sums the
pixels of one slice and writes partial sums, and ``conv/reduce.py`` adds the partial sums in order.
No sum is atomic, so the same inputs give the same bits.

In memory the summed axis of both operands is outermost, and ``ldmatrix`` cannot transpose 32-bit
words. So the kernel loads fragments, the operands of the ``mma`` instruction, word by word. The
rows in shared memory have padding, which puts the words of a warp into 32 different banks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.tensor_cores import layout
from cnnforge_kernels.cuda.tensor_cores.convolution import Precision
from cnnforge_kernels.cuda.tensor_cores.fragments import (
    copy_words,
    load_a_terms,
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

copied_row = layout.inlined(layout.copied_row)
copied_column = layout.inlined(layout.copied_column)
fragment_row = layout.inlined(layout.fragment_row)
fragment_column = layout.inlined(layout.fragment_column)
warp_row = layout.inlined(layout.warp_row)
warp_column = layout.inlined(layout.warp_column)
quotient = layout.inlined(layout.quotient)

PARAMETERS = (
    *("height", "width", "channels", "output_height", "output_width", "filters"),
    *("window_width", "row_stride", "column_stride", "row_dilation", "column_dilation"),
    *("top", "left", "rows", "pixels", "pixels_per_slice", "slice_stride"),
    *("grads_start", "bias_start"),
    *("image_multiplier", "image_shift", "row_multiplier", "row_shift"),
)


@cache
def grad_weights(precision: Precision, tile: Tile, vector: bool) -> Kernel:
    """Make the kernel for a precision and a tile; see ``convolution``.

    Its arguments are inputs, grad_outputs, and the arrays of partial sums of grad_weights and of
    grad_bias; then the numbers that ``PARAMETERS`` names. The partial sums of consecutive slices
    are ``slice_stride`` floats apart. ``rows`` is KH * KW * C and ``pixels`` is N * OH * OW. In its
    array, grad_outputs begins at element ``grads_start``. In the partial sums of a slice, those of
    grad_bias begin at element ``bias_start``. The multipliers and shifts divide by OH * OW and by
    OW (``layout.division``).

    The gradient of the bias sums the values of ``grad_outputs`` as float32, before they are rounded
    to ``precision``.
    """
    ROWS, COLUMNS = tile.rows, tile.columns
    WARP_ROWS, WARP_COLUMNS = tile.warp_rows, tile.warp_columns
    WIDTH = 4 if vector else 1
    BFLOAT16, VECTOR = precision == "bfloat16", vector
    A_COPIES, B_COPIES = (w * DEPTH // (WIDTH * THREADS) for w in (ROWS, COLUMNS))
    A_ROW, B_ROW = ROWS + PADDING, COLUMNS + PADDING
    A_WORDS = DEPTH * A_ROW
    STAGE = A_WORDS + DEPTH * B_ROW
    SHARED = STAGES * STAGE
    AHEAD, PENDING = STAGES - 1, STAGES - 2
    PIECES, ACROSS = WARP_ROWS // 16, WARP_COLUMNS // 8

    @kernel(
        f"conv2d_grad_weights {precision} {ROWS}x{COLUMNS} {'vector' if vector else 'scalar'}",
        *("float32*",) * 4,
        *("uint32",) * len(PARAMETERS),
        threads=THREADS,
        blocks=BLOCKS,
        since=(8, 0),
        identity=(precision, tile, vector),
    )
    def _grad_weights_kernel(
        inputs: Any,
        grads: Any,
        partial_weights: Any,
        partial_bias: Any,
        height: Any,
        width: Any,
        channels: Any,
        output_height: Any,
        output_width: Any,
        filters: Any,
        window_width: Any,
        row_stride: Any,
        column_stride: Any,
        row_dilation: Any,
        column_dilation: Any,
        top: Any,
        left: Any,
        rows: Any,
        pixels: Any,
        pixels_per_slice: Any,
        slice_stride: Any,
        grads_start: Any,
        bias_start: Any,
        image_multiplier: Any,
        image_shift: Any,
        row_multiplier: Any,
        row_shift: Any,
    ) -> None:
        thread = U(cuda.threadIdx.x)
        lane, warp = U(thread & 31), U(thread >> 5)
        first_row = U(U(cuda.blockIdx.x) * U(ROWS))
        first_column = U(U(cuda.blockIdx.y) * U(COLUMNS))
        piece = U(cuda.blockIdx.z)
        begin = U(piece * pixels_per_slice)
        end = U(begin + pixels_per_slice)
        if end > pixels:
            end = pixels

        shared = cuda.shared.array(SHARED, U, alignment=16)
        sums = cuda.local.array((PIECES, ACROSS, 4), np.float32)
        a = cuda.local.array((PIECES, 4), U)
        b = cuda.local.array((ACROSS, 2), U)
        for i in range(PIECES):
            for j in range(ACROSS):
                for r in range(4):
                    sums[i, j, r] = np.float32(0)
        bias = np.float32(0)

        # A thread copies to the same column of shared memory in every step. So in A it has one tap
        # and one channel, and in B one filter.
        a_column = U(copied_column(thread, ROWS, WIDTH))
        b_column = U(copied_column(thread, COLUMNS, WIDTH))
        a_line = U(first_row + a_column)
        filter_ = U(first_column + b_column)
        tap = U(a_line // channels)
        channel = U(a_line - U(tap * channels))
        tap_row = U(tap // window_width)
        row_offset = U(U(tap_row * row_dilation) - top)
        column_offset = U(U(U(tap - U(tap_row * window_width)) * column_dilation) - left)

        steps = U(U(U(end - begin) + U(DEPTH - 1)) // U(DEPTH))
        written, read, pixel = U(0), U(0), begin
        part_row = U(warp_row(warp, COLUMNS, WARP_COLUMNS, WARP_ROWS))
        part_column = U(warp_column(warp, COLUMNS, WARP_COLUMNS))

        # This loop overlaps copies and products in the same way as the loop in `convolution.py`. A
        # comment there explains why one barrier is enough.
        for t in range(steps + U(AHEAD)):
            if t >= AHEAD:
                ptx.copy_async_wait(PENDING)
                cuda.syncthreads()

            if t < steps:
                for k in range(A_COPIES):
                    line = U(copied_row(thread, k, ROWS, WIDTH))
                    p = U(pixel + line)
                    image = quotient(p, image_multiplier, image_shift)
                    rest = U(p - U(image * U(output_height * output_width)))
                    row = quotient(rest, row_multiplier, row_shift)
                    column = U(rest - U(row * output_width))
                    y = U(U(row * row_stride) + row_offset)
                    x = U(U(column * column_stride) + column_offset)
                    valid = (p < end) & (a_line < rows) & (y < height) & (x < width)
                    place = U(U(U(image * height) + y) * width)
                    place = U(U(U(place + x) * channels) + channel)
                    where = U(U(written + U(line * U(A_ROW))) + a_column)
                    copy_words(shared, where, inputs, place, valid, VECTOR)
                for k in range(B_COPIES):
                    line = U(copied_row(thread, k, COLUMNS, WIDTH))
                    p = U(pixel + line)
                    valid = (p < end) & (filter_ < filters)
                    where = U(U(written + U(A_WORDS)) + U(U(line * U(B_ROW)) + b_column))
                    place = U(grads_start + U(U(p * filters) + filter_))
                    copy_words(shared, where, grads, place, valid, VECTOR)
                pixel = U(pixel + U(DEPTH))
                written = U(written + U(STAGE))
                if written == U(SHARED):
                    written = U(0)
            ptx.copy_async_commit()

            if t >= AHEAD:
                start = U(read + U(A_WORDS))
                for half in range(2):
                    load_a_terms(shared, read, part_row, A_ROW, lane, half, a, PIECES, BFLOAT16)
                    load_b_terms(shared, start, part_column, B_ROW, lane, half, b, ACROSS, BFLOAT16)
                    if not BFLOAT16 or half == 1:
                        multiply(sums, a, b, PIECES, ACROSS, BFLOAT16)
                if first_row == 0:
                    # Only one of the blocks that share these filters sums the gradient of the bias.
                    # Its threads beyond the columns of the tile repeat sums and store nothing.
                    place = U(start + U(thread % U(COLUMNS)))
                    for k in range(DEPTH):
                        bias += ptx.as_float(ptx.load_shared(shared, U(place + U(k * B_ROW))))
                read = U(read + U(STAGE))
                if read == U(SHARED):
                    read = U(0)

        part = U(piece * slice_stride)
        column = U(U(first_column + part_column) + U(2 * fragment_column(lane)))
        for i in range(PIECES):
            for half in range(2):
                line = U(U(first_row + part_row) + U(U(16 * i + 8 * half) + fragment_row(lane)))
                place = U(part + U(line * filters))
                for j in range(ACROSS):
                    n = U(column + U(8 * j))
                    v0, v1 = sums[i, j, 2 * half], sums[i, j, 2 * half + 1]
                    if VECTOR:
                        valid = U((line < rows) & (n < filters))
                        ptx.store2_if(partial_weights, U(place + n), v0, v1, valid)
                    else:
                        valid = U((line < rows) & (n < filters))
                        ptx.store_if(partial_weights, U(place + n), v0, valid)
                        n = U(n + U(1))
                        valid = U((line < rows) & (n < filters))
                        ptx.store_if(partial_weights, U(place + n), v1, valid)
        if first_row == 0:
            n = U(first_column + thread)
            valid = U((thread < COLUMNS) & (n < filters))
            ptx.store_if(partial_bias, U(U(part + bias_start) + n), bias, valid)

    return _grad_weights_kernel


@kernel("conv2d_relu_mask", *("float32*",) * 3, *("uint32",) * 2, threads=THREADS)
def relu_mask(grad_outputs: Any, outputs: Any, masked: Any, size: Any, start: Any) -> None:
    """Copy ``grad_outputs`` to ``masked``, with 0 if an output of the ReLU is not positive.

    The copy begins at element ``start`` of ``masked``. The mask needs a separate pass, because an
    asynchronous copy cannot change values.
    """
    element = U(U(U(cuda.blockIdx.x) * U(THREADS)) + U(cuda.threadIdx.x))
    inside = U(element < size)
    value = ptx.load_if(grad_outputs, element, inside)
    positive = U(inside & U(ptx.load_if(outputs, element, inside) > np.float32(0)))
    place = U(start + element)
    ptx.store_if(masked, place, value, positive)
    ptx.store_if(masked, place, np.float32(0), U(inside - positive))
