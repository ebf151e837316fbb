"""Which register tile: positions x vectors x lanes, chosen for a shape so that little is wasted."""

from __future__ import annotations

from cnnforge_kernels.cpu.compiled import cached_njit, vector_lanes, vector_registers

MOST_LANES = vector_lanes()
_REGISTERS = vector_registers()
MOST_POSITIONS = 28
MOST_ACCUMULATORS = _REGISTERS - 4
_MOST_VECTORS = 4 if _REGISTERS == 32 else 2
TILES = MOST_POSITIONS * 4 * 5


def tile_of_number(number: int) -> tuple[int, int, int, int]:
    """The (positions, vectors, lanes, pairs) of a tile's number, 0 to ``TILES - 1``."""
    positions = number % MOST_POSITIONS + 1
    vectors = number // MOST_POSITIONS % 4 + 1
    kind = number // (4 * MOST_POSITIONS)
    return (
        (positions, vectors, 4 << kind, 1) if kind < 3 else (positions, vectors, 4 << kind - 2, 2)
    )


@cached_njit()
def tile_number(positions: int, vectors: int, lanes: int, pairs: int) -> int:
    """The number of a tile, the inverse of ``tile_of_number``."""
    kind = 0 if lanes == 4 else 1 if lanes == 8 else 2
    if pairs == 2:
        kind += 2
    return positions - 1 + MOST_POSITIONS * (vectors - 1 + 4 * kind)


@cached_njit()
def choose_tile(positions: int, filters: int) -> tuple[int, int, int, int]:
    """The tile (positions, vectors, lanes, pairs) for ``positions`` outputs by ``filters`` filters.

    All accumulators, one row of weights and one splat fit the registers; then the positions (and
    the filters) are cut into equal parts, because the last tile of a row is moved back to fit.
    Filters that fill half a register or less share it between two positions, so that a tile covers
    ``positions * pairs`` neighbours: of an odd number, one more than there are.
    """
    lanes = MOST_LANES
    while lanes > 4 and filters <= lanes // 2:
        lanes //= 2
    needed = (filters + lanes - 1) // lanes
    blocks = (needed + _MOST_VECTORS - 1) // _MOST_VECTORS
    vectors = (needed + blocks - 1) // blocks
    most = min((_REGISTERS - 2 - vectors) // vectors, MOST_POSITIONS)
    if lanes < MOST_LANES and positions > 1:
        parts = (positions + 2 * most - 1) // (2 * most)
        return (positions + 2 * parts - 1) // (2 * parts), 1, 2 * lanes, 2
    parts = (positions + most - 1) // most
    return (positions + parts - 1) // parts, vectors, lanes, 1
