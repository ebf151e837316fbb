"""Run convolutions and poolings on a CUDA device, one function per op and gradient.

The functions have the names, parameters and results of those in ``cnnforge_kernels.cpu``. All
arrays of a call are on one device, and have ``__cuda_array_interface__``, DLPack or ``data_ptr()``.
The caller also passes the arrays for the results. ``stream`` is the address of a CUDA stream, a
stream object, or ``None`` for the default stream. A function launches its kernels on that stream
and does not wait for them. Kernels, grids and arguments are computed once per shape.

``precision`` is ``"float32"`` by default. ``"tf32"`` and ``"bfloat16"`` round the operands of a
convolution to that type and compute on tensor cores, with float32 sums. Both are experimental: they
have not yet run on a device.

The arrays must be C-contiguous and their shapes must match. ``cnnforge_kernels.conv2d`` and the
other public functions check the shapes before they call this module. The functions here check
dtypes, devices, contiguity, and whether the results are writeable.

All functions raise ``ValueError`` for arrays that cannot be used. They raise
``CudaUnavailableError`` if there is no device, or if its tensor cores do not support the
precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cnnforge_kernels.cuda.conv import block_plans
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.pooling import plans as pool_plans
from cnnforge_kernels.cuda.pooling.plans import Pooling
from cnnforge_kernels.cuda.runtime.arrays import View
from cnnforge_kernels.cuda.runtime.availability import experimental as experimental
from cnnforge_kernels.cuda.runtime.availability import missing as missing
from cnnforge_kernels.cuda.runtime.calls import aligned, run_on, run_with_bias, views
from cnnforge_kernels.cuda.runtime.calls import contiguous as contiguous
from cnnforge_kernels.cuda.runtime.driver import driver
from cnnforge_kernels.cuda.runtime.recording import record as record
from cnnforge_kernels.cuda.tensor_cores import plans as conv_plans
from cnnforge_kernels.cuda.tensor_cores.plans import Precision, check_capability

__all__ = [
    "average_pool2d_forward",
    "average_pool2d_grad_inputs",
    "contiguous",
    "conv2d_forward",
    "conv2d_grad_inputs",
    "conv2d_grad_weights",
    "conv_block_forward",
    "conv_block_grad_inputs",
    "conv_block_grad_weights",
    "depthwise_conv2d_forward",
    "depthwise_conv2d_grad_inputs",
    "depthwise_conv2d_grad_weights",
    "global_average_pool2d_forward",
    "global_average_pool2d_grad_inputs",
    "max_pool2d_forward",
    "max_pool2d_grad_inputs",
    "missing",
    "record",
]

Pair = tuple[int, int]


def _convolution(
    arrays: dict[str, View],
    inputs: Any,
    weights: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    precision: Precision = "float32",
) -> Convolution:
    """Check that the device supports the precision. Return the shapes and options in one object."""
    if precision != "float32":
        check_capability(driver().capability(next(iter(arrays.values())).device), precision)
    shapes = tuple(inputs.shape), tuple(weights.shape)
    return Convolution(*shapes, tuple(strides), same, tuple(dilation_rate), groups, aligned(arrays))


def _has_bias(arrays: dict[str, View]) -> bool:
    return "bias" in arrays and arrays["bias"].size > 0


def conv2d_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    relu: bool,
    outputs: Any,
    stream: Any = None,
    precision: Precision = "float32",
) -> None:
    """Compute a convolution with bias and ReLU.

    The shapes are (N, H, W, C), (KH, KW, C / groups, F), (F,) -> (N, OH, OW, F). For a convolution
    without a bias, pass ``None`` or an empty array as ``bias``.
    """
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs)
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    plan = conv_plans.forward(c, _has_bias(arrays), relu, precision)
    run_on(plan, arrays, ("outputs",), stream)


def conv2d_grad_inputs(
    inputs: Any,
    weights: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    relu: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
    precision: Precision = "float32",
) -> None:
    """Compute the gradient of ``inputs``. Only the shape of ``inputs`` is read.

    ``outputs`` is read only if ``relu`` is true.
    """
    arrays = views(
        weights=weights,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_inputs=grad_inputs,
    )
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    run_on(conv_plans.grad_inputs(c, relu, precision), arrays, ("grad_inputs",), stream)


def conv2d_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
    stream: Any = None,
    precision: Precision = "float32",
) -> None:
    """Compute the gradients of ``weights`` and ``bias``, whose values are not read.

    If ``grad_bias`` is empty, the gradient of the bias goes to temporary memory and is discarded.
    """
    arrays = views(
        inputs=inputs,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    run_with_bias(conv_plans.grad_weights(c, relu, precision), arrays, c.weights[3], stream)


def _grouped(weights: Any) -> View:
    """View depthwise weights (KH, KW, C, M) as weights (KH, KW, 1, C * M) for C groups."""
    where = views(weights=weights)["weights"]
    kh, kw, channels, multiplier = where.shape
    return replace(where, shape=(kh, kw, 1, channels * multiplier))


def depthwise_conv2d_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    relu: bool,
    outputs: Any,
    stream: Any = None,
) -> None:
    """Compute a depthwise convolution with bias and ReLU.

    The shapes are (N, H, W, C), (KH, KW, C, M), (C * M,) -> (N, OH, OW, C * M).
    """
    options = strides, same, dilation_rate, inputs.shape[3], relu
    conv2d_forward(inputs, _grouped(weights), bias, *options, outputs, stream)


def depthwise_conv2d_grad_inputs(
    inputs: Any,
    weights: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    relu: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """Compute the gradient of ``inputs``. Only the shape of ``inputs`` is read.

    ``outputs`` is read only if ``relu`` is true.
    """
    options = strides, same, dilation_rate, inputs.shape[3], relu
    conv2d_grad_inputs(
        inputs, _grouped(weights), outputs, *options, grad_outputs, grad_inputs, stream
    )


def depthwise_conv2d_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
    stream: Any = None,
) -> None:
    """Compute the gradients of ``weights`` and ``bias``, whose values are not read."""
    options = strides, same, dilation_rate, inputs.shape[3], relu
    grads = grad_outputs, grad_weights, grad_bias
    conv2d_grad_weights(inputs, _grouped(weights), bias, outputs, *options, *grads, stream)


def conv_block_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    pool_size: Pair,
    outputs: Any,
    argmax: Any,
    stream: Any = None,
) -> None:
    """Compute convolution, bias, ReLU and max pooling.

    ``argmax`` (uint8) receives the index of the maximum in each pooling window. The index 255 means
    that no gradient passes through this output, because the ReLU is 0.
    """
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs, argmax=argmax)
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    plan = block_plans.forward(c, tuple(pool_size), _has_bias(arrays))
    run_on(plan, arrays, ("outputs", "argmax"), stream)


def conv_block_grad_inputs(
    inputs: Any,
    weights: Any,
    argmax: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    pool_size: Pair,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """Compute the gradient of ``inputs`` from the argmax. Only the shape of ``inputs`` is read."""
    arrays = views(
        weights=weights, argmax=argmax, grad_outputs=grad_outputs, grad_inputs=grad_inputs
    )
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_on(block_plans.grad_inputs(c, tuple(pool_size)), arrays, ("grad_inputs",), stream)


def conv_block_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    argmax: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    pool_size: Pair,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
    stream: Any = None,
) -> None:
    """Compute the gradients of ``weights`` and ``bias``, whose values are not read."""
    arrays = views(
        inputs=inputs,
        argmax=argmax,
        grad_outputs=grad_outputs,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_with_bias(block_plans.grad_weights(c, tuple(pool_size)), arrays, c.weights[3], stream)


def _pool(
    arrays: dict[str, View], inputs: Any, pool_size: Pair, strides: Pair, same: bool
) -> Pooling:
    shape = tuple(inputs.shape)
    return Pooling(shape, tuple(pool_size), tuple(strides), same, aligned(arrays))


def max_pool2d_forward(
    inputs: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    outputs: Any,
    argmax: Any,
    stream: Any = None,
) -> None:
    """Compute the maximum of each window, and write its index in the window to ``argmax``.

    ``argmax`` is uint8, or int32 if a window has more than 256 elements.
    """
    arrays = views(inputs=inputs, outputs=outputs, argmax=argmax)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(pool_plans.forward(p, True), arrays, ("outputs", "argmax"), stream)


def max_pool2d_grad_inputs(
    inputs: Any,
    argmax: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """Compute the gradient of ``inputs`` from the argmax. Only the shape of ``inputs`` is read."""
    arrays = views(argmax=argmax, grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(pool_plans.backward(p, True), arrays, ("grad_inputs",), stream)


def average_pool2d_forward(
    inputs: Any, pool_size: Pair, strides: Pair, same: bool, outputs: Any, stream: Any = None
) -> None:
    """Compute the mean of each window. Elements in the padding do not count."""
    arrays = views(inputs=inputs, outputs=outputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(pool_plans.forward(p, False), arrays, ("outputs",), stream)


def average_pool2d_grad_inputs(
    inputs: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """Compute the gradient of ``inputs``. Only the shape of ``inputs`` is read."""
    arrays = views(grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(pool_plans.backward(p, False), arrays, ("grad_inputs",), stream)


def global_average_pool2d_forward(inputs: Any, outputs: Any, stream: Any = None) -> None:
    """Compute the mean of each feature map: (N, H, W, C) -> (N, C)."""
    arrays = views(inputs=inputs, outputs=outputs)
    run_on(pool_plans.global_forward(tuple(inputs.shape)), arrays, ("outputs",), stream)


def global_average_pool2d_grad_inputs(
    inputs: Any, grad_outputs: Any, grad_inputs: Any, stream: Any = None
) -> None:
    """Compute the gradient of ``inputs``. Only the shape of ``inputs`` is read."""
    arrays = views(grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    plan = pool_plans.global_backward(tuple(inputs.shape), aligned(arrays))
    run_on(plan, arrays, ("grad_inputs",), stream)
