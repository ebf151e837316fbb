"""The public functions of batch normalization.

The mean and the variance are computed from the batch, or are arguments in the ``_inference``
functions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import arrays
from cnnforge_kernels.cpu.norm import inference, training
from cnnforge_kernels.launch.arguments import Array, host_array, host_out

Moments = NDArray[np.float64]


def _host(name: str, value: Any, dtype: Any, shape: tuple[int, ...] | None = None) -> Any:
    return host_array("batch_norm", name, value, dtype, shape)


def _options(
    inputs: Any, gamma: Any, beta: Any, epsilon: Any, activation: str | None
) -> tuple[Any, Any, Any, float, int]:
    """Check the five arguments, and return them; the last one as the number of the activation."""
    inputs = _host("inputs", inputs, np.float32)
    if inputs.ndim == 0:
        raise ValueError("`inputs` must be of rank 1 or more, channels last. Received: rank 0")
    each = inputs.shape[-1:]
    gamma, beta = _host("gamma", gamma, np.float32, each), _host("beta", beta, np.float32, each)
    number = isinstance(epsilon, (int, float, np.integer, np.floating))
    if not number or not 0 <= epsilon < math.inf:
        raise ValueError(f"`epsilon` must be a number, not negative. Received: {epsilon!r}")
    known = training.BATCH_NORM_ACTIVATIONS
    if activation not in known:
        raise ValueError(f'`activation` must be "relu", "relu6" or None. Received: {activation!r}')
    return inputs, gamma, beta, float(epsilon), known.index(activation)


def _rows(array: Any) -> Any:
    """Return a view of an array (..., C) with the shape (M, C)."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def batch_normalization(
    inputs: Array,
    gamma: Array,
    beta: Array,
    *,
    epsilon: float,
    activation: str | None = None,
    out: Array | None = None,
) -> tuple[Array, Moments, Moments]:
    """Return ``(inputs - mean) / sqrt(variance + epsilon) * gamma + beta``.

    The mean and the variance are those of the batch, for each channel.

    Args:
        inputs: (..., C) float32.
        gamma: (C,) float32.
        beta: (C,) float32.
        epsilon: number that is added to the variance.
        activation: ``"relu"``, ``"relu6"`` or ``None``.
        out: (..., C) float32 buffer to write to.

    Returns:
        Three arrays: the outputs, (..., C) float32, and the mean and the variance of each channel,
        (C,) float64. The denominator of the variance is the number M of values of a channel. If M
        is 0, the mean and the variance are NaN.

    Raises:
        ValueError: a dtype, shape or option is wrong, or an array is on a device.

    Example:
        >>> import numpy as np
        >>> inputs = np.float32([[1, 5], [3, 5]])
        >>> ones = np.ones(2, np.float32)
        >>> outputs, mean, variance = batch_normalization(inputs, ones, ones, epsilon=0.0625)
        >>> mean, variance
        (array([2., 5.]), array([1., 0.]))
    """
    inputs, *options = _options(inputs, gamma, beta, epsilon, activation)
    outputs = host_out("batch_norm", out, inputs.shape, (inputs, *options[:2]))
    mean, variance = (np.empty(inputs.shape[-1]) for _ in range(2))
    rows = _rows(inputs)
    arrays.call(training.batch_moments, rows, mean, variance)
    flat = rows, *options[:2], mean, variance, *options[2:], _rows(outputs)
    arrays.call(training.batch_norm_forward, *flat)
    return outputs, mean, variance


def batch_normalization_grads(
    inputs: Array,
    gamma: Array,
    beta: Array,
    mean: Moments,
    variance: Moments,
    grad_outputs: Array,
    *,
    epsilon: float,
    activation: str | None = None,
    grad_mean: Moments | None = None,
    grad_variance: Moments | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Return the gradients of ``batch_normalization``'s inputs, gamma and beta.

    Args:
        inputs: (..., C) float32, inputs of the forward pass.
        gamma: (C,) float32, as in the forward pass.
        beta: (C,) float32, as in the forward pass; used only if there is an activation.
        mean: (C,) float64, mean that the forward pass returned.
        variance: (C,) float64, variance that the forward pass returned.
        grad_outputs: (..., C) float32, gradient of the outputs.
        epsilon: number that is added to the variance, as in the forward pass.
        activation: ``"relu"``, ``"relu6"`` or ``None``, as in the forward pass.
        grad_mean: (C,) float64, gradient of the returned mean; ``None`` if it is zero.
        grad_variance: (C,) float64, gradient of the returned variance; ``None`` if it is zero.
        out: (..., C) float32 buffer for the gradient of the inputs.

    Returns:
        Three float32 arrays: the gradients of the inputs, (..., C), of gamma, (C,), and of beta,
        (C,).

    Raises:
        ValueError: a dtype, shape or option is wrong, or an array is on a device.
    """
    inputs, *options = _options(inputs, gamma, beta, epsilon, activation)
    each = inputs.shape[-1:]
    given = {"mean": mean, "variance": variance}
    given |= {"grad_mean": grad_mean, "grad_variance": grad_variance}
    zeros = np.zeros(each)
    mean, variance, grad_mean, grad_variance = (
        zeros if value is None and name.startswith("grad") else _host(name, value, np.float64, each)
        for name, value in given.items()
    )
    grads = _host("grad_outputs", grad_outputs, np.float32, inputs.shape)
    result = host_out("batch_norm", out, inputs.shape, (inputs, grads, *options[:2]))
    grad_gamma, grad_beta = (np.empty(each, np.float32) for _ in range(2))
    known = _rows(inputs), *options[:2], mean, variance, *options[2:]
    upstream = _rows(grads), grad_mean, grad_variance
    found = _rows(result), grad_gamma, grad_beta
    arrays.call(training.batch_norm_and_moments_grads, *known, *upstream, *found)
    return result, grad_gamma, grad_beta


def _channels(**given: Any) -> list[Any]:
    """Check that all values are float32 arrays of the same shape, and return them in a list."""
    arrays = {name: _host(name, value, np.float32) for name, value in given.items()}
    each = next(iter(arrays.values())).shape
    return [_host(name, value, np.float32, each) for name, value in arrays.items()]


def batch_normalization_inference(
    inputs: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float,
    out: Array | None = None,
) -> Array:
    """Return ``(inputs - mean) / sqrt(variance + epsilon) * gamma + beta``.

    The mean and the variance are arguments, for instance moving averages.

    Args:
        inputs: (..., C) float32.
        gamma: (C,) float32.
        beta: (C,) float32.
        mean: (C,) float32, for instance a moving average.
        variance: (C,) float32, for instance a moving average.
        epsilon: number that is added to the variance.
        out: (..., C) float32 buffer to write to.

    Returns:
        The outputs, (..., C) float32.

    Raises:
        ValueError: a dtype, shape or option is wrong, or an array is on a device.

    Example:
        >>> import numpy as np
        >>> ones, two = np.ones(1, np.float32), np.float32([2])
        >>> batch_normalization_inference(np.float32([[4], [2]]), ones, ones, two, two, epsilon=2)
        array([[2.],
               [1.]], dtype=float32)
    """
    inputs, gamma, beta, epsilon, _ = _options(inputs, gamma, beta, epsilon, None)
    _, mean, variance = _channels(gamma=gamma, mean=mean, variance=variance)
    outputs = host_out("batch_norm", out, inputs.shape, (inputs, gamma, beta, mean, variance))
    flat = _rows(inputs), gamma, beta, mean, variance, epsilon, _rows(outputs)
    arrays.call(inference.batch_norm_inference_forward, *flat)
    return outputs


def batch_normalization_inference_grads(
    inputs: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    grad_outputs: Array,
    *,
    epsilon: float,
    out: Array | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the gradients of all five array arguments of ``batch_normalization_inference``.

    Args:
        inputs: (..., C) float32, inputs of the forward pass.
        gamma: (C,) float32, as in the forward pass.
        mean: (C,) float32, as in the forward pass.
        variance: (C,) float32, as in the forward pass.
        grad_outputs: (..., C) float32, gradient of the outputs.
        epsilon: number that is added to the variance.
        out: (..., C) float32 buffer for the gradient of the inputs.

    Returns:
        Five float32 arrays: the gradient of the inputs, (..., C), and the gradients of gamma, beta,
        mean and variance, each (C,).

    Raises:
        ValueError: a dtype, shape or option is wrong, or an array is on a device.
    """
    inputs, gamma, _, epsilon, _ = _options(inputs, gamma, gamma, epsilon, None)
    _, mean, variance = _channels(gamma=gamma, mean=mean, variance=variance)
    grads = _host("grad_outputs", grad_outputs, np.float32, inputs.shape)
    result = host_out("batch_norm", out, inputs.shape, (inputs, gamma, mean, variance, grads))
    of_channels = [np.empty(gamma.shape, np.float32) for _ in range(4)]
    passed = gamma, variance, epsilon, _rows(grads), _rows(result)
    arrays.call(inference.batch_norm_inference_grad_inputs, *passed)
    known = _rows(inputs), gamma, mean, variance, epsilon, _rows(grads)
    arrays.call(inference.batch_norm_inference_grad_parameters, *known, *of_channels)
    return result, *of_channels
