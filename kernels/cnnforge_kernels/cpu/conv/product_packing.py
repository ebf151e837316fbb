"""Pack columns of matrices for the gradient of a product's weights (``product_weights.py``)."""

from __future__ import annotations

from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.runtime.memory import load_int64
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_load,
    vector_store,
    vector_where_positive,
)


@cached_njit(inline="never")
def pack_columns(
    target: int,
    width: int,
    source: int,
    mask: int,
    places: int,
    count: int,
    columns: int,
    each: int,
) -> None:
    """Copy ``columns`` neighbouring floats of each of ``count`` pixels.

    The packed floats have the axes (block, pixel, column). A block has ``each`` of the columns, and
    has zeros up to ``width`` floats.

    Args:
        target: address of the packed floats.
        width: number of floats of a packed pixel.
        source: address of the first pixel.
        mask: address of a ReLU's outputs, or 0. If it is not 0, values whose output is not positive
            become zero.
        places: address of the int64 byte offset of each pixel from ``source`` and ``mask``.
        count: number of pixels.
        columns: number of columns.
        each: number of columns of a block.
    """
    block_bytes = 4 * count * width
    for pixel in range(count):
        offset = load_int64(places + 8 * pixel)
        here = target + 4 * pixel * width
        for first in range(0, columns, each):
            valid = min(each, columns - first)
            at = source + offset + 4 * first
            c = 0
            if mask == 0:
                while c + 16 <= valid:
                    vector_store(vector_load(at + 4 * c, 16, 16), here + 4 * c, 16)
                    c += 16
            while c < width:
                value = vector_load(at + 4 * c, valid - c, 8)
                if mask != 0:
                    gate = vector_load(mask + offset + 4 * (first + c), valid - c, 8)
                    value = vector_where_positive(gate, value)
                vector_store(value, here + 4 * c, width - c)
                c += 8
            here += block_bytes


@cached_njit(inline="never")
def add_columns(sums: int, packed: int, blocks: int, width: int, used: int, count: int) -> None:
    """Add the sum of each packed column over ``count`` pixels to ``sums``.

    ``sums`` and ``packed`` are addresses. Each of the ``blocks`` packed blocks has ``used`` columns
    in ``width`` floats.
    """
    for block in range(blocks):
        for c in range(0, used, 8):
            valid = used - c
            place = sums + 4 * (block * used + c)
            total = vector_load(place, valid, 8)
            at = packed + 4 * (block * count * width + c)
            for pixel in range(count):
                total = vector_add(total, vector_load(at + 4 * pixel * width, valid, 8))
            vector_store(total, place, valid)
