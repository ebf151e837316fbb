"""Batch normalization on the CPU and its gradients: float32, channels last, moments in float64.

A task computes the mean of a block of rows, and then the sum of the differences from it and the sum
of their squares, while the block is still in the first-level cache. This is the corrected two-pass
algorithm of T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance", 1983.
The moments of all blocks are joined in float64, in the order of the blocks. So the memory is read
only once for the moments, and a mean far from zero does not make them less accurate. The part of
the mean that float32 cannot hold is added to the shift. The gradients take two passes over the
memory: one computes the sums over all rows, the other the gradient of each row.

If the channels do not fill whole vectors, k rows are treated as one: an array (M, C) has the same
memory as an array (M / k, k * C).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cpu.norm.passes import (
    ADDED,
    BLOCK,
    FACTOR_ROWS,
    FACTORS,
    FIELDS,
    GRADIENT,
    GRADIENT_PASS,
    GRADIENT_SUMS,
    MEAN,
    MOMENTS,
    NEAR,
    NORMALIZE,
    OF_INPUTS,
    PLAIN,
    PRODUCTS,
    REST,
    ROWS,
    SCALE,
    SHIFT,
    SQUARES,
    SUM_ROWS,
    SUMS,
    TARGET,
    WIDE,
    blocks,
    run,
    set_rows,
)
from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.runtime.memory import address_of


@cached_njit()
def _set_scale(
    factors: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float
) -> None:
    channels = mean.size
    for c in range(channels):
        near = np.float32(mean[c])
        scale = gamma[c] / np.sqrt(variance[c] + epsilon)
        shift = beta[c] - (mean[c] - near) * scale
        for index in range(c, factors.shape[1], channels):
            factors[MEAN, index] = near
            factors[SCALE, index] = scale
            factors[SHIFT, index] = shift


@cached_njit()
def _join_moments(args: Any, sums: Any, mean: Any, variance: Any) -> None:
    channels = mean.size
    rows = args[ROWS] * (args[WIDE] // channels)
    mean[:] = 0
    variance[:] = 0
    for block in range(sums.shape[0]):
        count = min(args[BLOCK], args[ROWS] - block * args[BLOCK])
        for first in range(0, args[WIDE], channels):
            for c in range(channels):
                near, rest = sums[block, NEAR, first + c], sums[block, REST, first + c]
                mean[c] += np.float64(near) * count + rest
    for c in range(channels):
        mean[c] /= rows
    for block in range(sums.shape[0]):
        count = min(args[BLOCK], args[ROWS] - block * args[BLOCK])
        for first in range(0, args[WIDE], channels):
            for c in range(channels):
                away = sums[block, NEAR, first + c] - mean[c]
                squares = sums[block, SQUARES, first + c]
                variance[c] += squares + away * (
                    2 * np.float64(sums[block, REST, first + c]) + count * away
                )
    for c in range(channels):
        variance[c] /= rows


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
    """Normalize with the moments of the batch, scale, shift, and apply a ReLU if ``relu``.

    Args:
        inputs: (M, C) float32, C-contiguous, as all arrays here.
        gamma: (C,) float32, scale.
        beta: (C,) float32, shift.
        epsilon: number that is added to the variance.
        relu: whether a ReLU is applied.
        outputs: (M, C) float32, written.
        mean: (C,) float64, written; NaN if M is 0.
        variance: (C,) float64, written; the denominator is M, not M - 1.
    """
    if inputs.size == 0:
        mean[:] = np.nan
        variance[:] = np.nan
        return
    args = np.zeros(FIELDS, np.int64)
    set_rows(args, inputs, relu)
    sums = np.empty((blocks(args), SUM_ROWS, args[WIDE]), np.float32)
    args[SUMS] = address_of(sums)
    run(MOMENTS, args)
    _join_moments(args, sums, mean, variance)
    factors = np.empty((FACTOR_ROWS, args[WIDE]), np.float32)
    _set_scale(factors, mean, variance, gamma, beta, epsilon)
    args[FACTORS], args[TARGET] = address_of(factors), address_of(outputs)
    run(NORMALIZE, args)
    # The kernel has only its address. Numba frees an array after its last use, so use it here.
    factors[:0] = np.float32(0)


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
    """Compute the gradients of ``inputs``, ``gamma`` and ``beta``.

    They follow from the gradients of the outputs, the mean and the variance. S. Ioffe, C. Szegedy,
    "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    2015, section 3. The gradient of a ReLU that is off is zero.
    """
    rows, channels = inputs.shape
    if inputs.size == 0:
        grad_gamma[:] = np.float32(0)
        grad_beta[:] = np.float32(0)
        return
    args = np.zeros(FIELDS, np.int64)
    set_rows(args, inputs, relu)
    sums = np.empty((blocks(args), SUM_ROWS, args[WIDE]), np.float32)
    factors = np.empty((FACTOR_ROWS, args[WIDE]), np.float32)
    _set_scale(factors, mean, variance, gamma, beta, epsilon)
    args[SUMS], args[FACTORS] = address_of(sums), address_of(factors)
    args[GRADIENT], args[TARGET] = address_of(grad_outputs), address_of(grad_inputs)
    run(GRADIENT_SUMS, args)
    plain, products = np.zeros(channels), np.zeros(channels)
    for block in range(sums.shape[0]):
        for first in range(0, args[WIDE], channels):
            for c in range(channels):
                plain[c] += sums[block, PLAIN, first + c]
                products[c] += sums[block, PRODUCTS, first + c]
    for c in range(channels):
        # The sum of products was computed with the mean rounded to float32. Correct it by the
        # rounding error.
        missing = mean[c] - np.float32(mean[c])
        product = products[c] - missing * plain[c]
        inverse = 1 / np.sqrt(variance[c] + epsilon)
        scale = gamma[c] * inverse
        grad_beta[c] = plain[c]
        grad_gamma[c] = product * inverse
        of_inputs = (2 * grad_variance[c] - scale * inverse * inverse * product) / rows
        added = (grad_mean[c] - scale * plain[c]) / rows - missing * of_inputs
        for index in range(c, args[WIDE], channels):
            factors[OF_INPUTS, index] = of_inputs
            factors[ADDED, index] = added
    run(GRADIENT_PASS, args)
    # The kernel has only its address. Numba frees an array after its last use, so use it here.
    factors[:0] = np.float32(0)
