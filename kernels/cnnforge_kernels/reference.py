"""Reference implementations of all ops in plain NumPy and float64, which are simple but slow.

Tests compare each kernel with these functions. Inputs and outputs are NHWC, weights are HWIO, and a
convolution is a cross-correlation, as in Keras. If SAME padding is odd, the larger half is at the
bottom and at the right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels._reference_dropout import dropout, dropout_grad, philox
from cnnforge_kernels.geometry import output_size, padding_before

__all__ = [
    "average_pool2d",
    "average_pool2d_grad",
    "batch_norm",
    "batch_norm_gradients",
    "batch_norm_inference",
    "batch_norm_inference_gradients",
    "conv2d",
    "conv2d_gradients",
    "conv_block",
    "conv_block_gradients",
    "dense",
    "dense_gradients",
    "depthwise_conv2d",
    "depthwise_conv2d_gradients",
    "dropout",
    "dropout_grad",
    "global_average_pool2d",
    "global_average_pool2d_grad",
    "max_pool2d",
    "max_pool2d_grad",
    "philox",
]

Array = NDArray[np.float64]
Pair = tuple[int, int]


def _pad(inputs: NDArray, window: Pair, strides: Pair, same: bool, dilation: Pair, fill: float):
    """Return two values: ``inputs`` padded with ``fill``, and the list [OH, OW] of output sizes."""
    sizes = [
        output_size(inputs.shape[1 + a], window[a], strides[a], dilation[a], same) for a in (0, 1)
    ]
    widths = [(0, 0)]
    for a in (0, 1):
        before = padding_before(inputs.shape[1 + a], window[a], strides[a], dilation[a], same)
        needed = (sizes[a] - 1) * strides[a] + (window[a] - 1) * dilation[a] + 1
        widths.append((before, max(needed - before - inputs.shape[1 + a], 0)))
    return np.pad(inputs.astype(np.float64), [*widths, (0, 0)], constant_values=fill), sizes


def _taps(window: Pair, strides: Pair, dilation: Pair, sizes: list[int]) -> Iterator[tuple]:
    """Yield (i, j, rows, columns) for each cell (i, j) of a window.

    ``rows`` and ``columns`` are the slices of the padded inputs that the cell (i, j) reads.
    """
    for i in range(window[0]):
        for j in range(window[1]):
            starts = i * dilation[0], j * dilation[1]
            yield (
                i,
                j,
                *(
                    slice(starts[a], starts[a] + (sizes[a] - 1) * strides[a] + 1, strides[a])
                    for a in (0, 1)
                ),
            )


def conv2d(
    inputs: NDArray,
    weights: NDArray,
    bias: NDArray | None = None,
    *,
    strides: Pair = (1, 1),
    same: bool = False,
    dilation_rate: Pair = (1, 1),
    groups: int = 1,
    relu: bool = False,
) -> Array:
    """Convolve (N, H, W, C) with weights (KH, KW, C / groups, F), and return (N, OH, OW, F)."""
    kh, kw, channels, filters = weights.shape
    padded, sizes = _pad(inputs, (kh, kw), strides, same, dilation_rate, 0.0)
    outputs = np.zeros((len(inputs), *sizes, filters))
    if outputs.size:
        for i, j, rows, columns in _taps((kh, kw), strides, dilation_rate, sizes):
            for c, f in _groups(groups, channels, filters // groups):
                outputs[..., f] += _product(padded[:, rows, columns, c], weights[i, j, :, f])
    if bias is not None:
        outputs += bias
    return np.where(outputs < 0, 0, outputs) if relu else outputs


def _product(left: NDArray, right: NDArray) -> Array:
    # BLAS also multiplies unused SIMD lanes and ignores the results. Ignore NumPy's warnings, which
    # may come from such a product.
    with np.errstate(invalid="ignore"):
        return left @ right.astype(np.float64)


def _groups(groups: int, channels: int, filters: int) -> Iterator[tuple[slice, slice]]:
    for g in range(groups):
        yield slice(g * channels, (g + 1) * channels), slice(g * filters, (g + 1) * filters)


def conv2d_gradients(
    inputs: NDArray,
    weights: NDArray,
    grad_outputs: NDArray,
    *,
    outputs: NDArray | None = None,
    strides: Pair = (1, 1),
    same: bool = False,
    dilation_rate: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """Return the gradients of inputs, weights and bias; pass ``outputs`` if there was a ReLU."""
    kh, kw, channels, filters = weights.shape
    grads = grad_outputs.astype(np.float64)
    if outputs is not None:
        grads = np.where(outputs > 0, grads, 0)
    padded, sizes = _pad(inputs, (kh, kw), strides, same, dilation_rate, 0.0)
    grad_padded, grad_weights = np.zeros_like(padded), np.zeros(weights.shape)
    if grads.size:
        for i, j, rows, columns in _taps((kh, kw), strides, dilation_rate, sizes):
            for c, f in _groups(groups, channels, filters // groups):
                product = _product(grads[..., f], weights[i, j, :, f].T)
                grad_padded[:, rows, columns, c] += product
                grad_weights[i, j, :, f] = np.einsum(
                    "nhwc,nhwf->cf", padded[:, rows, columns, c], grads[..., f]
                )
    top = padding_before(inputs.shape[1], kh, strides[0], dilation_rate[0], same)
    left = padding_before(inputs.shape[2], kw, strides[1], dilation_rate[1], same)
    inner = grad_padded[:, top : top + inputs.shape[1], left : left + inputs.shape[2]]
    return inner, grad_weights, grads.sum((0, 1, 2))


def max_pool2d(
    inputs: NDArray, *, pool_size: Pair = (2, 2), strides: Pair | None = None, same: bool = False
) -> tuple[Array, NDArray[np.int64]]:
    """Return maxima and argmax, each (N, OH, OW, C); an argmax is a row-major index in a window."""
    strides = strides or pool_size
    padded, sizes = _pad(inputs, pool_size, strides, same, (1, 1), -np.inf)
    real, _ = _pad(np.ones_like(inputs), pool_size, strides, same, (1, 1), 0.0)
    best = np.full((len(inputs), *sizes, inputs.shape[3]), -np.inf)
    argmax = np.full(best.shape, -1)
    if best.size:
        for i, j, rows, columns in _taps(pool_size, strides, (1, 1), sizes):
            cell, there = padded[:, rows, columns], real[:, rows, columns] > 0
            wins = there & (argmax < 0) | (~(cell <= best) & ~np.isnan(best))
            best, argmax = (
                np.where(wins, cell, best),
                np.where(wins, i * pool_size[1] + j, argmax),
            )
    return best, argmax


def max_pool2d_grad(
    inputs: NDArray,
    grad_outputs: NDArray,
    *,
    pool_size: Pair = (2, 2),
    strides: Pair | None = None,
    same: bool = False,
) -> Array:
    """Return the gradient of the inputs, (N, H, W, C).

    Only the first maximum of each window has a gradient.
    """
    strides = strides or pool_size
    _, argmax = max_pool2d(inputs, pool_size=pool_size, strides=strides, same=same)
    grads, sizes = _pad(np.zeros_like(inputs), pool_size, strides, same, (1, 1), 0.0)
    if grad_outputs.size:
        for i, j, rows, columns in _taps(pool_size, strides, (1, 1), sizes):
            chosen = argmax == i * pool_size[1] + j
            grads[:, rows, columns] += np.where(chosen, grad_outputs, 0.0)
    return _crop(grads, inputs, pool_size, strides, same)


def _crop(padded: Array, inputs: NDArray, window: Pair, strides: Pair, same: bool) -> Array:
    top = padding_before(inputs.shape[1], window[0], strides[0], 1, same)
    left = padding_before(inputs.shape[2], window[1], strides[1], 1, same)
    return padded[:, top : top + inputs.shape[1], left : left + inputs.shape[2]]


def _cells(inputs: NDArray, pool_size: Pair, strides: Pair, same: bool) -> Array:
    """Return how many cells of each window are not padding, as an array (1, OH, OW, 1)."""
    ones = np.ones((1, *inputs.shape[1:3], 1))
    padded, sizes = _pad(ones, pool_size, strides, same, (1, 1), 0.0)
    cells = np.zeros((1, *sizes, 1))
    for _, _, rows, columns in _taps(pool_size, strides, (1, 1), sizes):
        cells += padded[:, rows, columns]
    return cells


def average_pool2d(
    inputs: NDArray, *, pool_size: Pair = (2, 2), strides: Pair | None = None, same: bool = False
) -> Array:
    """Return the mean of each window of (N, H, W, C) without its padding, (N, OH, OW, C)."""
    strides = strides or pool_size
    padded, sizes = _pad(inputs, pool_size, strides, same, (1, 1), 0.0)
    total = np.zeros((len(inputs), *sizes, inputs.shape[3]))
    if not total.size:
        return total
    for _, _, rows, columns in _taps(pool_size, strides, (1, 1), sizes):
        total += padded[:, rows, columns]
    return total / _cells(inputs, pool_size, strides, same)


def average_pool2d_grad(
    inputs: NDArray,
    grad_outputs: NDArray,
    *,
    pool_size: Pair = (2, 2),
    strides: Pair | None = None,
    same: bool = False,
) -> Array:
    """Return the gradient of the inputs, (N, H, W, C), from that of the outputs."""
    strides = strides or pool_size
    grads, sizes = _pad(np.zeros_like(inputs), pool_size, strides, same, (1, 1), 0.0)
    if grad_outputs.size:
        share = grad_outputs / _cells(inputs, pool_size, strides, same)
        for _, _, rows, columns in _taps(pool_size, strides, (1, 1), sizes):
            grads[:, rows, columns] += share
    return _crop(grads, inputs, pool_size, strides, same)


def depthwise_conv2d(
    inputs: NDArray, weights: NDArray, bias: NDArray | None = None, **options: Any
) -> Array:
    """Convolve each channel of (N, H, W, C) with weights (KH, KW, C, M); return (N, OH, OW, C * M).

    This is a convolution in C groups. The options are those of ``conv2d`` except ``groups``.
    """
    kh, kw, channels, multiplier = weights.shape
    grouped = weights.reshape(kh, kw, 1, channels * multiplier)
    return conv2d(inputs, grouped, bias, groups=channels, **options)


def depthwise_conv2d_gradients(
    inputs: NDArray, weights: NDArray, grad_outputs: NDArray, **options: Any
) -> tuple[Array, Array, Array]:
    """Return what ``conv2d_gradients`` returns, and accept its options except ``groups``."""
    kh, kw, channels, multiplier = weights.shape
    grad_inputs, grad_weights, grad_bias = conv2d_gradients(
        inputs,
        weights.reshape(kh, kw, 1, channels * multiplier),
        grad_outputs,
        groups=channels,
        **options,
    )
    return grad_inputs, grad_weights.reshape(weights.shape), grad_bias


def global_average_pool2d(inputs: NDArray) -> Array:
    """Return the mean of each channel of each image, (N, C); the inputs are (N, H, W, C)."""
    return inputs.mean((1, 2), dtype=np.float64)


def global_average_pool2d_grad(inputs: NDArray, grad_outputs: NDArray) -> Array:
    """Return the gradient of the inputs, (N, H, W, C), from that of the outputs."""
    share = grad_outputs.astype(np.float64) / (inputs.shape[1] * inputs.shape[2])
    return np.broadcast_to(share[:, None, None, :], inputs.shape).copy()


def dense(
    inputs: NDArray, weights: NDArray, bias: NDArray | None = None, *, relu: bool = False
) -> Array:
    """Multiply (N, C) by weights (C, F), add the bias (F,), and return (N, F)."""
    return conv2d(inputs[:, None, None], weights[None, None], bias, relu=relu)[:, 0, 0]


def dense_gradients(
    inputs: NDArray, weights: NDArray, grad_outputs: NDArray, *, outputs: NDArray | None = None
) -> tuple[Array, Array, Array]:
    """Return the gradients of inputs, weights and bias; pass ``outputs`` if there was a ReLU."""
    mask = None if outputs is None else outputs[:, None, None]
    grad_inputs, grad_weights, grad_bias = conv2d_gradients(
        inputs[:, None, None], weights[None, None], grad_outputs[:, None, None], outputs=mask
    )
    return grad_inputs[:, 0, 0], grad_weights[0, 0], grad_bias


def batch_norm(
    inputs: NDArray,
    gamma: NDArray,
    beta: NDArray,
    *,
    epsilon: float,
    activation: str | None = None,
) -> tuple[Array, Array, Array]:
    """Return three arrays: the outputs, (..., C), and each channel's mean and variance, (C,).

    ``activation`` is ``"relu"``, ``"relu6"`` or ``None``.
    """
    axes = tuple(range(inputs.ndim - 1))
    values = inputs.astype(np.float64)
    mean, variance = values.mean(axes), values.var(axes)
    outputs = (values - mean) / np.sqrt(variance + epsilon) * gamma + beta
    if activation is not None:
        outputs = np.clip(outputs, 0, {"relu": np.inf, "relu6": 6}[activation])
    return outputs, mean, variance


def batch_norm_gradients(
    inputs: NDArray,
    gamma: NDArray,
    grad_outputs: NDArray,
    *,
    epsilon: float,
    outputs: NDArray | None = None,
    limit: float = np.inf,
    grad_mean: NDArray | float = 0.0,
    grad_variance: NDArray | float = 0.0,
) -> tuple[Array, Array, Array]:
    """Return the gradients of inputs, gamma and beta; ``outputs`` and ``limit`` are of a ReLU."""
    axes, rows = tuple(range(inputs.ndim - 1)), inputs.size // max(inputs.shape[-1], 1)
    grads = grad_outputs.astype(np.float64)
    if outputs is not None:
        grads = np.where((outputs > 0) & (outputs < limit), grads, 0)
    _, mean, variance = batch_norm(inputs, gamma, gamma, epsilon=epsilon)
    away = inputs - mean
    scaled = away / np.sqrt(variance + epsilon)
    grad_scaled = grads * gamma / np.sqrt(variance + epsilon)
    common = grad_scaled.mean(axes) + scaled * (grad_scaled * scaled).mean(axes)
    grad_inputs = grad_scaled - common + (grad_mean + 2 * away * grad_variance) / rows
    return grad_inputs, (grads * scaled).sum(axes), grads.sum(axes)


def batch_norm_inference(
    inputs: NDArray,
    gamma: NDArray,
    beta: NDArray,
    mean: NDArray,
    variance: NDArray,
    *,
    epsilon: float,
) -> Array:
    """Normalize (..., C) with a given ``mean`` and ``variance``, each (C,); return (..., C)."""
    return (inputs.astype(np.float64) - mean) / np.sqrt(variance + epsilon) * gamma + beta


def batch_norm_inference_gradients(
    inputs: NDArray,
    gamma: NDArray,
    mean: NDArray,
    variance: NDArray,
    grad_outputs: NDArray,
    *,
    epsilon: float,
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the gradients of inputs, gamma, beta, mean and variance."""
    axes, grads = tuple(range(inputs.ndim - 1)), grad_outputs.astype(np.float64)
    inverse = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
    products = (grads * (inputs.astype(np.float64) - mean)).sum(axes)
    plain, scale = grads.sum(axes), gamma * inverse
    of_variance = -products * scale * inverse**2 / 2
    return grads * scale, products * inverse, plain, -plain * scale, of_variance


def conv_block(
    inputs: NDArray,
    weights: NDArray,
    bias: NDArray | None = None,
    *,
    pool_size: Pair = (2, 2),
    **options: Any,
) -> tuple[Array, NDArray[np.int64]]:
    """Compute convolution, ReLU and max pooling; return two arrays, the outputs and the argmax.

    The argmax is 255 if the maximum is not positive.
    """
    best, argmax = max_pool2d(conv2d(inputs, weights, bias, **options), pool_size=pool_size)
    return np.where(best < 0, 0, best), np.where(best > 0, argmax, 255)


def conv_block_gradients(
    inputs: NDArray,
    weights: NDArray,
    argmax: NDArray,
    grad_outputs: NDArray,
    *,
    pool_size: Pair = (2, 2),
    **options: Any,
) -> tuple[Array, Array, Array]:
    """Return the gradients of inputs, weights and bias, with the options of ``conv2d``."""
    grads = np.zeros_like(conv2d(inputs, weights, **options))
    for n, r, q, f in np.argwhere(argmax != 255):
        i, j = divmod(int(argmax[n, r, q, f]), pool_size[1])
        grads[n, r * pool_size[0] + i, q * pool_size[1] + j, f] = grad_outputs[n, r, q, f]
    return conv2d_gradients(inputs, weights, grads, **options)
