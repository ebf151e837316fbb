"""Batch normalization on the CPU and its gradients: float32, channels last. Channels are the lanes.

A task sums a block of rows that stays in the first-level cache: first its mean, then the squares
of what differs from that. The blocks are joined in double precision, in their order (T. Chan, G.
Golub, R. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
1979), so that a mean far from zero costs no digits and memory is read once. The gradients take two
passes: the sums that all rows share, then the rows.

Channels that do not fill whole vectors are taken several rows at a time: (M, C) is the same memory
as (M / k, k * C).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.compiled import (
    KERNEL_SIGNATURE,
    address_of,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.depthwise_sweep import choose_lanes, width_number
from cnnforge_kernels.cpu.parallel import run_kernel
from cnnforge_kernels.cpu.simd import (
    vector_add,
    vector_load,
    vector_multiply,
    vector_multiply_add,
    vector_splat,
    vector_store,
    vector_subtract,
    vector_where_positive,
)
from cnnforge_kernels.cpu.simd_tiles import tile_relu
from cnnforge_kernels.cpu.tiles import MOST_LANES

# Fields of the argument block: addresses in bytes, all else counts. A task takes BLOCK of ROWS rows
# of WIDE floats. SUMS is (tasks, 2, WIDE), FACTORS (5, WIDE).
SOURCE, GRADIENT, TARGET, SUMS, FACTORS, ROWS, WIDE, BLOCK, RELU = range(9)
FIELDS = 9
# Rows of FACTORS. Outputs are (inputs - MEAN) * SCALE + SHIFT; gradients of the inputs are
# grad_outputs * SCALE + (inputs - MEAN) * OF_INPUTS + ADDED.
MEAN, SCALE, SHIFT, OF_INPUTS, ADDED = range(5)
FACTOR_ROWS = 5

# Floats of a task: within the first-level cache, also beside as many of a second array.
_BLOCK_FLOATS = 4096
_GRAIN = 4
_WIDTHS = 5


@kernel_family(_WIDTHS)
def _MOMENTS(number: int) -> Any:
    """Of each block and channel the sum, and the squares of what differs from the block's mean."""
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _moments_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide = a[WIDE]
        row = 4 * wide
        for task in range(begin, end):
            first = task * a[BLOCK]
            count = min(a[BLOCK], a[ROWS] - first)
            inverse = vector_splat(np.float32(1) / np.float32(count), L)
            whole = count // 4 * 4
            c = 0
            while c < wide:
                c = min(c, wide - L)
                start = a[SOURCE] + first * row + 4 * c
                zero = vector_splat(np.float32(0), L)
                # Four chains hide the latency of an addition, and keep rounding small.
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
                mean = vector_multiply(total, inverse)
                q0, q1, q2, q3 = zero, zero, zero, zero
                place = start
                for _ in range(0, whole, 4):
                    d0 = vector_subtract(vector_load(place, L, L), mean)
                    d1 = vector_subtract(vector_load(place + row, L, L), mean)
                    d2 = vector_subtract(vector_load(place + 2 * row, L, L), mean)
                    d3 = vector_subtract(vector_load(place + 3 * row, L, L), mean)
                    q0 = vector_multiply_add(d0, d0, q0)
                    q1 = vector_multiply_add(d1, d1, q1)
                    q2 = vector_multiply_add(d2, d2, q2)
                    q3 = vector_multiply_add(d3, d3, q3)
                    place += 4 * row
                for _ in range(whole, count):
                    d0 = vector_subtract(vector_load(place, L, L), mean)
                    q0 = vector_multiply_add(d0, d0, q0)
                    place += row
                squares = vector_add(vector_add(q0, q1), vector_add(q2, q3))
                sums = a[SUMS] + 2 * task * row + 4 * c
                vector_store(mean, sums, L)
                vector_store(squares, sums + row, L)
                c += L

    return _moments_kernel


@kernel_family(_WIDTHS)
def _NORMALIZE(number: int) -> Any:
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _normalize_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide = a[WIDE]
        row = 4 * wide
        for task in range(begin, end):
            first = task * a[BLOCK]
            last = min(first + a[BLOCK], a[ROWS])
            c = 0
            while c < wide:
                c = min(c, wide - L)
                factors = a[FACTORS] + 4 * c
                mean = vector_load(factors + MEAN * row, L, L)
                scale = vector_load(factors + SCALE * row, L, L)
                shift = vector_load(factors + SHIFT * row, L, L)
                place = first * row + 4 * c
                for _ in range(first, last):
                    value = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                    value = vector_multiply_add(value, scale, shift)
                    if a[RELU] != 0:
                        value = tile_relu((value,))[0]
                    vector_store(value, a[TARGET] + place, L)
                    place += row
                c += L

    return _normalize_kernel


@kernel_family(_WIDTHS)
def _GRADIENT_SUMS(number: int) -> Any:
    """Of each block and channel the sums of the gradient, and of it times ``inputs - MEAN``."""
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _gradient_sums_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide = a[WIDE]
        row = 4 * wide
        for task in range(begin, end):
            first = task * a[BLOCK]
            count = min(a[BLOCK], a[ROWS] - first)
            c = 0
            while c < wide:
                c = min(c, wide - L)
                factors = a[FACTORS] + 4 * c
                mean = vector_load(factors + MEAN * row, L, L)
                scale = vector_load(factors + SCALE * row, L, L)
                shift = vector_load(factors + SHIFT * row, L, L)
                zero = vector_splat(np.float32(0), L)
                s0, s1, p0, p1 = zero, zero, zero, zero
                place = first * row + 4 * c
                for _ in range(count // 2):
                    x0 = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                    x1 = vector_subtract(vector_load(a[SOURCE] + place + row, L, L), mean)
                    g0 = vector_load(a[GRADIENT] + place, L, L)
                    g1 = vector_load(a[GRADIENT] + place + row, L, L)
                    if a[RELU] != 0:
                        g0 = vector_where_positive(vector_multiply_add(x0, scale, shift), g0)
                        g1 = vector_where_positive(vector_multiply_add(x1, scale, shift), g1)
                    s0, s1 = vector_add(s0, g0), vector_add(s1, g1)
                    p0, p1 = vector_multiply_add(g0, x0, p0), vector_multiply_add(g1, x1, p1)
                    place += 2 * row
                if count % 2 != 0:
                    x0 = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                    g0 = vector_load(a[GRADIENT] + place, L, L)
                    if a[RELU] != 0:
                        g0 = vector_where_positive(vector_multiply_add(x0, scale, shift), g0)
                    s0 = vector_add(s0, g0)
                    p0 = vector_multiply_add(g0, x0, p0)
                sums = a[SUMS] + 2 * task * row + 4 * c
                vector_store(vector_add(s0, s1), sums, L)
                vector_store(vector_add(p0, p1), sums + row, L)
                c += L

    return _gradient_sums_kernel


@kernel_family(_WIDTHS)
def _GRADIENT(number: int) -> Any:
    L = 1 << number

    @cached_cfunc(KERNEL_SIGNATURE)
    def _gradient_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        wide = a[WIDE]
        row = 4 * wide
        for task in range(begin, end):
            first = task * a[BLOCK]
            last = min(first + a[BLOCK], a[ROWS])
            c = 0
            while c < wide:
                c = min(c, wide - L)
                factors = a[FACTORS] + 4 * c
                mean = vector_load(factors + MEAN * row, L, L)
                scale = vector_load(factors + SCALE * row, L, L)
                shift = vector_load(factors + SHIFT * row, L, L)
                of_inputs = vector_load(factors + OF_INPUTS * row, L, L)
                added = vector_load(factors + ADDED * row, L, L)
                place = first * row + 4 * c
                for _ in range(first, last):
                    x = vector_subtract(vector_load(a[SOURCE] + place, L, L), mean)
                    gradient = vector_load(a[GRADIENT] + place, L, L)
                    if a[RELU] != 0:
                        gate = vector_multiply_add(x, scale, shift)
                        gradient = vector_where_positive(gate, gradient)
                    value = vector_multiply_add(x, of_inputs, added)
                    value = vector_multiply_add(gradient, scale, value)
                    vector_store(value, a[TARGET] + place, L)
                    place += row
                c += L

    return _gradient_kernel


@cached_njit()
def _rows_at_a_time(rows: int, channels: int) -> int:
    """The least number of rows that fills whole vectors, or 1 where they cannot be cut so."""
    together = 1
    while together * channels % MOST_LANES != 0:
        together *= 2
    return together if rows % together == 0 else 1


@cached_njit()
def _begin(args: Any, inputs: Any, relu: bool) -> int:
    """Set what the passes share; returns how many times a row of the block repeats the channels."""
    rows, channels = inputs.shape
    together = _rows_at_a_time(rows, channels)
    args[SOURCE], args[RELU] = address_of(inputs), 1 if relu else 0
    args[ROWS], args[WIDE] = rows // together, channels * together
    args[BLOCK] = max(_BLOCK_FLOATS // args[WIDE], 1)
    return together


@cached_njit()
def _tasks(args: Any) -> int:
    return (args[ROWS] + args[BLOCK] - 1) // args[BLOCK]


@cached_njit()
def _run(family: int, args: Any) -> None:
    _, lanes = choose_lanes(args[WIDE], 1)
    run_kernel(family + width_number(lanes), args, _tasks(args), _GRAIN)


@cached_njit()
def _set_scale(
    factors: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float
) -> None:
    channels = mean.size
    for c in range(channels):
        scale = gamma[c] / np.sqrt(variance[c] + np.float32(epsilon))
        for index in range(c, factors.shape[1], channels):
            factors[MEAN, index] = mean[c]
            factors[SCALE, index] = scale
            factors[SHIFT, index] = beta[c]


@cached_njit()
def batch_norm_forward(
    inputs: Any,
    gamma: Any,
    beta: Any,
    epsilon: float,
    relu: bool,
    outputs: Any,
    mean: Any,
    variance: Any,
) -> None:
    """Normalize by the moments of the batch, scale and shift, and a ReLU if asked for.

    Args:
        inputs: (M, C) float32, C-contiguous, as all arrays here.
        gamma: (C,), what scales.
        beta: (C,), what shifts.
        epsilon: added to the variance.
        relu: apply a ReLU.
        outputs: (M, C), written.
        mean: (C,), written; NaN where there are no rows.
        variance: (C,), written: of the rows, with M and not M - 1 in the denominator.
    """
    rows, channels = inputs.shape
    if inputs.size == 0:
        mean[:] = np.float32(np.nan)
        variance[:] = np.float32(np.nan)
        return
    args = np.zeros(FIELDS, np.int64)
    _begin(args, inputs, relu)
    sums = np.empty((_tasks(args), 2, args[WIDE]), np.float32)
    args[SUMS] = address_of(sums)
    _run(_MOMENTS, args)
    means, squares = np.zeros(channels), np.zeros(channels)
    for block in range(sums.shape[0]):
        count = min(args[BLOCK], args[ROWS] - block * args[BLOCK])
        for first in range(0, args[WIDE], channels):
            for c in range(channels):
                means[c] += count * sums[block, 0, first + c]
    for c in range(channels):
        means[c] /= rows
    for block in range(sums.shape[0]):
        count = min(args[BLOCK], args[ROWS] - block * args[BLOCK])
        for first in range(0, args[WIDE], channels):
            for c in range(channels):
                away = sums[block, 0, first + c] - means[c]
                squares[c] += sums[block, 1, first + c] + count * away * away
    for c in range(channels):
        mean[c], variance[c] = means[c], squares[c] / rows
    factors = np.empty((FACTOR_ROWS, args[WIDE]), np.float32)
    _set_scale(factors, mean, variance, gamma, beta, epsilon)
    args[FACTORS], args[TARGET] = address_of(factors), address_of(outputs)
    _run(_NORMALIZE, args)
    factors[:0] = np.float32(0)  # keeps the factors alive until here


@cached_njit()
def batch_norm_grads(
    inputs: Any,
    gamma: Any,
    beta: Any,
    epsilon: float,
    relu: bool,
    mean: Any,
    variance: Any,
    grad_outputs: Any,
    grad_mean: Any,
    grad_variance: Any,
    grad_inputs: Any,
    grad_gamma: Any,
    grad_beta: Any,
) -> None:
    """The gradients of ``inputs``, ``gamma`` and ``beta``, of all three outputs.

    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift", 2015, section 3. A ReLU that was off passes nothing.
    """
    rows, channels = inputs.shape
    if inputs.size == 0:
        grad_gamma[:] = np.float32(0)
        grad_beta[:] = np.float32(0)
        return
    args = np.zeros(FIELDS, np.int64)
    _begin(args, inputs, relu)
    sums = np.empty((_tasks(args), 2, args[WIDE]), np.float32)
    factors = np.empty((FACTOR_ROWS, args[WIDE]), np.float32)
    _set_scale(factors, mean, variance, gamma, beta, epsilon)
    args[SUMS], args[FACTORS] = address_of(sums), address_of(factors)
    args[GRADIENT], args[TARGET] = address_of(grad_outputs), address_of(grad_inputs)
    _run(_GRADIENT_SUMS, args)
    plain, product = np.zeros(channels), np.zeros(channels)
    for block in range(sums.shape[0]):
        for first in range(0, args[WIDE], channels):
            for c in range(channels):
                plain[c] += sums[block, 0, first + c]
                product[c] += sums[block, 1, first + c]
    for c in range(channels):
        inverse = 1 / np.sqrt(np.float64(variance[c]) + epsilon)
        grad_beta[c] = plain[c]
        grad_gamma[c] = product[c] * inverse
        scale = gamma[c] * inverse
        of_inputs = (2 * grad_variance[c] - scale * inverse * inverse * product[c]) / rows
        added = (grad_mean[c] - scale * plain[c]) / rows
        for index in range(c, args[WIDE], channels):
            factors[OF_INPUTS, index] = of_inputs
            factors[ADDED, index] = added
    _run(_GRADIENT, args)
    factors[:0] = np.float32(0)  # keeps the factors alive until here
