"""Which register tile: positions x vectors x lanes, chosen for a shape so that little is wasted."""

from __future__ import annotations

from cnnforge_kernels.cpu.runtime.compiled import cached_njit, vector_lanes, vector_registers

MOST_LANES = vector_lanes()
_REGISTERS = vector_registers()
MOST_POSITIONS = 28
MOST_ACCUMULATORS = _REGISTERS - 4
# Multiply-adds that are begun before the first is done: 4 cycles, 2 a cycle.
_LATENCY = 8
# Positions of a tile that reads whole pixels: each needs an address, and 16 registers hold them.
_MOST_PIXELS = 8
_MOST_VECTORS = 4 if _REGISTERS == 32 else 2
TILES = MOST_POSITIONS * 4 * 5
# Neighbouring taps that a micro-kernel may take in one step.
WINDOWS = (1, 2, 3, 5, 7)


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
def window_number(window: int) -> int:
    """The number of a window in ``WINDOWS``."""
    for number in range(len(WINDOWS)):
        if WINDOWS[number] == window:
            return number
    return 0


@cached_njit()
def longest_window(taps: int) -> int:
    """The largest of ``WINDOWS`` that divides ``taps``."""
    longest = 1
    for window in WINDOWS:
        if taps % window == 0:
            longest = window
    return longest


@cached_njit()
def in_planes(vectors: int, pairs: int) -> bool:
    """Whether a tile reads its positions as neighbouring floats, from planes, or from pixels.

    Pairs have to. A tile of several vectors loads few values, so that the longer addresses of
    pixels cost nothing, and whole pixels are copied faster than planes.
    """
    return vectors == 1 or pairs == 2


@cached_njit()
def _cost(rows: int, tile: int, vectors: int, pairs: int, window: int) -> int:
    """What a step of the micro-kernel costs for each tap, or 0 where the registers do not hold it.

    In parts of a multiply-add of one vector. Two of them begin in a cycle, and as many loads at the
    best: measured, a load weighs a third more. The accumulators are ready after four cycles. Of
    tiles that cost the same, the one with fewer loads is better by a little.
    """
    sums = rows * tile * vectors
    if sums + vectors * window + 2 > _REGISTERS:
        return 0
    loads = tile
    if window > 1 and pairs == 1:
        loads = tile + window - 1
    elif window > 1:
        loads = 2 * tile + window - 2  # odd steps have pairs of their own
    loads = rows * loads + vectors * window
    bound = max(24 * sums, 32 * loads // window, 24 * _LATENCY)
    return bound + loads // window


@cached_njit()
def choose_tile(
    positions: int, filters: int, window: int, rows: int, planes: bool
) -> tuple[int, int, int, int, int]:
    """The (positions, vectors, lanes, pairs, window) of the tile for some outputs by some filters.

    All accumulators, the weights of a step and one splat fit the registers. The last tile of a row
    is moved back to fit, so the positions (and the filters) are cut into equal parts. Filters
    that fill half a register or less share it between two positions, so that a tile covers
    ``positions * pairs`` neighbours: of an odd number, one more than there are.

    Args:
        positions: outputs of a row.
        filters: of a group.
        window: neighbouring taps that may be one step; 1 where they may not.
        rows: 2 where a tile is to have two rows of whole 2x2 windows, else 1.
        planes: whether positions lie in planes where ``in_planes`` asks for it; else in pixels.
    """
    lanes = MOST_LANES
    while lanes > 4 and filters <= lanes // 2:
        lanes //= 2
    needed = (filters + lanes - 1) // lanes
    pairs = 2 if lanes < MOST_LANES and positions > 1 else 1
    lanes *= pairs
    unit = 2 if rows == 2 and pairs == 1 else 1
    units = (positions + pairs * unit - 1) // (pairs * unit)
    best, tile, vectors, taken = 0, unit, 1, 1
    for columns in range(1, min(needed, _MOST_VECTORS) + 1):
        blocks = (needed + columns - 1) // columns
        for wide in range(2):
            step = window if wide == 1 else 1
            parts = 0
            while parts < units:
                parts += 1
                cut = (units + parts - 1) // parts * unit
                if cut > (MOST_POSITIONS if planes and in_planes(columns, pairs) else _MOST_PIXELS):
                    continue
                cost = parts * blocks * _cost(rows, cut, columns, pairs, step)
                # Of equals the one with more filters: it reads the source less often.
                better = best == 0 or cost < best or (cost == best and columns > vectors)
                if cost > 0 and better:
                    best, tile, vectors, taken = cost, cut, columns, step
    return tile, vectors, lanes, pairs, taken
