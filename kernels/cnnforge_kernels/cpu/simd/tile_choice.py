"""Choose the register tile for a shape, positions x vectors x lanes, so that little is wasted."""

from __future__ import annotations

from cnnforge_kernels.cpu.runtime.compiled import cached_njit, vector_lanes, vector_registers

MAX_LANES = vector_lanes()
_REGISTERS = vector_registers()
MAX_POSITIONS = 28
MAX_ACCUMULATORS = _REGISTERS - 4
# Multiply-adds that begin before the first one ends: 4 cycles, 2 in a cycle.
_LATENCY = 8
# Positions of a tile that reads whole pixels: each needs an address in one of 16 registers.
_MAX_PIXELS = 8
_MAX_VECTORS = 4 if _REGISTERS == 32 else 2
TILES = MAX_POSITIONS * 4 * 5
# Neighbouring taps that a micro-kernel may take in one step.
WINDOWS = (1, 2, 3, 5, 7)


def tile_of_number(number: int) -> tuple[int, int, int, int]:
    """Return the (positions, vectors, lanes, pairs) of a tile's number, 0 to ``TILES - 1``."""
    positions = number % MAX_POSITIONS + 1
    vectors = number // MAX_POSITIONS % 4 + 1
    kind = number // (4 * MAX_POSITIONS)
    return (
        (positions, vectors, 4 << kind, 1) if kind < 3 else (positions, vectors, 4 << kind - 2, 2)
    )


@cached_njit()
def tile_number(positions: int, vectors: int, lanes: int, pairs: int) -> int:
    """Return the number of a tile, the inverse of ``tile_of_number``."""
    kind = 0 if lanes == 4 else 1 if lanes == 8 else 2
    if pairs == 2:
        kind += 2
    return positions - 1 + MAX_POSITIONS * (vectors - 1 + 4 * kind)


@cached_njit()
def window_number(window: int) -> int:
    """Return the number of a window in ``WINDOWS``."""
    for number in range(len(WINDOWS)):
        if WINDOWS[number] == window:
            return number
    return 0


@cached_njit()
def longest_window(taps: int) -> int:
    """Return the largest of ``WINDOWS`` that divides ``taps``."""
    longest = 1
    for window in WINDOWS:
        if taps % window == 0:
            longest = window
    return longest


@cached_njit()
def in_planes(vectors: int, pairs: int) -> bool:
    """Return whether a tile reads its positions from planes, in which they are neighbouring floats.

    Pairs need planes. Otherwise a tile of several vectors reads whole pixels: it loads few values,
    so that their longer addresses cost nothing, and pixels are copied faster than planes.
    """
    return vectors == 1 or pairs == 2


@cached_njit()
def _cost(rows: int, tile: int, vectors: int, pairs: int, window: int) -> int:
    """Return the cost of a step of the micro-kernel for each tap; 0 if the registers are too few.

    The unit is 1/24 of a multiply-add of one vector. Two multiply-adds begin in a cycle, and up to
    two loads: measured, a load weighs a third more. A sum is ready after four cycles. If two tiles
    cost the same, the one with fewer loads is a little better.
    """
    sums = rows * tile * vectors
    if sums + vectors * window + 2 > _REGISTERS:
        return 0
    loads = tile
    if window > 1 and pairs == 1:
        loads = tile + window - 1
    elif window > 1:
        loads = 2 * tile + window - 2  # odd steps need other pairs
    loads = rows * loads + vectors * window
    bound = max(24 * sums, 32 * loads // window, 24 * _LATENCY)
    return bound + loads // window


@cached_njit()
def choose_tile(
    positions: int, filters: int, window: int, rows: int, planes: bool
) -> tuple[int, int, int, int, int]:
    """Choose the tile for ``positions`` outputs of a row by ``filters`` filters.

    All accumulators, the weights of a step and one splat fit the registers. The last tile of a row
    is moved back to fit, so the positions (and the filters) are cut into equal parts. If filters
    fill half a register or less, two positions share it, so that a tile covers
    ``positions * pairs`` neighbours, with an odd number one more than there are.

    Args:
        positions: outputs of a row.
        filters: filters of a group.
        window: neighbouring taps that may be one step; 1 if each tap is a step.
        rows: 2 if a tile must have two rows of whole 2x2 windows, else 1.
        planes: whether positions lie in planes if ``in_planes``; else they lie in pixels.

    Returns:
        (positions, vectors, lanes, pairs, window).
    """
    lanes = MAX_LANES
    while lanes > 4 and filters <= lanes // 2:
        lanes //= 2
    needed = (filters + lanes - 1) // lanes
    pairs = 2 if lanes < MAX_LANES and positions > 1 else 1
    lanes *= pairs
    unit = 2 if rows == 2 and pairs == 1 else 1
    units = (positions + pairs * unit - 1) // (pairs * unit)
    best, tile, vectors, taken = 0, unit, 1, 1
    for columns in range(1, min(needed, _MAX_VECTORS) + 1):
        blocks = (needed + columns - 1) // columns
        for wide in range(2):
            step = window if wide == 1 else 1
            parts = 0
            while parts < units:
                parts += 1
                cut = (units + parts - 1) // parts * unit
                if cut > (MAX_POSITIONS if planes and in_planes(columns, pairs) else _MAX_PIXELS):
                    continue
                cost = parts * blocks * _cost(rows, cut, columns, pairs, step)
                # Of tiles with the same cost take the one with more filters: it loads less.
                better = best == 0 or cost < best or (cost == best and columns > vectors)
                if cost > 0 and better:
                    best, tile, vectors, taken = cost, cut, columns, step
    return tile, vectors, lanes, pairs, taken
