"""Choose the kernel of a sweep (``sweep.py`` and ``window_sweep.py``), and run it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from cnnforge_kernels.cpu.depthwise import window_sweep as w
from cnnforge_kernels.cpu.depthwise.sweep import (
    AFTER_INNER,
    BLOCK_ROWS,
    BLOCKS,
    COLUMN_DILATION,
    COLUMN_ORIGIN,
    COLUMN_STEP,
    COLUMNS,
    IMAGES,
    INNER,
    MASK,
    MAX_POSITIONS,
    MAX_VECTORS,
    REPEAT,
    ROW_DILATION,
    ROWS,
    STREAM,
    SUMMED,
    SWEEP,
    TABLE,
    TAP_COLUMNS,
    TAP_ROWS,
    TARGET,
    TARGET_IMAGE,
    WIDE,
    WIDTH,
    choose_lanes,
    width_number,
)
from cnnforge_kernels.cpu.runtime.compiled import cached_njit, vector_registers
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.streams import streams

# The number of zeros that must be at the address ZEROS.
ZERO_FLOATS = 64
_REGISTERS = vector_registers()
_MAX_TASKS = 32


@register_jitable
def _has_plain_window(args: Any, tap: int, row_tap: int, column_tap: int) -> bool:
    """Return whether ``WINDOW_SWEEP`` can compute a sweep."""
    taps, step, left = args[TAP_COLUMNS], args[COLUMN_STEP], -args[COLUMN_ORIGIN]
    right = (args[COLUMNS] - 1) * step - left + taps - args[WIDTH]
    return (
        (tap == 0 and row_tap == taps and column_tap == 1)
        and (args[MASK] == 0 and args[REPEAT] == 1 and args[SUMMED] == 1)
        and (args[COLUMN_DILATION] == 1 and 1 <= step <= w.MAX_STEP and taps <= w.MAX_WINDOW)
        and (0 <= left < taps and right < taps)
    )


@register_jitable
def _window_number(args: Any) -> int:
    """Return the index of the kernel of ``WINDOW_SWEEP`` for a sweep."""
    taps = args[TAP_COLUMNS]
    # The sums, the weights of a row of taps and one value of the source fit the registers.
    vectors, lanes = choose_lanes(args[WIDE], w.MAX_VECTORS)
    limit = min(w.MAX_POSITIONS, (_REGISTERS - 2) // vectors - taps)
    parts = (args[COLUMNS] + limit - 1) // limit
    positions = (args[COLUMNS] + parts - 1) // parts
    rest = args[COLUMN_STEP] - 1 + w.MAX_STEP * (vectors - 1 + 4 * width_number(lanes))
    return positions - 1 + w.MAX_POSITIONS * (taps - 1 + w.MAX_WINDOW * rest)


@register_jitable
def prepare_sweep(
    args: Any, table: Any, tap: int, row_tap: int, column_tap: int, cached: bool
) -> Any:
    """Set the remaining arguments of a sweep except the addresses TABLE and ZEROS.

    Args:
        args: int64 argument block. The caller has set all fields up to COLUMNS except TABLE.
        table: (TAP_ROWS * TAP_COLUMNS, 2) int64, written.
        tap: index in the weights, i * KW + j, of the first tap of the first row of taps.
        row_tap: difference of the indices of two taps in neighbouring rows of taps.
        column_tap: difference of the indices of two taps in neighbouring columns of taps.
        cached: whether the source is in a cache of the processor.

    Returns:
        Three numbers: the slot number of the kernel, the number of tasks, and the grain.
    """
    taps, wide = args[TAP_COLUMNS], args[WIDE]
    pixel = 4 * wide
    line = pixel * args[WIDTH]
    for i in range(args[TAP_ROWS]):
        for j in range(taps):
            column = args[COLUMN_ORIGIN] + j * args[COLUMN_DILATION]
            table[i * taps + j, 0] = i * args[ROW_DILATION] * line + column * pixel
            table[i * taps + j, 1] = (tap + i * row_tap + j * column_tap) * pixel
    step = args[COLUMN_STEP]
    reach = args[COLUMN_ORIGIN] + (taps - 1) * args[COLUMN_DILATION]
    inner = max(0, (step - 1 - args[COLUMN_ORIGIN]) // step)
    after = min(args[COLUMNS], (args[WIDTH] - reach + step - 1) // step)
    args[INNER], args[AFTER_INNER] = inner, max(inner, after)
    vectors, lanes = choose_lanes(wide, MAX_VECTORS)
    limit = min(MAX_POSITIONS, (_REGISTERS - 4) // vectors - 1)
    parts = max(1, (args[AFTER_INNER] - inner + limit - 1) // limit)
    positions = max(1, (args[AFTER_INNER] - inner + parts - 1) // parts)
    args[BLOCK_ROWS] = 1
    if args[MASK] != 0 or args[REPEAT] > 1:
        # Neighbouring output rows read mostly the same scratch rows. If two tasks read a row, both
        # copy it. So make only about _MAX_TASKS tasks, of many rows each.
        fitting = max(1, args[IMAGES] * args[ROWS] // _MAX_TASKS)
        parts = (args[ROWS] + fitting - 1) // fitting
        args[BLOCK_ROWS] = (args[ROWS] + parts - 1) // parts
    args[BLOCKS] = (args[ROWS] + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
    work = args[BLOCK_ROWS] * args[COLUMNS] * (args[TAP_ROWS] * taps + 4) * wide
    tasks = args[IMAGES] * args[BLOCKS]
    # Neighbouring rows of the target read some rows of the source again, which one thread has in
    # its cache then. So a thread gets many rows at a time if there are enough.
    grain = max(1, 320_000 // max(work, 1), min(1_600_000 // max(work, 1), tasks // 32))
    slot = SWEEP + positions - 1 + MAX_POSITIONS * (vectors - 1 + 4 * width_number(lanes))
    if cached and _has_plain_window(args, tap, row_tap, column_tap):
        slot = w.WINDOW_SWEEP + _window_number(args)
    return slot, tasks, grain


@cached_njit()
def sweep(args: Any, tap: int, row_tap: int, column_tap: int) -> None:
    """Compute a sweep: set the remaining arguments, and run the tasks.

    The arguments are those of ``prepare_sweep``, without ``cached``.
    """
    table = np.empty((args[TAP_ROWS] * args[TAP_COLUMNS], 2), np.int64)
    args[TABLE] = address_of(table)
    if args[SUMMED] == 1:
        size = args[IMAGES] * args[TARGET_IMAGE]
        args[STREAM] = 1 if streams(args[TARGET], 4 * args[WIDE], size) else 0
    slot, tasks, grain = prepare_sweep(args, table, tap, row_tap, column_tap, False)
    run_kernel(slot, args, tasks, grain)
    # The calls above get only the address of this array. Numba frees an array after its last use,
    # so use the array here: it must not be freed earlier.
    table[:0] = 0
