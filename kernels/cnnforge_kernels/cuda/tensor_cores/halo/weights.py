"""Tensor-core kernel of the gradient of the weights without strides, with tiles in shared memory.

Experimental: not yet run on a device.

As in ``halo/convolution.py``, a pixel of the inputs is copied and rounded once for all taps of the
window. The tiles of pixels are cut into slices. A block sums up to nine taps of 64 channels by 64
filters, over the tiles of one slice. That is at most 144 sums for each of its 256 threads.
``conv/reduce.py`` adds the sums of the slices. While the block multiplies one tile, it copies the
next tile in quarters: it starts the loads of a quarter before two steps of products, and stores the
loaded values after them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.tensor_cores import layout
from cnnforge_kernels.cuda.tensor_cores.convolution import Precision
from cnnforge_kernels.cuda.tensor_cores.halo import layout as halo_layout
from cnnforge_kernels.cuda.tensor_cores.halo.fragments import (
    ACROSS,
    CHANNELS,
    COPIED,
    FILTERS,
    NOWHERE,
    QUARTERS,
    SIZES,
    STEPS,
    TAPS,
    THREADS,
    begin_copies,
    end_copies,
    multiply_turned,
)
from cnnforge_kernels.cuda.tensor_cores.layout import U, inlined

small_quotient = inlined(halo_layout.small_quotient)
fragment_row = inlined(layout.fragment_row)
fragment_column = inlined(layout.fragment_column)

PARAMETERS = (
    *("images", "height", "width", "channels", "output_height", "output_width", "filters"),
    *("channel_tiles", "filter_tiles", "tile_images", "tile_rows", "tile_columns"),
    *("tiles_down", "tiles_across", "tiles", "tiles_per_slice"),
    *("taps", "window_width", "row_dilation", "column_dilation", "top", "left"),
    *("line_rows", "line_columns", "lines"),
    *("by_line_image", "by_line_columns", "by_tile_image", "by_tile_columns"),
    *("slice_stride", "bias_start"),
)


@cache
def halo_grad_weights(precision: Precision, masked: bool) -> Kernel:
    """Make the kernel for a precision of the operands.

    Its arguments are inputs, grad_outputs, mask, and the arrays of partial sums of grad_weights and
    of grad_bias; then the numbers that ``PARAMETERS`` names. The partial sums of consecutive slices
    are ``slice_stride`` floats apart. ``halo_convolution`` and
    ``tensor_cores/weights.py`` explain the other numbers. ``blockIdx.x`` is the index of a group of
    nine taps, a tile of channels and a tile of filters. ``blockIdx.y`` is the index of the slice.

    Args:
        precision: Precision of the operands. Sums are float32, and the gradient of the bias is a
            sum of values that are not rounded.
        masked: Whether values of grad_outputs count only if the mask is positive.
    """
    BFLOAT16, MASKED = precision == "bfloat16", masked
    sizes = SIZES[precision]
    LINE, LINES, TOTAL, STEP = sizes.line, sizes.lines, sizes.total, sizes.step
    BUFFER, TABLE = TOTAL * LINE, 2 * TOTAL * LINE
    ENTRIES = sizes.table // (2 * THREADS)
    # Number of pixels of the inputs, and of grad_outputs, that a thread copies in one quarter of a
    # tile.
    FROM_INPUTS = -(-LINES // (COPIED * QUARTERS))
    FROM_GRADS = sizes.pixels // (COPIED * QUARTERS)
    FLYING = FROM_INPUTS + FROM_GRADS

    @kernel(
        f"conv2d_grad_weights {precision} halo{' masked' if masked else ''}",
        *("float32*",) * 5,
        *("uint32",) * len(PARAMETERS),
        threads=THREADS,
        blocks=1,
        dynamic_shared=4 * sizes.shared,
        since=(8, 0),
        identity=(precision, masked),
    )
    def _halo_grad_weights_kernel(
        inputs: Any,
        grads: Any,
        mask: Any,
        partial_weights: Any,
        partial_bias: Any,
        images: Any,
        height: Any,
        width: Any,
        channels: Any,
        output_height: Any,
        output_width: Any,
        filters: Any,
        channel_tiles: Any,
        filter_tiles: Any,
        tile_images: Any,
        tile_rows: Any,
        tile_columns: Any,
        tiles_down: Any,
        tiles_across: Any,
        tiles: Any,
        tiles_per_slice: Any,
        taps: Any,
        window_width: Any,
        row_dilation: Any,
        column_dilation: Any,
        top: Any,
        left: Any,
        line_rows: Any,
        line_columns: Any,
        lines: Any,
        by_line_image: Any,
        by_line_columns: Any,
        by_tile_image: Any,
        by_tile_columns: Any,
        slice_stride: Any,
        bias_start: Any,
    ) -> None:
        thread = U(cuda.threadIdx.x)
        lane, warp = U(thread & 31), U(thread >> 5)
        block = U(cuda.blockIdx.x)
        rest = U(block // filter_tiles)
        first_filter = U(U(block - U(rest * filter_tiles)) * U(FILTERS))
        tap_group = U(rest // channel_tiles)
        first_channel = U(U(rest - U(tap_group * channel_tiles)) * U(CHANNELS))
        slice_ = U(cuda.blockIdx.y)
        begin = U(slice_ * tiles_per_slice)
        end = U(begin + tiles_per_slice)
        if end > tiles:
            end = tiles

        shared = cuda.shared.array(0, U, alignment=128)
        sums = cuda.local.array((TAPS, ACROSS, 4), np.float32)
        a = cuda.local.array(4, U)
        b = cuda.local.array((ACROSS, 2), U)
        bias = cuda.local.array(4, np.float32)
        values = cuda.local.array((FLYING, 4), U)
        masks = cuda.local.array((FROM_GRADS, 4), U)
        source = cuda.local.array(4, U)
        target = cuda.local.array(4, U)
        for i in range(TAPS):
            for j in range(ACROSS):
                for r in range(4):
                    sums[i, j, r] = np.float32(0)
        for e in range(4):
            bias[e] = np.float32(0)

        tile_pixels = U(tile_images * U(tile_rows * tile_columns))
        # Write a table of the pixels that are copied for a tile: those of the inputs, then those of
        # grad_outputs.
        # An entry has two words: the position in the tile, and the offset in the array from the
        # first element of the tile.
        for k in range(ENTRIES):
            place = U(thread + U(THREADS * k))
            second = U(place >= U(LINES))
            first = U(U(1) - second)
            p = U(place - U(second * U(LINES)))
            rows_across = U(U(first * line_columns) + U(second * tile_columns))
            pixels_of_image = U(U(first * U(line_rows * line_columns)))
            pixels_of_image = U(pixels_of_image + U(second * U(tile_rows * tile_columns)))
            used = U(U(first * lines) + U(second * tile_pixels))
            image = small_quotient(p, U(U(first * by_line_image) + U(second * by_tile_image)))
            rest = U(p - U(image * pixels_of_image))
            row = small_quotient(rest, U(U(first * by_line_columns) + U(second * by_tile_columns)))
            column = U(rest - U(row * rows_across))
            down = U(U(first * height) + U(second * output_height))
            across = U(U(first * width) + U(second * output_width))
            each = U(U(first * channels) + U(second * filters))
            where = U(U(U(U(U(image * down) + row) * across) + column) * each)
            word = U(U(row + U(column << 8)) + U(image << 16))
            word = U(word + U(U(p >= used) * U(NOWHERE)))
            ptx.store2_shared(shared, U(U(TABLE) + U(place * U(2))), word, where)
        cuda.syncthreads()

        # This thread always copies the same four channels and the same four filters.
        quad, own = U(thread & 15), U(thread >> 4)
        own_channel = U(first_channel + U(quad * U(4)))
        own_filter = U(first_filter + U(quad * U(4)))
        own_word = U(U(own * U(LINE)) + U(quad * U(2 if BFLOAT16 else 4)))
        no_channels = U(U(own_channel >= channels) * U(NOWHERE))
        no_filters = U(U(own_filter >= filters) * U(NOWHERE))

        # Distance in words from the lines that the first tap reads to those that tap i reads.
        further = cuda.local.array(TAPS, U)
        for i in range(TAPS):
            tap = U(U(tap_group * U(TAPS)) + U(i))
            tap = U(tap * U(tap < taps))
            row = U(tap // window_width)
            column = U(U(tap - U(row * window_width)) * column_dilation)
            further[i] = U(U(U(U(row * row_dilation) * line_columns) + column) * U(LINE))

        # The pixel, first channel and first filter that this thread loads in a step.
        g, q = U(fragment_row(lane)), U(fragment_column(lane))
        channel_part, filter_part = U(warp >> 1), U(warp & 1)
        if BFLOAT16:
            a_pixel = U(U(lane & 7) + U(U(lane >> 4) << 3))
            b_pixel = U(U(lane & 7) + U(U(U(lane >> 3) & 1) << 3))
            a_word = U(U(channel_part << 3) + U(U(U(lane >> 3) & 1) << 2))
            b_word = U(U(filter_part << 4) + U(U(lane >> 4) << 2))
        else:
            a_pixel, b_pixel = U(q * U(2)), U(q * U(2))
            a_word, b_word = U(U(channel_part << 4) + g), U(U(filter_part << 5) + g)
        b_word = U(b_word + U(U(U(LINES) + b_pixel) * U(LINE)))

        buffer = U(0)
        # Round 0 copies the first tile. Round t multiplies the tile that round t - 1 copied.
        for t in range(U(U(end - begin) + U(1))):
            tile = U(begin + U(t))
            down = U(tile // tiles_across)
            target[1] = U(U(tile - U(down * tiles_across)) * tile_columns)
            group = U(down // tiles_down)
            target[0] = U(U(down - U(group * tiles_down)) * tile_rows)
            image = U(group * tile_images)
            nothing = U(U(tile >= end) * U(NOWHERE))
            target[2] = U(image | U(nothing | no_filters))
            where = U(U(U(image * output_height) + target[0]) * output_width)
            target[3] = U(U(U(where + target[1]) * filters) + own_filter)
            source[0], source[1] = U(target[0] - top), U(target[1] - left)
            source[2] = U(image | U(nothing | no_channels))
            where = U(U(U(image * height) + source[0]) * width)
            source[3] = U(U(U(where + source[1]) * channels) + own_channel)
            other = U(U(BUFFER) - buffer)

            for quarter in range(QUARTERS):
                place = U(U(quarter) * U(COPIED * FROM_INPUTS))
                after = U(U(U(quarter) * U(COPIED * FROM_GRADS)) + U(LINES))
                entry = U(U(TABLE) + U(own * U(2)))
                for k in range(FROM_INPUTS):
                    if U(place + U(COPIED * k)) < U(LINES):
                        at = U(entry + U(U(place + U(COPIED * k)) * U(2)))
                        begin_copies(shared, at, inputs, source, height, width, images, values, k)
                for k in range(FROM_GRADS):
                    at = U(entry + U(U(after + U(COPIED * k)) * U(2)))
                    begin_copies(
                        shared,
                        at,
                        grads,
                        target,
                        output_height,
                        output_width,
                        images,
                        values,
                        FROM_INPUTS + k,
                    )
                    if MASKED:
                        begin_copies(
                            shared,
                            at,
                            mask,
                            target,
                            output_height,
                            output_width,
                            images,
                            masks,
                            k,
                        )
                if t > 0:
                    for step in range(STEPS):
                        first = U(U(U(U(quarter) * U(STEPS)) + U(step)) * U(STEP))
                        if first < tile_pixels:
                            p = U(first + a_pixel)
                            image = small_quotient(p, by_tile_image)
                            rest = U(p - U(image * U(tile_rows * tile_columns)))
                            row = small_quotient(rest, by_tile_columns)
                            line = U(U(U(image * line_rows) + row) * line_columns)
                            line = U(line + U(rest - U(row * tile_columns)))
                            near = U(U(U(line * U(LINE)) + a_word) + buffer)
                            b_at = U(U(U(first * U(LINE)) + b_word) + buffer)
                            multiply_turned(shared, sums, a, b, near, further, b_at, LINE, BFLOAT16)
                where = U(own_word + other)
                for k in range(FROM_INPUTS):
                    if U(place + U(COPIED * k)) < U(LINES):
                        at = U(where + U(U(place + U(COPIED * k)) * U(LINE)))
                        end_copies(shared, at, values, k, BFLOAT16)
                for k in range(FROM_GRADS):
                    for e in range(4):
                        if MASKED:
                            values[FROM_INPUTS + k, e] = ptx.where_positive(
                                masks[k, e], values[FROM_INPUTS + k, e]
                            )
                        bias[e] += ptx.as_float(values[FROM_INPUTS + k, e])
                    at = U(where + U(U(after + U(COPIED * k)) * U(LINE)))
                    end_copies(shared, at, values, FROM_INPUTS + k, BFLOAT16)
            # After this barrier the next tile is complete, and no thread reads the current tile.
            cuda.syncthreads()
            buffer = other

        part = U(slice_ * slice_stride)
        column = U(U(first_filter + U(filter_part * U(8 * ACROSS))) + U(q * U(2)))
        for i in range(TAPS):
            tap = U(U(tap_group * U(TAPS)) + U(i))
            for half in range(2):
                c = U(U(first_channel + U(channel_part << 4)) + U(U(8 * half) + g))
                stored = (tap < taps) & (c < channels)
                to = U(part + U(U(U(tap * channels) + c) * filters))
                for j in range(ACROSS):
                    n = U(column + U(8 * j))
                    v0, v1 = sums[i, j, 2 * half], sums[i, j, 2 * half + 1]
                    ptx.store2_if(partial_weights, U(to + n), v0, v1, U(stored & (n < filters)))

        if block < filter_tiles:
            # Only one of the blocks that share these filters writes the gradient of the bias.
            w0, w1 = ptx.as_bits(bias[0]), ptx.as_bits(bias[1])
            w2, w3 = ptx.as_bits(bias[2]), ptx.as_bits(bias[3])
            ptx.store4_shared(shared, U(thread * U(4)), w0, w1, w2, w3)
            cuda.syncthreads()
            total = np.float32(0)
            for k in range(COPIED):
                total += ptx.as_float(shared[U(U(thread & 63) + U(64 * k))])
            n = U(first_filter + U(thread & 63))
            valid = U((thread < U(FILTERS)) & (n < filters))
            ptx.store_if(partial_bias, U(U(part + bias_start) + n), total, valid)

    return _halo_grad_weights_kernel
