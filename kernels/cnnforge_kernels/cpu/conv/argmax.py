"""List a factor and an address for each pooled pixel and filter, from a pooled gradient.

The pooled gradient is the gradient of the outputs of a max pool. The factor is the value of this
gradient. The address, called *place*, is the byte offset of the values that the factor multiplies.
The place depends on the argmax, which is the index of the maximum in the pool window.
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

# The argmax if the maximum is not positive: the ReLU is off, so no cell of the window has a
# gradient.
NO_CELL = 255
# The number of filters that are read at a time. In the lists, the number of filters of each pixel
# is rounded up to a multiple of this number.
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
        step: number of values from a pixel to the next, both in the gradients and in the argmax.
        filters: number of filters.
        bases: (pixels,) int64, part of the place that depends on the pixel.
        filter_step: difference of the places of two neighbouring filters.
        cells: (cells of a window,) int64, part of the place that depends on the cell.
        factors: address of (pixels, filters) float32, written: the gradients, or zero if no cell
            has a gradient. Here the filters are rounded up to a multiple of ``ARGMAX_LANES``.
        places: address of int32 with the same axes, written: the place, which is the sum of the
            parts for the pixel, the filter and the cell. If no cell has a gradient, the first cell
            is used, because the factor is zero.
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
