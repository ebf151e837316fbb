"""Compute a depthwise convolution whose window has neighbouring columns.

This is the sweep of ``sweep.py`` for the usual case: no mask, no depth multiplier, no dilation of
the columns, and a stride of the columns of 1 or 2. Each value of a source row is loaded once for
all positions of a register tile and all taps that need it, and the columns of taps are unrolled.
Columns outside the image are read from a vector of zeros, so that they need no loop of their own.

This kernel is faster than that of ``sweep.py`` only if the source is in a cache: it took 0.5 to 1.0
times as long then, but 0.8 to 1.4 times as long with arrays in memory, which it reads in pieces
that are too short for the processor to fetch them early.
"""

from __future__ import annotations

from typing import Any

from numba import carray

from cnnforge_kernels.cpu.depthwise.sweep import (
    BIAS,
    COLUMN_ORIGIN,
    COLUMNS,
    FIELDS,
    HEIGHT,
    RELU,
    ROW_DILATION,
    ROW_ORIGIN,
    ROW_STEP,
    ROWS,
    SOURCE,
    TAP_ROWS,
    TARGET,
    TARGET_COLUMN,
    TARGET_IMAGE,
    TARGET_ROW,
    WEIGHTS,
    WIDE,
    WIDTH,
    ZEROS,
)
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    kernel_family,
    vector_registers,
)
from cnnforge_kernels.cpu.simd.channels import channels_store
from cnnforge_kernels.cpu.simd.epilogues import NO_ACTIVATION, tile_activate
from cnnforge_kernels.cpu.simd.tiles import tile_broadcast
from cnnforge_kernels.cpu.simd.windows import windows_accumulate

MAX_WINDOW = 7
MAX_STEP = 2
MAX_POSITIONS = 8
MAX_VECTORS = 3 if vector_registers() == 32 else 1
_WIDTHS = 5


@kernel_family(MAX_WINDOW * MAX_STEP * MAX_POSITIONS * 4 * _WIDTHS)
def WINDOW_SWEEP(number: int) -> Any:
    """Compute a sweep; a task computes a row of the target."""
    T, rest = number % MAX_POSITIONS + 1, number // MAX_POSITIONS
    W, rest = rest % MAX_WINDOW + 1, rest // MAX_WINDOW
    S, rest = rest % MAX_STEP + 1, rest // MAX_STEP
    G, L = rest % 4 + 1, 1 << (rest // 4)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _window_sweep_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide, columns, activation = a[WIDE], a[COLUMNS], a[RELU]
        pixel = 4 * wide
        line = pixel * a[WIDTH]
        dilated = a[ROW_DILATION] * line
        for task in range(begin, end):
            image, row = task // a[ROWS], task % a[ROWS]
            top = row * a[ROW_STEP] + a[ROW_ORIGIN]
            first_row = max(0, (a[ROW_DILATION] - 1 - top) // a[ROW_DILATION])
            rows = (a[HEIGHT] - top + a[ROW_DILATION] - 1) // a[ROW_DILATION]
            rows = min(a[TAP_ROWS], rows) - first_row
            source = a[SOURCE] + (image * a[HEIGHT] + top) * line + first_row * dilated
            weights = a[WEIGHTS] + first_row * W * pixel
            target = a[TARGET] + image * a[TARGET_IMAGE] + row * a[TARGET_ROW]
            for begun in range(0, columns, T):
                # The last tile ends at the last column.
                column = min(begun, columns - T)
                left = column * S + a[COLUMN_ORIGIN]
                here = source + left * pixel
                place = target + column * a[TARGET_COLUMN]
                for start in range(0, wide, G * L):
                    c = 4 * min(start, wide - G * L)
                    tile = windows_accumulate(
                        tile_broadcast(a[BIAS] + c, T, G, L),
                        here + c,
                        dilated,
                        pixel,
                        -left,
                        a[WIDTH] - left,
                        a[ZEROS],
                        weights + c,
                        W * pixel,
                        rows,
                        T,
                        G,
                        L,
                        W,
                        S,
                    )
                    if activation != NO_ACTIVATION:
                        tile = tile_activate(tile, activation)
                    channels_store(tile, place + c, a[TARGET_COLUMN], T, G)

    return _window_sweep_kernel
