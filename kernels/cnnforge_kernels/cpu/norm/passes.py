"""The four kernels of batch normalization on the CPU, which ``training.py`` and others call.

The inputs are rows of channels: (rows, channels). Each kernel makes one pass over all rows. Each
SIMD instruction works on neighbouring channels. The rows are divided into blocks, and a task
handles whole rows of one or more blocks. So a kernel reads and writes memory in its order, which is
faster than a few channels of all rows at a time: main memory takes longer than the arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray
from numba.extending import register_jitable

from cnnforge_kernels.cpu.depthwise.sweep import choose_lanes, width_number
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.streams import end_streams, prefetch, streams, vector_stream
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.tiles import tile_load
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_clip,
    vector_load,
    vector_multiply,
    vector_multiply_add,
    vector_splat,
    vector_store,
    vector_subtract,
    vector_where_between,
)

# Indices of the values in the argument block of a kernel. SOURCE to FACTORS are addresses in bytes.
# SUMS is the address of an array (number of blocks, 3, WIDE), and FACTORS the address of an array
# (6, WIDE). There are ROWS rows of WIDE values, and a block has BLOCK rows. CLIP is 1 if a ReLU or
# a ReLU6 follows, else 0. STREAM is 1 if TARGET is written past the caches, else 0.
SOURCE, GRADIENT, TARGET, SUMS, FACTORS, ROWS, WIDE, BLOCK, CLIP, STREAM = range(10)
FIELDS = 10
# Second index of the array SUMS when MOMENTS writes it: a number near the mean of the block, the
# sum of the differences from this number, and the sum of the squares of the differences.
NEAR, REST, SQUARES = range(3)
# Second index of the array SUMS when GRADIENT_SUMS writes it: the sum of grad_outputs, and the sum
# of grad_outputs * (inputs - MEAN).
PLAIN, PRODUCTS = range(2)
SUM_ROWS = 3
# First index of the array FACTORS. The outputs are (inputs - MEAN) * SCALE + SHIFT. If CLIP is 1,
# they are limited to 0 to LIMIT; NaN means no limit. The gradient of the inputs is
# grad_outputs * SCALE + (inputs - MEAN) * OF_INPUTS + ADDED.
MEAN, SCALE, SHIFT, LIMIT, OF_INPUTS, ADDED = range(6)
FACTOR_ROWS = 6
_OUTPUT_ROWS = 4  # MEAN, SCALE, SHIFT and LIMIT

# The number of rows of a block whose sums are added in float32, for rows of few and of many floats.
# With fewer rows there would be more blocks, and one thread alone adds their sums.
_MAX_BLOCK, _MIN_BLOCK = 64, 16
_BLOCK_FLOATS = 32768
# The maximum number of floats to which short rows are joined.
_JOINED = 256
# A pass works on this number of rows at a time, with the same factors, and fetches _AHEAD bytes
# ahead. A task has about _TASK_BYTES of each array.
_ROWS = 4
_AHEAD = 8192
_TASK_BYTES = 128 * 1024
_WIDTHS = 5


@register_jitable
def _add_to(address: int, values: Any, valid: int, L: int) -> None:
    """Add the first ``valid`` lanes of a vector to the floats at an address."""
    vector_store(vector_add(values, vector_load(address, valid, L)), address, valid)


@kernel_family(_WIDTHS)
def MOMENTS(number: int) -> Any:
    """Compute three values for each block of rows and each channel: NEAR, REST and SQUARES."""
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _moments_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide, row = a[WIDE], 4 * a[WIDE]
        ahead = a[BLOCK] * row
        zero = vector_splat(np.float32(0), L)
        for block in range(begin, end):
            count = min(a[BLOCK], a[ROWS] - block * a[BLOCK])
            inverse = vector_splat(np.float32(1) / np.float32(count), L)
            start, sums = a[SOURCE] + block * ahead, a[SUMS] + SUM_ROWS * block * row
            for c in range(0, SUM_ROWS * wide, L):
                vector_store(zero, sums + 4 * c, SUM_ROWS * wide - c)
            # Four rows at a time, and then the remaining rows.
            whole = count // _ROWS * _ROWS
            for first in range(0, whole, _ROWS):
                for c in range(0, wide, L):
                    valid, at = wide - c, start + first * row + 4 * c
                    low = vector_add(vector_load(at, valid, L), vector_load(at + row, valid, L))
                    at += 2 * row
                    high = vector_add(vector_load(at, valid, L), vector_load(at + row, valid, L))
                    _add_to(sums + NEAR * row + 4 * c, vector_add(low, high), valid, L)
            for r in range(whole, count):
                for c in range(0, wide, L):
                    value = vector_load(start + r * row + 4 * c, wide - c, L)
                    _add_to(sums + NEAR * row + 4 * c, value, wide - c, L)
            for c in range(0, wide, L):
                near, valid = sums + NEAR * row + 4 * c, wide - c
                vector_store(vector_multiply(vector_load(near, valid, L), inverse), near, valid)
            for first in range(0, whole, _ROWS):
                for c in range(0, wide, L):
                    valid, at, place = wide - c, start + first * row + 4 * c, sums + 4 * c
                    prefetch(at + ahead)
                    prefetch(at + row + ahead)
                    prefetch(at + 2 * row + ahead)
                    prefetch(at + 3 * row + ahead)
                    near = vector_load(place + NEAR * row, valid, L)
                    d0 = vector_subtract(vector_load(at, valid, L), near)
                    d1 = vector_subtract(vector_load(at + row, valid, L), near)
                    d2 = vector_subtract(vector_load(at + 2 * row, valid, L), near)
                    d3 = vector_subtract(vector_load(at + 3 * row, valid, L), near)
                    rest = vector_add(vector_add(d0, d1), vector_add(d2, d3))
                    low = vector_multiply_add(d1, d1, vector_multiply(d0, d0))
                    high = vector_multiply_add(d3, d3, vector_multiply(d2, d2))
                    _add_to(place + REST * row, rest, valid, L)
                    _add_to(place + SQUARES * row, vector_add(low, high), valid, L)
            for r in range(whole, count):
                for c in range(0, wide, L):
                    valid, place = wide - c, sums + 4 * c
                    near = vector_load(place + NEAR * row, valid, L)
                    away = vector_subtract(vector_load(start + r * row + 4 * c, valid, L), near)
                    _add_to(place + REST * row, away, valid, L)
                    _add_to(place + SQUARES * row, vector_multiply(away, away), valid, L)

    return _moments_kernel


@kernel_family(_WIDTHS)
def NORMALIZE(number: int) -> Any:
    """Compute the outputs of batch normalization from the inputs and the array FACTORS."""
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _normalize_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        row = 4 * a[WIDE]
        ahead = row * max(_ROWS, _AHEAD // row)
        for task in range(begin, end):
            last = min((task + 1) * a[BLOCK], a[ROWS])
            for first in range(task * a[BLOCK], last, _ROWS):
                count, c = min(_ROWS, last - first), 0
                while c < a[WIDE]:
                    c = min(c, a[WIDE] - L)
                    factors = tile_load(a[FACTORS] + 4 * c, row, _OUTPUT_ROWS, 1, L)
                    mean, scale, shift, limit = factors
                    place = first * row + 4 * c
                    for _ in range(count):
                        prefetch(a[SOURCE] + place + ahead)
                        value = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                        value = vector_multiply_add(value, scale, shift)
                        if a[CLIP] != 0:
                            value = vector_clip(value, limit)
                        if a[STREAM] != 0:
                            vector_stream(value, a[TARGET] + place)
                        else:
                            vector_store(value, a[TARGET] + place, L)
                        place += row
                    c += L
        end_streams()

    return _normalize_kernel


@kernel_family(_WIDTHS)
def GRADIENT_SUMS(number: int) -> Any:
    """Compute two sums for each block of rows and each channel: PLAIN and PRODUCTS."""
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _gradient_sums_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide, row = a[WIDE], 4 * a[WIDE]
        ahead = row * max(_ROWS, _AHEAD // row)
        zero = vector_splat(np.float32(0), L)
        for block in range(begin, end):
            sums = a[SUMS] + SUM_ROWS * block * row
            for c in range(0, SUM_ROWS * wide, L):
                vector_store(zero, sums + 4 * c, SUM_ROWS * wide - c)
            last = min((block + 1) * a[BLOCK], a[ROWS])
            for first in range(block * a[BLOCK], last, _ROWS):
                rows = min(_ROWS, last - first)
                for c in range(0, wide, L):
                    valid, place, at = wide - c, first * row + 4 * c, sums + 4 * c
                    mean = vector_load(a[FACTORS] + MEAN * row + 4 * c, valid, L)
                    scale = vector_load(a[FACTORS] + SCALE * row + 4 * c, valid, L)
                    shift = vector_load(a[FACTORS] + SHIFT * row + 4 * c, valid, L)
                    limit = vector_load(a[FACTORS] + LIMIT * row + 4 * c, valid, L)
                    plain, products = zero, zero
                    for _ in range(rows):
                        prefetch(a[SOURCE] + place + ahead)
                        prefetch(a[GRADIENT] + place + ahead)
                        x = vector_subtract(vector_load(a[SOURCE] + place, valid, L), mean)
                        gradient = vector_load(a[GRADIENT] + place, valid, L)
                        if a[CLIP] != 0:
                            gate = vector_multiply_add(x, scale, shift)
                            gradient = vector_where_between(gate, limit, gradient)
                        plain = vector_add(plain, gradient)
                        products = vector_multiply_add(gradient, x, products)
                        place += row
                    _add_to(at + PLAIN * row, plain, valid, L)
                    _add_to(at + PRODUCTS * row, products, valid, L)

    return _gradient_sums_kernel


@kernel_family(_WIDTHS)
def GRADIENT_PASS(number: int) -> Any:
    """Compute the gradient of the inputs from the gradient of the outputs and the array FACTORS."""
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _gradient_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        row = 4 * a[WIDE]
        ahead = row * max(_ROWS, _AHEAD // row)
        for task in range(begin, end):
            last = min((task + 1) * a[BLOCK], a[ROWS])
            for first in range(task * a[BLOCK], last, _ROWS):
                count, c = min(_ROWS, last - first), 0
                while c < a[WIDE]:
                    c = min(c, a[WIDE] - L)
                    factors = tile_load(a[FACTORS] + 4 * c, row, FACTOR_ROWS, 1, L)
                    mean, scale, shift, limit, of_inputs, added = factors
                    place = first * row + 4 * c
                    for _ in range(count):
                        prefetch(a[SOURCE] + place + ahead)
                        prefetch(a[GRADIENT] + place + ahead)
                        x = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                        gradient = vector_load(a[GRADIENT] + place, L, L)
                        if a[CLIP] != 0:
                            gate = vector_multiply_add(x, scale, shift)
                            gradient = vector_where_between(gate, limit, gradient)
                        value = vector_multiply_add(x, of_inputs, added)
                        value = vector_multiply_add(gradient, scale, value)
                        if a[STREAM] != 0:
                            vector_stream(value, a[TARGET] + place)
                        else:
                            vector_store(value, a[TARGET] + place, L)
                        place += row
                    c += L
        end_streams()

    return _gradient_kernel


@cached_njit()
def _rows_at_a_time(rows: int, channels: int) -> int:
    """Return how many input rows to join into one row.

    A joined row fills whole SIMD vectors if the number of rows allows it. Short rows are joined
    further, because each change to other rows costs time.
    """
    together = 1
    while together * channels % MAX_LANES != 0:
        together *= 2
    if rows % together != 0:
        return 1
    while 2 * together * channels <= _JOINED and rows % (2 * together) == 0:
        together *= 2
    return together


@cached_njit()
def set_rows(args: Any, inputs: Any, clip: bool) -> None:
    """Set the values of the argument block that describe ``inputs``, (rows, channels), and CLIP."""
    rows, channels = inputs.shape
    together = _rows_at_a_time(rows, channels)
    args[SOURCE], args[CLIP] = address_of(inputs), 1 if clip else 0
    args[ROWS], args[WIDE] = rows // together, channels * together
    args[BLOCK] = min(max(_BLOCK_FLOATS // args[WIDE], _MIN_BLOCK), _MAX_BLOCK)


@cached_njit()
def blocks(args: Any) -> int:
    """Return the number of blocks into which the rows are divided."""
    return (args[ROWS] + args[BLOCK] - 1) // args[BLOCK]


@cached_njit()
def _grain(args: Any) -> int:
    return max(_TASK_BYTES // (4 * args[WIDE] * args[BLOCK]), 1)


@cached_njit()
def run(family: int, args: Any) -> None:
    """Run one pass over all rows; ``family`` is MOMENTS, NORMALIZE or another of this module."""
    _, lanes = choose_lanes(args[WIDE], 1)
    run_kernel(family + width_number(lanes), args, blocks(args), _grain(args))


@cached_njit()
def run_rows(family: int, args: Any) -> None:
    """Run a pass that writes the rows; ``family`` is NORMALIZE or GRADIENT_PASS."""
    row = 4 * args[WIDE]
    args[STREAM] = 1 if streams(args[TARGET], row, row * args[ROWS]) else 0
    args[BLOCK] = max(_TASK_BYTES // row // _ROWS, 1) * _ROWS
    _, lanes = choose_lanes(args[WIDE], 1)
    run_kernel(family + width_number(lanes), args, blocks(args), 1)
