"""Which register tile: positions x vectors x lanes, chosen for a shape so that little is wasted."""

from __future__ import annotations

from cnnforge_kernels.cpu.compiled import cached_njit, vector_lanes, vector_registers

MOST_LANES = vector_lanes()
_REGISTERS = vector_registers()
MOST_POSITIONS = 28
MOST_VECTORS_OF_TAPS = _REGISTERS - 4  # accumulators of one filter's taps
_MOST_VECTORS = 4 if _REGISTERS == 32 else 2
TILES = MOST_POSITIONS * 4 * 3


def tile_of_number(number: int) -> tuple[int, int, int]:
    """The (positions, vectors, lanes) of a tile's number, 0 to ``TILES - 1``."""
    positions = number % MOST_POSITIONS + 1
    vectors = number // MOST_POSITIONS % 4 + 1
    return positions, vectors, 4 << (number // (4 * MOST_POSITIONS))


@cached_njit()
def tile_number(positions: int, vectors: int, lanes: int) -> int:
    """The number of a tile, the inverse of ``tile_of_number``."""
    width = 0 if lanes == 4 else 1 if lanes == 8 else 2
    return positions - 1 + MOST_POSITIONS * (vectors - 1 + 4 * width)


@cached_njit()
def choose_tile(positions: int, filters: int) -> tuple[int, int, int]:
    """The tile for ``positions`` neighbouring outputs by ``filters`` filters.

    All accumulators, one row of weights and one splat fit the registers; then the positions (and
    the filters) are cut into equal parts, because the last tile of a row is moved back to fit.
    """
    lanes = MOST_LANES
    while lanes > 4 and filters <= lanes // 2:
        lanes //= 2
    needed = (filters + lanes - 1) // lanes
    blocks = (needed + _MOST_VECTORS - 1) // _MOST_VECTORS
    vectors = (needed + blocks - 1) // blocks
    most = min((_REGISTERS - 2 - vectors) // vectors, MOST_POSITIONS)
    parts = (positions + most - 1) // most
    return (positions + parts - 1) // parts, vectors, lanes
