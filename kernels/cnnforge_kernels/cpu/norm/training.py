"""Compute batch normalization with the moments of the batch, and its gradients, on the CPU.

Arrays are float32 with the channels last. The moments (mean and variance) are float64. To compute
them, a task first computes the mean of a block of rows. Then it computes the differences from this
mean, and adds up the differences and their squares, while the block is still in the first-level
cache. This is the corrected two-pass algorithm of T. Chan, G. Golub, R. LeVeque, "Algorithms for
Computing the Sample Variance", 1983. The results of all blocks are combined in float64, in the
order of the blocks. So the inputs are read from memory only once for the moments. Also, a mean far
from zero does not make the moments less accurate. The kernels get the mean rounded to float32, and
the rounding error is corrected in the shift.

The gradients need two passes over the inputs: the first computes sums over all rows, the second
computes the gradient of each row.

If the channels of a row do not fill whole SIMD vectors, k rows are treated as one row: an array
(M, C) has the same memory layout as an array (M / k, k * C).
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
    LIMIT,
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
    run_rows,
    set_rows,
)
from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.runtime.memory import address_of

# The position of a name is the number that `activation` takes. `None` changes nothing.
BATCH_NORM_ACTIVATIONS = (None, "relu", "relu6")
NO_ACTIVATION, RELU, RELU6 = range(3)


@cached_njit()
def _set_outputs(
    factors: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, activation: int
) -> None:
    """Set the factors from which the outputs follow."""
    channels = mean.size
    factors[LIMIT] = np.float32(6) if activation == RELU6 else np.float32(np.nan)
    for c in range(channels):
        near = np.float32(mean[c])
        scale = gamma[c] / np.sqrt(variance[c] + epsilon)
        shift = beta[c] - (mean[c] - near) * scale
        for index in range(c, factors.shape[1], channels):
            factors[MEAN, index] = near
            factors[SCALE, index] = scale
            factors[SHIFT, index] = shift


@cached_njit()
def _fold(wide: Any, values: Any) -> None:
    """Add up the values of a joined row, ``wide``, that belong to the same channel."""
    values[:] = 0
    for first in range(0, wide.size, values.size):
        for c in range(values.size):
            values[c] += wide[first + c]


@cached_njit()
def _add_blocks(sums: Any, which: int, total: Any) -> None:
    """Add up the sums of all blocks, (blocks, SUM_ROWS, WIDE), of which ``which`` says the row."""
    wide = np.zeros(sums.shape[2])
    for block in range(sums.shape[0]):
        each = sums[block, which]
        for c in range(wide.size):
            wide[c] += np.float64(each[c])
    _fold(wide, total)


@cached_njit()
def _join_moments(args: Any, sums: Any, mean: Any, variance: Any) -> None:
    wide = np.zeros(args[WIDE])
    together = args[WIDE] // mean.size
    for block in range(sums.shape[0]):
        count = np.float64(min(args[BLOCK], args[ROWS] - block * args[BLOCK]))
        near, rest = sums[block, NEAR], sums[block, REST]
        # Each loop has a range that starts with 0, so that it is vectorized.
        for c in range(wide.size):
            wide[c] += np.float64(near[c]) * count + np.float64(rest[c])
    _fold(wide, mean)
    mean /= args[ROWS] * together
    means = np.empty(args[WIDE])
    for first in range(0, wide.size, mean.size):
        means[first : first + mean.size] = mean
    wide[:] = 0
    for block in range(sums.shape[0]):
        count = np.float64(min(args[BLOCK], args[ROWS] - block * args[BLOCK]))
        near, rest, squares = sums[block, NEAR], sums[block, REST], sums[block, SQUARES]
        for c in range(wide.size):
            away = np.float64(near[c]) - means[c]
            wide[c] += np.float64(squares[c]) + away * (2 * np.float64(rest[c]) + count * away)
    _fold(wide, variance)
    variance /= args[ROWS] * together


@cached_njit()
def batch_moments(inputs: Any, mean: Any, variance: Any) -> None:
    """Compute the mean and the variance of each channel.

    Args:
        inputs: (M, C) float32. All arrays must be C-contiguous.
        mean: (C,) float64, which the function writes; NaN if M is 0.
        variance: (C,) float64, which the function writes; NaN if M is 0. The denominator is M, not
            M - 1.
    """
    if inputs.size == 0:
        mean[:] = np.nan
        variance[:] = np.nan
        return
    args = np.zeros(FIELDS, np.int64)
    set_rows(args, inputs, False)
    sums = np.empty((blocks(args), SUM_ROWS, args[WIDE]), np.float32)
    args[SUMS] = address_of(sums)
    run(MOMENTS, args)
    _join_moments(args, sums, mean, variance)


@cached_njit()
def batch_moments_and_averages(
    inputs: Any,
    moving_mean: Any,
    moving_variance: Any,
    momentum: float,
    mean: Any,
    variance: Any,
    new_mean: Any,
    new_variance: Any,
) -> None:
    """Compute the mean and the variance of each channel, and the moving averages after the step.

    Args:
        inputs: (M, C) float32. All arrays must be C-contiguous.
        moving_mean: (C,) float32, average of the means of earlier steps.
        moving_variance: (C,) float32, average of the variances of earlier steps.
        momentum: Weight of the earlier averages in the new ones, from 0 to 1.
        mean: (C,) float64, written, as by ``batch_moments``.
        variance: (C,) float64, written, as by ``batch_moments``.
        new_mean: (C,) float32, written: ``moving_mean * momentum + mean * (1 - momentum)``.
        new_variance: (C,) float32, written, in the same way.
    """
    batch_moments(inputs, mean, variance)
    kept, added = np.float32(momentum), np.float32(1 - momentum)
    for c in range(mean.size):
        # As in Keras, each product is rounded to float32 before the sum.
        new_mean[c] = moving_mean[c] * kept + np.float32(mean[c]) * added
        new_variance[c] = moving_variance[c] * kept + np.float32(variance[c]) * added


@cached_njit()
def batch_norm_forward(
    inputs: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    activation: int,
    outputs: Any,
) -> None:
    """Normalize with the moments of the batch, scale, shift, and apply an activation function.

    Args:
        inputs: (M, C) float32. All arrays must be C-contiguous.
        gamma: (C,) float32, scale.
        beta: (C,) float32, shift.
        mean: (C,) float64, the mean that ``batch_moments`` has written.
        variance: (C,) float64, the variance that ``batch_moments`` has written.
        epsilon: Number that is added to the variance.
        activation: Index of its name in ``BATCH_NORM_ACTIVATIONS``.
        outputs: (M, C) float32, which the function writes.
    """
    if inputs.size == 0:
        return
    args = np.zeros(FIELDS, np.int64)
    set_rows(args, inputs, activation != NO_ACTIVATION)
    factors = np.empty((FACTOR_ROWS, args[WIDE]), np.float32)
    _set_outputs(factors, mean, variance, gamma, beta, epsilon, activation)
    args[FACTORS], args[TARGET] = address_of(factors), address_of(outputs)
    run_rows(NORMALIZE, args)
    # The kernel got only the address of `factors`. Numba frees an array after its last use, so use
    # `factors` here, to keep it until the kernel has finished.
    factors[:0] = np.float32(0)


@cached_njit()
def batch_norm_and_moments_grads(
    inputs: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    activation: int,
    grad_outputs: Any,
    grad_mean: Any,
    grad_variance: Any,
    grad_inputs: Any,
    grad_gamma: Any,
    grad_beta: Any,
) -> None:
    """Compute the gradients of ``inputs``, ``gamma`` and ``beta``.

    The function computes them from the gradients of the outputs, of the mean and of the variance,
    by the formulas of S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network
    Training by Reducing Internal Covariate Shift", 2015, section 3. An output that the activation
    function has limited has no gradient.
    """
    rows, channels = inputs.shape
    if inputs.size == 0:
        grad_gamma[:] = np.float32(0)
        grad_beta[:] = np.float32(0)
        return
    args = np.zeros(FIELDS, np.int64)
    set_rows(args, inputs, activation != NO_ACTIVATION)
    sums = np.empty((blocks(args), SUM_ROWS, args[WIDE]), np.float32)
    factors = np.empty((FACTOR_ROWS, args[WIDE]), np.float32)
    _set_outputs(factors, mean, variance, gamma, beta, epsilon, activation)
    args[SUMS], args[FACTORS] = address_of(sums), address_of(factors)
    args[GRADIENT], args[TARGET] = address_of(grad_outputs), address_of(grad_inputs)
    run(GRADIENT_SUMS, args)
    plain, products = np.zeros(channels), np.zeros(channels)
    _add_blocks(sums, PLAIN, plain)
    _add_blocks(sums, PRODUCTS, products)
    for c in range(channels):
        # The kernel computed the sum of products with the mean rounded to float32. Correct the sum
        # by the rounding error of the mean.
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
    run_rows(GRADIENT_PASS, args)
    # The kernel got only the address of `factors`. Numba frees an array after its last use, so use
    # `factors` here, to keep it until the kernel has finished.
    factors[:0] = np.float32(0)


@cached_njit()
def batch_norm_grads(
    inputs: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    activation: int,
    grad_outputs: Any,
    grad_inputs: Any,
    grad_gamma: Any,
    grad_beta: Any,
) -> None:
    """Compute the gradients of ``inputs``, ``gamma`` and ``beta`` from that of the outputs.

    The moments are functions of the inputs. See ``batch_norm_and_moments_grads``.
    """
    none = np.zeros(mean.size)
    batch_norm_and_moments_grads(
        inputs,
        gamma,
        beta,
        mean,
        variance,
        epsilon,
        activation,
        grad_outputs,
        none,
        none,
        grad_inputs,
        grad_gamma,
        grad_beta,
    )
