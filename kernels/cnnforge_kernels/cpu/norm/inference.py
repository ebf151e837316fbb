"""Compute batch normalization on the CPU with a given mean and variance, in float32.

Predictions and frozen layers use a given mean and variance. One pass over the inputs computes the
outputs; frameworks make several passes. The same pass over the gradient of the outputs computes the
gradient of the inputs. One more pass computes sums, from which the gradients of gamma, beta, mean
and variance follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cpu.norm.passes import (
    FACTOR_ROWS,
    FACTORS,
    FIELDS,
    GRADIENT,
    GRADIENT_SUMS,
    MEAN,
    NORMALIZE,
    PLAIN,
    PRODUCTS,
    SCALE,
    SHIFT,
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


@cached_njit()
def _factors(args: Any) -> Any:
    """Make the array of factors (see ``passes.py``), all zero, and put its address in ``args``."""
    factors = np.zeros((FACTOR_ROWS, args[WIDE]), np.float32)
    args[FACTORS] = address_of(factors)
    return factors


@cached_njit()
def _scale(gamma: float, variance: float, epsilon: float) -> float:
    return gamma / np.sqrt(np.float64(variance) + epsilon)


@cached_njit()
def batch_norm_inference_forward(
    inputs: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    outputs: Any,
) -> None:
    """Write ``(inputs - mean) / sqrt(variance + epsilon) * gamma + beta``.

    Args:
        inputs: (M, C) float32. All arrays must be float32 and C-contiguous.
        gamma: (C,), scale.
        beta: (C,), shift.
        mean: (C,), mean of each channel.
        variance: (C,), variance of each channel.
        epsilon: Number that is added to the variance.
        outputs: (M, C), which the function writes.
    """
    if inputs.size == 0:
        return
    channels = inputs.shape[1]
    args = np.zeros(FIELDS, np.int64)
    set_rows(args, inputs, False)
    factors = _factors(args)
    for index in range(args[WIDE]):
        c = index % channels
        factors[MEAN, index] = mean[c]
        factors[SCALE, index] = _scale(gamma[c], variance[c], epsilon)
        factors[SHIFT, index] = beta[c]
    args[TARGET] = address_of(outputs)
    run_rows(NORMALIZE, args)
    # The kernel got only the address of `factors`. Numba frees an array after its last use, so use
    # `factors` here, to keep it until the kernel has finished.
    factors[:0] = np.float32(0)


@cached_njit()
def batch_norm_inference_grad_inputs(
    gamma: Any,
    variance: Any,
    epsilon: float,
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of the inputs, (M, C), from the gradient of the outputs, (M, C).

    The other arguments are those of ``batch_norm_inference_forward``.
    """
    if grad_outputs.size == 0:
        return
    channels = grad_outputs.shape[1]
    args = np.zeros(FIELDS, np.int64)
    set_rows(args, grad_outputs, False)
    factors = _factors(args)
    for index in range(args[WIDE]):
        c = index % channels
        factors[SCALE, index] = _scale(gamma[c], variance[c], epsilon)
    args[TARGET] = address_of(grad_inputs)
    run_rows(NORMALIZE, args)
    # The kernel got only the address of `factors`. Numba frees an array after its last use, so use
    # `factors` here, to keep it until the kernel has finished.
    factors[:0] = np.float32(0)


@cached_njit()
def batch_norm_inference_grad_parameters(
    inputs: Any,
    gamma: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    grad_outputs: Any,
    grad_gamma: Any,
    grad_beta: Any,
    grad_mean: Any,
    grad_variance: Any,
) -> None:
    """Compute the gradients of ``gamma``, ``beta``, ``mean`` and ``variance``, each (C,) float32.

    The gradient of the outputs is (M, C). The other arguments are those of
    ``batch_norm_inference_forward``.
    """
    channels = inputs.shape[1]
    plain, products = np.zeros(channels), np.zeros(channels)
    if inputs.size > 0:
        args = np.zeros(FIELDS, np.int64)
        set_rows(args, inputs, False)
        factors = _factors(args)
        for index in range(args[WIDE]):
            factors[MEAN, index] = mean[index % channels]
        sums = np.empty((blocks(args), SUM_ROWS, args[WIDE]), np.float32)
        args[SUMS], args[GRADIENT] = address_of(sums), address_of(grad_outputs)
        run(GRADIENT_SUMS, args)
        for block in range(sums.shape[0]):
            for index in range(args[WIDE]):
                plain[index % channels] += sums[block, PLAIN, index]
                products[index % channels] += sums[block, PRODUCTS, index]
        # The kernel got only the address of `factors`. Numba frees an array after its last use, so
        # use `factors` here, to keep it until the kernel has finished.
        factors[:0] = np.float32(0)
    for c in range(channels):
        inverse = 1 / np.sqrt(np.float64(variance[c]) + epsilon)
        scale = gamma[c] * inverse
        grad_gamma[c] = products[c] * inverse
        grad_beta[c] = plain[c]
        grad_mean[c] = -plain[c] * scale
        grad_variance[c] = -products[c] * scale * inverse * inverse / 2
