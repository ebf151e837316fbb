"""Tensor-core kernel of convolutions without strides, with a tile of the source in shared memory.

Experimental: not yet run on a device.

The general kernel (``tensor_cores/convolution.py``) copies each pixel of the source, the convolved
array, once per tap of the window and rounds it at each read. The kernel of this module copies and
rounds each pixel once for all taps, so its inner loop only loads fragments and multiplies.
Including the copies, its machine code for sm_90 has 2.8 (tf32) or 3.2 (bfloat16) instructions per
product. The general kernel has 9.5 or 13.7 (docs/notes.md).

The gradient of the inputs is the same convolution with the window rotated by 180 degrees, other
padding, and the mask of the ReLU at its source. ``packing.py`` rotates the weights.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.tensor_cores import layout
from cnnforge_kernels.cuda.tensor_cores.convolution import Precision
from cnnforge_kernels.cuda.tensor_cores.fragments import multiply
from cnnforge_kernels.cuda.tensor_cores.halo import layout as halo_layout
from cnnforge_kernels.cuda.tensor_cores.halo.fragments import end_copies
from cnnforge_kernels.cuda.tensor_cores.halo.layout import (
    BLOCKS,
    COLUMNS,
    LINE,
    LINES,
    SHARED,
    STAGES,
    STEP,
    THREADS,
    WARP_PIXELS,
)
from cnnforge_kernels.cuda.tensor_cores.layout import U, inlined

line_word = inlined(halo_layout.line_word)
place_word = inlined(halo_layout.place_word)
small_quotient = inlined(halo_layout.small_quotient)
a_matrix_row = inlined(layout.a_matrix_row)
a_matrix_chunk = inlined(layout.a_matrix_chunk)
b_matrix_row = inlined(layout.b_matrix_row)
b_matrix_chunk = inlined(layout.b_matrix_chunk)
fragment_row = inlined(layout.fragment_row)
fragment_column = inlined(layout.fragment_column)

PARAMETERS = (
    *("images", "source_height", "source_width", "depth"),
    *("target_height", "target_width", "columns", "column_tiles"),
    *("tile_images", "tile_rows", "tile_columns", "tiles_down", "tiles_across"),
    *("window_height", "window_width", "row_dilation", "column_dilation", "top", "left"),
    *("chunks", "line_rows", "line_columns", "lines"),
    *("by_line_image", "by_line_columns", "by_tile_image", "by_tile_columns"),
    *("biases", "rectify"),
)


PIECES, ACROSS = WARP_PIXELS // 16, COLUMNS // 8


@inlined
def add_terms(
    shared: Any, sums: Any, a: Any, b: Any, a_word: Any, b_word: Any, k: Any, bfloat16: Any
) -> None:
    """Multiply quarter ``k`` of each line, and add the products to ``sums``.

    A quarter of a line is two chunks of 16 bytes. A line is a row of shared memory with some
    channels of one pixel (``halo/layout.py``).
    """
    for i in range(PIECES):
        # Lines start at multiples of their length, so the exclusive or stays inside a line.
        w = ptx.load_matrices(shared, U(a_word[i] ^ U(8 * k)))
        a[i, 0], a[i, 1], a[i, 2], a[i, 3] = w[0], w[1], w[2], w[3]
    for j in range(ACROSS // 2):
        w = ptx.load_matrices(shared, U(U(b_word ^ U(8 * k)) + U(16 * LINE * j)))
        b[2 * j, 0], b[2 * j, 1] = w[0], w[1]
        b[2 * j + 1, 0], b[2 * j + 1, 1] = w[2], w[3]
    multiply(sums, a, b, PIECES, ACROSS, bfloat16)


@cache
def halo_convolution(precision: Precision, masked: bool) -> Kernel:
    """Make the kernel for a precision of the operands.

    Its arguments are source, mask, packed weights, bias and target, all float32; then the numbers
    that ``PARAMETERS`` names. Most of them are those of ``tensor_cores/convolution.py``. Those of
    the tile describe the part of the target that a block computes (``Halo``). A line is a pixel of
    the tile with its halo, and a chunk is a part of the channels. The numbers ``by_...`` are
    reciprocals for ``small_quotient``. Those named ``by_line_...`` divide by sizes of the tile with
    its halo, and those named ``by_tile_...`` by sizes without the halo. Every array must be 16-byte
    aligned, and depth and columns must be multiples of 4.

    Args:
        precision: Precision of the operands. Sums are float32.
        masked: Whether values of the source count only if the mask is positive.
    """
    BFLOAT16, MASKED = precision == "bfloat16", masked
    TERMS = halo_layout.terms(BFLOAT16)
    # ACROSS_LINE threads copy the channels of one pixel (a line), four channels each. So all
    # threads of the block copy COPIED lines at once.
    ACROSS_LINE = TERMS // 4
    COPIED = THREADS // ACROSS_LINE
    TOGETHER = halo_layout.together(BFLOAT16, MASKED)
    FLYING = TOGETHER // COPIED
    AHEAD, PENDING = STAGES - 1, STAGES - 2
    STEP_COPIES = STEP // (4 * THREADS)
    WEIGHTS, END = LINES * LINE, SHARED

    name = f"conv2d {precision} halo{' masked' if masked else ''}"

    @kernel(
        name,
        *("float32*",) * 5,
        *("uint32",) * len(PARAMETERS),
        threads=THREADS,
        blocks=BLOCKS,
        dynamic_shared=4 * SHARED,
        since=(8, 0),
        identity=(precision, masked),
    )
    def _halo_kernel(
        source: Any,
        mask: Any,
        packed: Any,
        bias: Any,
        target: Any,
        images: Any,
        source_height: Any,
        source_width: Any,
        depth: Any,
        target_height: Any,
        target_width: Any,
        columns: Any,
        column_tiles: Any,
        tile_images: Any,
        tile_rows: Any,
        tile_columns: Any,
        tiles_down: Any,
        tiles_across: Any,
        window_height: Any,
        window_width: Any,
        row_dilation: Any,
        column_dilation: Any,
        top: Any,
        left: Any,
        chunks: Any,
        line_rows: Any,
        line_columns: Any,
        lines: Any,
        by_line_image: Any,
        by_line_columns: Any,
        by_tile_image: Any,
        by_tile_columns: Any,
        biases: Any,
        rectify: Any,
    ) -> None:
        thread = U(cuda.threadIdx.x)
        lane, warp = U(thread & 31), U(thread >> 5)
        # Consecutive blocks read the same tile of the source, so that later blocks find it in the
        # L2 cache.
        block = U(cuda.blockIdx.x)
        tile = U(block // column_tiles)
        column_tile = U(block - U(tile * column_tiles))
        down = U(tile // tiles_across)
        first_column = U(U(tile - U(down * tiles_across)) * tile_columns)
        group = U(down // tiles_down)
        first_row = U(U(down - U(group * tiles_down)) * tile_rows)
        first_image = U(group * tile_images)

        shared = cuda.shared.array(0, U, alignment=128)
        sums = cuda.local.array((PIECES, ACROSS, 4), np.float32)
        a = cuda.local.array((PIECES, 4), U)
        b = cuda.local.array((ACROSS, 2), U)
        for i in range(PIECES):
            for j in range(ACROSS):
                for r in range(4):
                    sums[i, j, r] = np.float32(0)

        # First word of the line that this thread passes to `ldmatrix` for the first tap. Threads
        # past the end of the tile pass the line of its first pixel, and their results are not
        # stored.
        pixel_place = cuda.local.array(PIECES, U)
        tile_pixels = U(tile_images * U(tile_rows * tile_columns))
        for i in range(PIECES):
            p = U(U(warp * U(WARP_PIXELS)) + U(U(16 * i) + a_matrix_row(lane)))
            p = U(p * U(p < tile_pixels))
            image = small_quotient(p, by_tile_image)
            rest = U(p - U(image * U(tile_rows * tile_columns)))
            row = small_quotient(rest, by_tile_columns)
            line = U(U(image * line_rows) + row)
            line = U(U(line * line_columns) + U(rest - U(row * tile_columns)))
            pixel_place[i] = U(line * U(LINE))
        part = ptx.opaque(U(a_matrix_chunk(lane) << 2))
        b_word = U(line_word(b_matrix_row(lane), b_matrix_chunk(lane)))

        taps = U(window_height * window_width)
        steps = U(taps * chunks)
        # Index of the first packed weight of the next step that this thread copies.
        place = U(U(U(column_tile * steps) * U(STEP)) + U(thread * U(4)))
        written, read, copied = U(WEIGHTS), U(WEIGHTS), U(0)
        for _ in range(AHEAD):
            if copied < steps:
                for k in range(STEP_COPIES):
                    where = U(U(written + U(thread * U(4))) + U(4 * THREADS * k))
                    ptx.copy_async_16(shared, where, packed, U(place + U(4 * THREADS * k)), U(16))
            ptx.copy_async_commit()
            copied = U(copied + U(1))
            place = U(place + U(STEP))
            written = U(written + U(STEP))

        own_line, own_term = U(thread // U(ACROSS_LINE)), U(U(thread % U(ACROSS_LINE)) * U(4))
        # The four channels that this thread copies are a 16-byte chunk of a line in tf32, and half
        # a chunk in bfloat16.
        own_chunk, own_word = U(own_term >> 2), U(0)
        if BFLOAT16:
            own_chunk, own_word = U(own_term >> 3), U(U(own_term & 4) >> 1)

        for chunk in range(chunks):
            if chunk > 0:
                # After this barrier no warp reads the lines of the previous chunk of channels, so
                # they can be overwritten.
                cuda.syncthreads()
            term = U(U(U(chunk) * U(TERMS)) + own_term)
            for begin in range(U(0), lines, U(TOGETHER)):
                values = cuda.local.array((FLYING, 4), U)
                masks = cuda.local.array((FLYING, 4), U)
                for k in range(FLYING):
                    line = U(U(U(begin) + own_line) + U(COPIED * k))
                    image = small_quotient(line, by_line_image)
                    rest = U(line - U(image * U(line_rows * line_columns)))
                    row = small_quotient(rest, by_line_columns)
                    # A negative row is a huge unsigned number, so one comparison checks both
                    # bounds.
                    y = U(U(row + first_row) - top)
                    x = U(U(U(rest - U(row * line_columns)) + first_column) - left)
                    image = U(image + first_image)
                    inside = (y < source_height) & (x < source_width) & (image < images)
                    valid = U(inside & (line < lines) & (term < depth))
                    from_ = U(U(U(image * source_height) + y) * source_width)
                    from_ = U(U(U(U(from_ + x) * depth) + term) * valid)
                    v = ptx.load4_if(source, from_, valid)
                    for e in range(4):
                        values[k, e] = v[e]
                    if MASKED:
                        v = ptx.load4_if(mask, from_, valid)
                        for e in range(4):
                            masks[k, e] = v[e]
                for k in range(FLYING):
                    if MASKED:
                        for e in range(4):
                            values[k, e] = ptx.where_positive(masks[k, e], values[k, e])
                    line = U(U(U(begin) + own_line) + U(COPIED * k))
                    where = U(line_word(line, own_chunk) + own_word)
                    end_copies(shared, where, values, k, BFLOAT16)

            # One barrier per step (tap) is enough. Before it, each thread waits for its own copies,
            # so after it the lines and the weights of this step are visible. After it, no warp
            # reads the weights of the previous step, which are overwritten next. Every step commits
            # a group of copies, even an empty one, so the number of pending groups is constant.
            tap_row, tap_column = U(0), U(0)
            for _tap in range(taps):
                ptx.copy_async_wait(PENDING)
                cuda.syncthreads()
                if written == U(END):
                    written = U(WEIGHTS)
                if copied < steps:
                    for k in range(STEP_COPIES):
                        where = U(U(written + U(thread * U(4))) + U(4 * THREADS * k))
                        ptx.copy_async_16(
                            shared, where, packed, U(place + U(4 * THREADS * k)), U(16)
                        )
                ptx.copy_async_commit()
                copied = U(copied + U(1))
                place = U(place + U(STEP))
                written = U(written + U(STEP))

                further = U(U(U(tap_row * row_dilation) * line_columns))
                further = U(U(further + U(tap_column * column_dilation)) * U(LINE))
                a_word = cuda.local.array(PIECES, U)
                for i in range(PIECES):
                    a_word[i] = place_word(U(pixel_place[i] + further), part)
                # These calls are not in a loop, because the compiler would not unroll it.
                add_terms(shared, sums, a, b, a_word, U(read + b_word), 0, BFLOAT16)
                add_terms(shared, sums, a, b, a_word, U(read + b_word), 1, BFLOAT16)
                add_terms(shared, sums, a, b, a_word, U(read + b_word), 2, BFLOAT16)
                add_terms(shared, sums, a, b, a_word, U(read + b_word), 3, BFLOAT16)

                read = U(read + U(STEP))
                if read == U(END):
                    read = U(WEIGHTS)
                tap_column = U(tap_column + U(1))
                if tap_column == window_width:
                    tap_column = U(0)
                    tap_row = U(tap_row + U(1))

        column = U(U(column_tile * U(COLUMNS)) + U(2 * fragment_column(lane)))
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
                p = U(U(warp * U(WARP_PIXELS)) + U(U(16 * i + 8 * half) + fragment_row(lane)))
                image = small_quotient(p, by_tile_image)
                rest = U(p - U(image * U(tile_rows * tile_columns)))
                row = small_quotient(rest, by_tile_columns)
                x = U(U(rest - U(row * tile_columns)) + first_column)
                y = U(row + first_row)
                image = U(image + first_image)
                stored = (y < target_height) & (x < target_width) & (image < images)
                stored = stored & (p < tile_pixels)
                to = U(U(U(U(U(image * target_height) + y) * target_width) + x) * columns)
                for j in range(ACROSS):
                    n = U(column + U(8 * j))
                    v0, v1 = sums[i, j, 2 * half], sums[i, j, 2 * half + 1]
                    ptx.store2_if(target, U(to + n), v0, v1, U(stored & (n < columns)))

    return _halo_kernel
