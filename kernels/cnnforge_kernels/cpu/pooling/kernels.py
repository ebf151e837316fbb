"""The CPU kernels of max and average pooling, which ``pooling.py`` calls.

Each SIMD instruction works on neighbouring channels. There are *tiled* kernels and general kernels.
A tiled kernel is compiled for one window size of up to 4 x 4. It is used if the strides equal the
window size, so that the windows do not overlap. A general kernel computes any window and strides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import (
    index_load,
    index_splat,
    index_store,
    vector_add,
    vector_divide,
    vector_load,
    vector_maximum,
    vector_splat,
    vector_store,
    vector_where_equal,
)

# Indices of the values in the argument block of a kernel. The first three values are addresses in
# bytes. HEIGHT and WIDTH are the size of the inputs, ROWS and COLUMNS the size of the outputs.
INPUTS, OUTPUTS, ARGMAX, HEIGHT, WIDTH, CHANNELS, ROWS, COLUMNS = range(8)
WINDOW_ROWS, WINDOW_COLUMNS, ROW_STEP, COLUMN_STEP, TOP, LEFT = range(8, 14)
FIELDS = 14

_WINDOW = 4
_KINDS = 3 * (_WINDOW * _WINDOW + 2)


def _kind_of_number(number: int) -> tuple[int, int, int, int]:
    """Return four properties of a kernel, given its index in its family.

    They are the number of SIMD lanes, the rows and the columns of the window, and the number of
    bytes of an argmax. Rows and columns are 0 for a general kernel.
    """
    lanes = 4 << (number % 3)
    kind = number // 3
    if kind < 2:
        return lanes, 0, 0, 1 if kind == 0 else 4
    return lanes, (kind - 2) // _WINDOW + 1, (kind - 2) % _WINDOW + 1, 1


@cached_njit()
def kind_number(args: Any, argmax_bytes: int) -> int:
    """Return the index of the kernel to use, in any of the families of this module.

    The indices 0 to 5 are general kernels, the others are tiled kernels.
    """
    lanes = MAX_LANES
    while lanes > 4 and args[CHANNELS] <= lanes // 2:
        lanes //= 2
    width = 0 if lanes == 4 else 1 if lanes == 8 else 2
    rows, columns = args[WINDOW_ROWS], args[WINDOW_COLUMNS]
    tiled = rows == args[ROW_STEP] and columns == args[COLUMN_STEP]
    if tiled and rows <= _WINDOW and columns <= _WINDOW:
        return width + 3 * (2 + (rows - 1) * _WINDOW + columns - 1)
    return width + 3 * (1 if argmax_bytes == 4 else 0)


@cached_njit()
def _inside(a: Any) -> tuple[int, int]:
    """Return the range of output columns whose windows contain no padding, as two numbers.

    The numbers are the first column of the range and the column after the range.
    """
    step = a[COLUMN_STEP]
    first = (a[LEFT] + step - 1) // step
    after = (a[WIDTH] + a[LEFT] - a[WINDOW_COLUMNS]) // step + 1
    first = min(first, a[COLUMNS])
    return first, min(max(first, after), a[COLUMNS])


def _forward(number: int, is_max: bool) -> Any:
    L, PH, PW, WB = _kind_of_number(number)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pool_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        window_rows = PH if PH > 0 else a[WINDOW_ROWS]
        window_columns = PW if PW > 0 else a[WINDOW_COLUMNS]
        channels = a[CHANNELS]
        line, pixel = 4 * a[WIDTH] * channels, 4 * channels
        real_first, real_after = _inside(a)
        for task in range(begin, end):
            image = task // a[ROWS]
            top = (task % a[ROWS]) * a[ROW_STEP] - a[TOP]
            first_row, last_row = max(0, -top), min(window_rows, a[HEIGHT] - top)
            source = a[INPUTS] + (image * a[HEIGHT] + top) * line
            # The fast loops make no bounds checks, because these would take half of the time. So
            # use the fast loops only if windows have no padding and channels fill whole vectors.
            fast = PH > 0 and channels % L == 0 and first_row == 0 and last_row == window_rows
            column = 0
            while column < a[COLUMNS]:
                if fast and real_first <= column < real_after:
                    here = source + (column * PW - a[LEFT]) * pixel
                    target = (task * a[COLUMNS] + column) * channels
                    for _ in range(column, real_after):
                        for _ in range(0, channels, L):
                            if is_max:
                                best = vector_load(here, L, L)
                                argmax = index_splat(0, L)
                                for i in range(PH):
                                    for j in range(PW):
                                        if i + j > 0:
                                            value = vector_load(here + i * line + j * pixel, L, L)
                                            best, argmax = vector_maximum(
                                                best, argmax, value, i * PW + j
                                            )
                                vector_store(best, a[OUTPUTS] + 4 * target, L)
                                index_store(argmax, a[ARGMAX] + WB * target, L, WB)
                            else:
                                total = vector_splat(np.float32(0), L)
                                for i in range(PH):
                                    for j in range(PW):
                                        value = vector_load(here + i * line + j * pixel, L, L)
                                        total = vector_add(total, value)
                                cells = vector_splat(np.float32(PH * PW), L)
                                total = vector_divide(total, cells)
                                vector_store(total, a[OUTPUTS] + 4 * target, L)
                            here += 4 * L
                            target += L
                        here += (PW - 1) * pixel
                    column = real_after
                    continue
                left = column * a[COLUMN_STEP] - a[LEFT]
                first, last = max(0, -left), min(window_columns, a[WIDTH] - left)
                target = (task * a[COLUMNS] + column) * channels
                for c in range(0, channels, L):
                    valid = channels - c
                    here = source + left * pixel + 4 * c
                    if is_max:
                        best = vector_splat(np.float32(-np.inf), L)
                        argmax = index_splat(first_row * window_columns + first, L)
                        for i in range(first_row, last_row):
                            for j in range(first, last):
                                value = vector_load(here + i * line + j * pixel, valid, L)
                                best, argmax = vector_maximum(
                                    best, argmax, value, i * window_columns + j
                                )
                        vector_store(best, a[OUTPUTS] + 4 * (target + c), valid)
                        index_store(argmax, a[ARGMAX] + WB * (target + c), valid, WB)
                    else:
                        total = vector_splat(np.float32(0), L)
                        for i in range(first_row, last_row):
                            for j in range(first, last):
                                value = vector_load(here + i * line + j * pixel, valid, L)
                                total = vector_add(total, value)
                        cells = np.float32((last_row - first_row) * (last - first))
                        total = vector_divide(total, vector_splat(cells, L))
                        vector_store(total, a[OUTPUTS] + 4 * (target + c), valid)
                column += 1

    return _pool_kernel


@kernel_family(_KINDS)
def MAX_POOL(number: int) -> Any:
    """Compute max pooling and its argmax; a task computes one row of the outputs."""
    return _forward(number, True)


@kernel_family(_KINDS)
def AVERAGE_POOL(number: int) -> Any:
    """Compute average pooling; a task computes one row of the outputs."""
    return _forward(number, False)


def _backward_tiled(number: int, is_max: bool) -> Any:
    """Return a kernel with the results of ``_backward``'s kernel, for windows without overlap.

    The windows must not overlap. A task handles one row of the outputs, and reads each value of the
    gradient of the outputs once. The inputs below and to the right of the last windows belong to no
    window. The tasks set the gradient of these inputs to zero.
    """
    L, PH, PW, WB = _kind_of_number(number)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pool_grad_tiled_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        channels, height, width = a[CHANNELS], a[HEIGHT], a[WIDTH]
        line, pixel = 4 * width * channels, 4 * channels
        zero = vector_splat(np.float32(0), L)
        real_first, real_after = _inside(a)
        for task in range(begin, end):
            image, row = task // a[ROWS], task % a[ROWS]
            top = row * PH - a[TOP]
            first_row, last_row = max(0, -top), min(PH, height - top)
            start = a[INPUTS] + 4 * (image * height + top) * width * channels
            fast = channels % L == 0 and first_row == 0 and last_row == PH
            column = 0
            while column < a[COLUMNS]:
                if fast and real_first <= column < real_after:
                    target = start + (column * PW - a[LEFT]) * pixel
                    place = (task * a[COLUMNS] + column) * channels
                    for _ in range(column, real_after):
                        for _ in range(0, channels, L):
                            value = vector_load(a[OUTPUTS] + 4 * place, L, L)
                            argmax = index_splat(0, L)
                            if is_max:
                                argmax = index_load(a[ARGMAX] + WB * place, L, WB, L)
                            else:
                                value = vector_divide(value, vector_splat(np.float32(PH * PW), L))
                            for i in range(PH):
                                for j in range(PW):
                                    share = value
                                    if is_max:
                                        share = vector_where_equal(argmax, i * PW + j, value)
                                    vector_store(share, target + i * line + j * pixel, L)
                            target += 4 * L
                            place += L
                        target += (PW - 1) * pixel
                    column = real_after
                    continue
                left = column * PW - a[LEFT]
                first, last = max(0, -left), min(PW, width - left)
                cells = np.float32((last_row - first_row) * (last - first))
                place = (task * a[COLUMNS] + column) * channels
                for c in range(0, channels, L):
                    valid = channels - c
                    target = start + left * pixel + 4 * c
                    value = vector_load(a[OUTPUTS] + 4 * (place + c), valid, L)
                    argmax = index_splat(0, L)
                    if is_max:
                        argmax = index_load(a[ARGMAX] + WB * (place + c), valid, WB, L)
                    else:
                        value = vector_divide(value, vector_splat(cells, L))
                    for i in range(first_row, last_row):
                        for j in range(first, last):
                            share = value
                            if is_max:
                                share = vector_where_equal(argmax, i * PW + j, value)
                            vector_store(share, target + i * line + j * pixel, valid)
                column += 1
            covered = a[COLUMNS] * PW - a[LEFT]
            for y in range(max(0, top), height if row == a[ROWS] - 1 else top + PH):
                # Set the columns to the right of the last window to zero. In rows below the last
                # window, set all columns to zero.
                empty = covered if y < top + PH else 0
                target = a[INPUTS] + 4 * ((image * height + y) * width + empty) * channels
                for index in range(0, (width - empty) * channels, L):
                    vector_store(zero, target + 4 * index, (width - empty) * channels - index)

    return _pool_grad_tiled_kernel


def _backward(number: int, is_max: bool) -> Any:
    """Return a kernel that computes the gradient of the inputs from the gradient of the outputs.

    The kernel reads at the address OUTPUTS and writes at the address INPUTS. A task computes one
    row of the gradient of the inputs, so that each value is written once even if windows overlap.
    """
    L, PH, _PW, WB = _kind_of_number(number)
    if PH > 0:
        return _backward_tiled(number, is_max)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _pool_grad_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        window_rows, window_columns = a[WINDOW_ROWS], a[WINDOW_COLUMNS]
        row_step, column_step = a[ROW_STEP], a[COLUMN_STEP]
        channels = a[CHANNELS]
        for task in range(begin, end):
            image = task // a[HEIGHT]
            y = task % a[HEIGHT] + a[TOP]
            # The window of output row r contains input row y if r * step <= y < r * step + window.
            first_row = max(0, (y - window_rows + row_step) // row_step)
            last_row = min(a[ROWS], y // row_step + 1)
            for column in range(a[WIDTH]):
                x = column + a[LEFT]
                first = max(0, (x - window_columns + column_step) // column_step)
                last = min(a[COLUMNS], x // column_step + 1)
                target = a[INPUTS] + 4 * (task * a[WIDTH] + column) * channels
                for c in range(0, channels, L):
                    valid = channels - c
                    total = vector_splat(np.float32(0), L)
                    for r in range(first_row, last_row):
                        for q in range(first, last):
                            place = ((image * a[ROWS] + r) * a[COLUMNS] + q) * channels + c
                            value = vector_load(a[OUTPUTS] + 4 * place, valid, L)
                            if is_max:
                                argmax = index_load(a[ARGMAX] + WB * place, valid, WB, L)
                                cell = (y - r * row_step) * window_columns
                                cell += x - q * column_step
                                value = vector_where_equal(argmax, cell, value)
                            else:
                                top = r * row_step - a[TOP]
                                left = q * column_step - a[LEFT]
                                height = min(top + window_rows, a[HEIGHT]) - max(top, 0)
                                width = min(left + window_columns, a[WIDTH]) - max(left, 0)
                                cells = vector_splat(np.float32(height * width), L)
                                value = vector_divide(value, cells)
                            total = vector_add(total, value)
                    vector_store(total, target + 4 * c, valid)

    return _pool_grad_kernel


@kernel_family(_KINDS)
def MAX_POOL_GRAD(number: int) -> Any:
    """Compute the gradient of max pooling's inputs."""
    return _backward(number, True)


@kernel_family(_KINDS)
def AVERAGE_POOL_GRAD(number: int) -> Any:
    """Compute the gradient of average pooling's inputs."""
    return _backward(number, False)
