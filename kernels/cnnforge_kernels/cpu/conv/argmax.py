"""What a pooled gradient tells: for each filter of a cell, a factor, and where the winner lies."""

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

NO_WINNER = 255  # the ReLU let nothing through: no cell of the window has a gradient
# Filters that are read at a time; the lists have this multiple of them.
WINNER_LANES = 8


@cached_njit(inline="never")
def list_winners(
    gradient: int,
    winners: int,
    step: int,
    filters: int,
    bases: Any,
    filter_step: int,
    cells: Any,
    factors: int,
    places: int,
    total: int,
) -> None:
    """Write, for each pooled pixel and filter, the gradient and the place of the winning cell.

    Args:
        gradient: address of the first pixel's gradients, float32.
        winners: address of its winners, bytes.
        step: values from a pixel to the next, in both.
        filters: number of filters.
        bases: (pixels,) int64, what the places of a pixel begin at.
        filter_step: what is added for each filter.
        cells: (cells of a window,) int64, what is added for each cell.
        factors: address of (pixels, filters) float32, written: zero where nothing won. The filters
            are rounded up to ``WINNER_LANES``.
        places: address of as many int32, written; of a filter where nothing won, any cell's.
        total: address of (filters,) float32, rounded up, to which the gradients are added.
    """
    padded = (filters + WINNER_LANES - 1) // WINNER_LANES * WINNER_LANES
    for f in range(0, filters, WINNER_LANES):
        valid = filters - f
        sums = vector_load(total + 4 * f, WINNER_LANES, WINNER_LANES)
        for pixel in range(bases.size):
            at = pixel * step + f
            value = vector_load(gradient + 4 * at, valid, WINNER_LANES)
            winner = index_load(winners + at, valid, 1, WINNER_LANES)
            value = vector_where_not(winner, NO_WINNER, value)
            sums = vector_add(sums, value)
            place = index_splat(cells[0], WINNER_LANES)
            for cell in range(1, cells.size):
                place = index_where_equal(winner, cell, cells[cell], place)
            first = bases[pixel] + f * filter_step
            place = index_add(place, index_ramp(first, filter_step, WINNER_LANES))
            to = 4 * (pixel * padded + f)
            vector_store(value, factors + to, WINNER_LANES)
            index_store(place, places + to, WINNER_LANES, 4)
        vector_store(sums, total + 4 * f, WINNER_LANES)
