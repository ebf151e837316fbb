"""Turn a pooled gradient into two lists, which have a factor and an address per pixel and filter.

The factor is the gradient. The address, called *place*, is a byte offset that depends on the cell
of the window that was the maximum.
"""

from __future__ import annotations

from typing import Any

from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.simd.vectors import (
    index_add,
    index_load,
    index_ramp,
    index_splat,
    index_store,
    index_where_equal,
    vector_add,
    vector_load,
    vector_store,
    vector_where_not,
)

NO_CELL = 255  # the ReLU is off: no cell of the window has a gradient
# The number of filters that are read at a time. The lists have a multiple of it for each pixel.
ARGMAX_LANES = 8


@cached_njit(inline="never")
def list_maxima(
    gradient: int,
    argmax: int,
    step: int,
    filters: int,
    bases: Any,
    filter_step: int,
    cells: Any,
    factors: int,
    places: int,
    total: int,
) -> None:
    """Write the gradient and the place of the maximum for each pooled pixel and filter.

    Args:
        gradient: address of the first pixel's gradients, float32.
        argmax: address of the first pixel's argmax, bytes.
        step: number of values from a pixel to the next, of the gradients and of the argmax.
        filters: number of filters.
        bases: (pixels,) int64, part of the place that depends on the pixel.
        filter_step: difference of the places of two neighbouring filters.
        cells: (cells of a window,) int64, part of the place that depends on the cell.
        factors: address of (pixels, filters) float32, written: the gradients, or zero if no cell
            has a gradient. Here the filters are rounded up to a multiple of ``ARGMAX_LANES``.
        places: address of as many int32, written: the sum of the three parts of a place. If the
            factor is zero, it is the place of any cell.
        total: address of (filters,) float32, rounded up as above, to which the gradients are added.
    """
    padded = (filters + ARGMAX_LANES - 1) // ARGMAX_LANES * ARGMAX_LANES
    for f in range(0, filters, ARGMAX_LANES):
        valid = filters - f
        sums = vector_load(total + 4 * f, ARGMAX_LANES, ARGMAX_LANES)
        for pixel in range(bases.size):
            at = pixel * step + f
            value = vector_load(gradient + 4 * at, valid, ARGMAX_LANES)
            maxima = index_load(argmax + at, valid, 1, ARGMAX_LANES)
            value = vector_where_not(maxima, NO_CELL, value)
            sums = vector_add(sums, value)
            place = index_splat(cells[0], ARGMAX_LANES)
            for cell in range(1, cells.size):
                place = index_where_equal(maxima, cell, cells[cell], place)
            first = bases[pixel] + f * filter_step
            place = index_add(place, index_ramp(first, filter_step, ARGMAX_LANES))
            to = 4 * (pixel * padded + f)
            vector_store(value, factors + to, ARGMAX_LANES)
            index_store(place, places + to, ARGMAX_LANES, 4)
        vector_store(sums, total + 4 * f, ARGMAX_LANES)
