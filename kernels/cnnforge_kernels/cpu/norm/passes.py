"""The four kernels of batch normalization on the CPU, which ``training.py`` and others call.

The inputs are rows of channels: (rows, channels). Each kernel makes one pass over all rows. Each
SIMD instruction works on neighbouring channels. The rows are divided into blocks, and the channels
into *strips* of up to 128 channels. A task handles one strip of one block. Some passes read two
arrays, so blocks are so small that a strip of a block of both arrays fits the first-level cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

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
# (6, WIDE). There are ROWS rows. A row has WIDE values and STRIPS strips, and a block has BLOCK
# rows. CLIP is 1 if a ReLU or a ReLU6 follows, else 0. STREAM is 1 if the TARGET is written past the
# caches, else 0.
SOURCE, GRADIENT, TARGET, SUMS, FACTORS, ROWS, WIDE, BLOCK, STRIPS, CLIP, STREAM = range(11)
FIELDS = 11
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

_BLOCK_FLOATS = 4096
# The maximum number of channels of a strip. So each block has at least 32 rows (4096 / 128). With
# fewer rows in a block there would be more blocks, and one thread alone adds their sums.
_STRIP = 128
_GRAIN = 4
# A pass that writes works on this number of rows at a time, with the same factors, and fetches
# _AHEAD bytes ahead. A task of it has about _TASK_BYTES of each array.
_ROWS = 4
_AHEAD = 8192
_TASK_BYTES = 128 * 1024
_WIDTHS = 5


@cached_njit()
def _strip(a: Any, task: int) -> tuple[int, int, int, int, int]:
    """Return five numbers for a task: its block, its range of rows and its range of channels.

    Each range is two numbers: the first index of the range and the index after the range.
    """
    block, strip = task // a[STRIPS], task % a[STRIPS]
    first = block * a[BLOCK]
    last = min(first + a[BLOCK], a[ROWS])
    return block, first, last, strip * _STRIP, min((strip + 1) * _STRIP, a[WIDE])


@kernel_family(_WIDTHS)
def MOMENTS(number: int) -> Any:
    """Compute three values for each block of rows and each channel: NEAR, REST and SQUARES."""
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _moments_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        row = 4 * a[WIDE]
        ahead = a[BLOCK] * row
        for task in range(begin, end):
            block, first, last, c, after = _strip(a, task)
            count = last - first
            inverse = vector_splat(np.float32(1) / np.float32(count), L)
            whole = count // 4 * 4
            while c < after:
                c = min(c, after - L)
                start = a[SOURCE] + first * row + 4 * c
                zero = vector_splat(np.float32(0), L)
                # Four independent sums hide the latency of an addition. Their rounding errors are
                # also smaller than those of one long sum.
                s0, s1, s2, s3 = zero, zero, zero, zero
                place = start
                for _ in range(0, whole, 4):
                    s0 = vector_add(s0, vector_load(place, L, L))
                    s1 = vector_add(s1, vector_load(place + row, L, L))
                    s2 = vector_add(s2, vector_load(place + 2 * row, L, L))
                    s3 = vector_add(s3, vector_load(place + 3 * row, L, L))
                    place += 4 * row
                for _ in range(whole, count):
                    s0 = vector_add(s0, vector_load(place, L, L))
                    place += row
                total = vector_add(vector_add(s0, s1), vector_add(s2, s3))
                near = vector_multiply(total, inverse)
                s0, s1, s2, s3 = zero, zero, zero, zero
                q0, q1, q2, q3 = zero, zero, zero, zero
                place = start
                for _ in range(0, whole, 4):
                    prefetch(place + ahead)
                    prefetch(place + row + ahead)
                    prefetch(place + 2 * row + ahead)
                    prefetch(place + 3 * row + ahead)
                    d0 = vector_subtract(vector_load(place, L, L), near)
                    d1 = vector_subtract(vector_load(place + row, L, L), near)
                    d2 = vector_subtract(vector_load(place + 2 * row, L, L), near)
                    d3 = vector_subtract(vector_load(place + 3 * row, L, L), near)
                    s0, q0 = vector_add(s0, d0), vector_multiply_add(d0, d0, q0)
                    s1, q1 = vector_add(s1, d1), vector_multiply_add(d1, d1, q1)
                    s2, q2 = vector_add(s2, d2), vector_multiply_add(d2, d2, q2)
                    s3, q3 = vector_add(s3, d3), vector_multiply_add(d3, d3, q3)
                    place += 4 * row
                for _ in range(whole, count):
                    d0 = vector_subtract(vector_load(place, L, L), near)
                    s0, q0 = vector_add(s0, d0), vector_multiply_add(d0, d0, q0)
                    place += row
                rest = vector_add(vector_add(s0, s1), vector_add(s2, s3))
                squares = vector_add(vector_add(q0, q1), vector_add(q2, q3))
                sums = a[SUMS] + SUM_ROWS * block * row + 4 * c
                vector_store(near, sums + NEAR * row, L)
                vector_store(rest, sums + REST * row, L)
                vector_store(squares, sums + SQUARES * row, L)
                c += L

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
        row = 4 * a[WIDE]
        ahead = a[BLOCK] * row
        for task in range(begin, end):
            block, first, last, c, after = _strip(a, task)
            count = last - first
            while c < after:
                c = min(c, after - L)
                factors = tile_load(a[FACTORS] + 4 * c, row, _OUTPUT_ROWS, 1, L)
                mean, scale, shift, limit = factors
                zero = vector_splat(np.float32(0), L)
                s0, s1, p0, p1 = zero, zero, zero, zero
                place = first * row + 4 * c
                for _ in range(count // 2):
                    prefetch(a[SOURCE] + place + ahead)
                    prefetch(a[SOURCE] + place + row + ahead)
                    prefetch(a[GRADIENT] + place + ahead)
                    prefetch(a[GRADIENT] + place + row + ahead)
                    x0 = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                    x1 = vector_subtract(vector_load(a[SOURCE] + place + row, L, L), mean)
                    g0 = vector_load(a[GRADIENT] + place, L, L)
                    g1 = vector_load(a[GRADIENT] + place + row, L, L)
                    if a[CLIP] != 0:
                        y0 = vector_multiply_add(x0, scale, shift)
                        y1 = vector_multiply_add(x1, scale, shift)
                        g0 = vector_where_between(y0, limit, g0)
                        g1 = vector_where_between(y1, limit, g1)
                    s0, s1 = vector_add(s0, g0), vector_add(s1, g1)
                    p0, p1 = vector_multiply_add(g0, x0, p0), vector_multiply_add(g1, x1, p1)
                    place += 2 * row
                if count % 2 != 0:
                    x0 = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                    g0 = vector_load(a[GRADIENT] + place, L, L)
                    if a[CLIP] != 0:
                        y0 = vector_multiply_add(x0, scale, shift)
                        g0 = vector_where_between(y0, limit, g0)
                    s0 = vector_add(s0, g0)
                    p0 = vector_multiply_add(g0, x0, p0)
                sums = a[SUMS] + SUM_ROWS * block * row + 4 * c
                vector_store(vector_add(s0, s1), sums + PLAIN * row, L)
                vector_store(vector_add(p0, p1), sums + PRODUCTS * row, L)
                c += L

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
    """Return how many input rows to join into one row, so that it fills whole SIMD vectors.

    Return 1 if the number of input rows is not divisible by this number.
    """
    together = 1
    while together * channels % MAX_LANES != 0:
        together *= 2
    return together if rows % together == 0 else 1


@cached_njit()
def set_rows(args: Any, inputs: Any, clip: bool) -> None:
    """Set the values of the argument block that describe ``inputs``, (rows, channels), and CLIP."""
    rows, channels = inputs.shape
    together = _rows_at_a_time(rows, channels)
    args[SOURCE], args[CLIP] = address_of(inputs), 1 if clip else 0
    args[ROWS], args[WIDE] = rows // together, channels * together
    args[BLOCK] = max(_BLOCK_FLOATS // min(args[WIDE], _STRIP), 1)
    args[STRIPS] = (args[WIDE] + _STRIP - 1) // _STRIP


@cached_njit()
def blocks(args: Any) -> int:
    """Return the number of blocks into which the rows are divided."""
    return (args[ROWS] + args[BLOCK] - 1) // args[BLOCK]


@cached_njit()
def run(family: int, args: Any) -> None:
    """Run one pass over all rows; ``family`` is MOMENTS, NORMALIZE or another of this module."""
    _, lanes = choose_lanes(args[WIDE], 1)
    run_kernel(family + width_number(lanes), args, blocks(args) * args[STRIPS], _GRAIN)


@cached_njit()
def run_rows(family: int, args: Any) -> None:
    """Run a pass that writes the rows; ``family`` is NORMALIZE or GRADIENT_PASS."""
    row = 4 * args[WIDE]
    args[STREAM] = 1 if streams(args[TARGET], row, row * args[ROWS]) else 0
    args[BLOCK] = max(_TASK_BYTES // row // _ROWS, 1) * _ROWS
    _, lanes = choose_lanes(args[WIDE], 1)
    run_kernel(family + width_number(lanes), args, blocks(args), 1)
