"""Choose the size of the register tile of a kernel: positions x vectors x lanes.

A register tile (``tiles.py``) holds the sums of some positions, which are neighbouring outputs or
taps, for some filters. The filters fill ``vectors`` SIMD vectors of ``lanes`` floats.
"""

from __future__ import annotations

from cnnforge_kernels.cpu.runtime.compiled import cached_njit, vector_lanes, vector_registers

MAX_LANES = vector_lanes()
_REGISTERS = vector_registers()
MAX_POSITIONS = 28
MAX_ACCUMULATORS = _REGISTERS - 4
# The number of multiply-adds that begin before the first one ends: 2 in each of 4 cycles. With
# fewer sums in a tile, a multiply-add has to wait.
_LATENCY = 8
# The maximum number of positions of a tile that does not read planes (see `in_planes`). Such a tile
# needs a register for the address of each position, and the processor has 16 of these registers.
_MAX_PIXELS = 8
_MAX_VECTORS = 4 if _REGISTERS == 32 else 2
TILES = MAX_POSITIONS * 4 * 5
# The possible numbers of neighbouring taps that one step of the micro-kernel (`tile_accumulate`)
# multiplies. Such taps are called a window here.
WINDOWS = (1, 2, 3, 5, 7)


def tile_of_number(number: int) -> tuple[int, int, int, int]:
    """Return the size of the tile with index ``number``: (positions, vectors, lanes, pairs).

    The index is 0 to ``TILES - 1``. The last number is 2 if a vector holds two positions, else 1.
    """
    positions = number % MAX_POSITIONS + 1
    vectors = number // MAX_POSITIONS % 4 + 1
    kind = number // (4 * MAX_POSITIONS)
    return (
        (positions, vectors, 4 << kind, 1) if kind < 3 else (positions, vectors, 4 << kind - 2, 2)
    )


@cached_njit()
def tile_number(positions: int, vectors: int, lanes: int, pairs: int) -> int:
    """Return the index of the tile of this size; this is the inverse of ``tile_of_number``."""
    kind = 0 if lanes == 4 else 1 if lanes == 8 else 2
    if pairs == 2:
        kind += 2
    return positions - 1 + MAX_POSITIONS * (vectors - 1 + 4 * kind)


@cached_njit()
def window_number(window: int) -> int:
    """Return the index of a window in ``WINDOWS``."""
    for number in range(len(WINDOWS)):
        if WINDOWS[number] == window:
            return number
    return 0


@cached_njit()
def longest_window(taps: int) -> int:
    """Return the maximum of ``WINDOWS`` that divides ``taps``."""
    longest = 1
    for window in WINDOWS:
        if taps % window == 0:
            longest = window
    return longest


@cached_njit()
def in_planes(vectors: int, pairs: int) -> bool:
    """Return whether a tile reads scratch memory that has planes: the axes (channel, column).

    In a plane the positions of a tile are neighbouring floats, and pairs of positions need this.
    The other layout is (column, channel), which is copied faster. It is used if a tile has several
    vectors. Such a tile loads a value once and multiplies it several times, so the more complex
    addresses of this layout cost nothing.
    """
    return vectors == 1 or pairs == 2


@cached_njit()
def _cost(rows: int, tile: int, vectors: int, pairs: int, window: int) -> int:
    """Estimate the time that the micro-kernel takes for one tap; 0 if the registers are too few.

    The unit is 1/24 of the time of one vector's multiply-add. Two multiply-adds and up to two loads
    begin in a cycle. But when measured, a load took a third longer than a multiply-add, so its time
    is 32 units. A sum is ready after four cycles. If two tiles take the same time, the one with
    fewer loads gets the smaller result.
    """
    sums = rows * tile * vectors
    if sums + vectors * window + 2 > _REGISTERS:
        return 0
    loads = tile
    if window > 1 and pairs == 1:
        loads = tile + window - 1
    elif window > 1:
        loads = 2 * tile + window - 2  # the odd taps of a window need pairs of their own
    loads = rows * loads + vectors * window
    bound = max(24 * sums, 32 * loads // window, 24 * _LATENCY)
    return bound + loads // window


@cached_njit()
def choose_tile(
    positions: int, filters: int, window: int, rows: int, planes: bool
) -> tuple[int, int, int, int, int]:
    """Return the size of the tile for ``positions`` outputs of a row by ``filters`` filters.

    The sums, the weights of one step of the micro-kernel and one value of the source fit the
    registers. The row is divided into tiles of equal size. To end at the end of the row, the last
    tile may overlap the tile before it. If the filters fill half of a register or
    less, a vector holds two positions, called a pair. A tile then covers ``positions * pairs``
    outputs, which may be one more than the row has.

    Args:
        positions: number of outputs of a row.
        filters: number of filters of a group.
        window: number of neighbouring taps that one step may multiply, or 1.
        rows: 2 if a tile must have two rows, for 2x2 pooling; else 1.
        planes: whether the caller writes the source to planes if ``in_planes`` returns True.

    Returns:
        Five numbers: positions, vectors, lanes, pairs (1 or 2), and the window.
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
                # Of tiles with the same cost choose the one with more filters: it loads less.
                better = best == 0 or cost < best or (cost == best and columns > vectors)
                if cost > 0 and better:
                    best, tile, vectors, taken = cost, cut, columns, step
    return tile, vectors, lanes, pairs, taken
