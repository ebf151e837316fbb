"""The ops on a device, with the names, parameters and semantics of ``cnnforge_kernels.cpu``.

Each takes arrays that lie on one device (anything with ``__cuda_array_interface__``, DLPack or
``data_ptr()``), writes to those it is given, and ``stream``: the address of a CUDA stream, an
object that has one, or ``None`` for the default stream. It launches there and waits for nothing.
Kernels, grids and arguments are found once for each shape.

``precision`` other than ``"float32"`` rounds the operands of a convolution and computes on tensor
cores, with float32 sums.

Arrays are C-contiguous and of the shapes that belong together: ``cnnforge_kernels.conv2d`` and the
other public functions see to that. Checked here is what would crash a device: their dtypes, their
device, and whether what is written to may be.

Raises, all of them: ``ValueError`` for arrays that cannot be used, and ``CudaUnavailableError``
where there is no device, or one whose tensor cores do not know the precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cnnforge_kernels.cuda.conv import block_plans
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.pooling import plans as _pooling
from cnnforge_kernels.cuda.pooling.plans import Pooling
from cnnforge_kernels.cuda.runtime.arrays import View
from cnnforge_kernels.cuda.runtime.availability import missing as missing
from cnnforge_kernels.cuda.runtime.calls import aligned, run_on, run_with_bias, views
from cnnforge_kernels.cuda.runtime.calls import dense as dense
from cnnforge_kernels.cuda.runtime.driver import driver
from cnnforge_kernels.cuda.runtime.recording import record as record
from cnnforge_kernels.cuda.tensor_cores import plans as _conv2d
from cnnforge_kernels.cuda.tensor_cores.plans import Precision, check_capability

__all__ = [
    "average_pool2d_forward",
    "average_pool2d_grad_inputs",
    "conv2d_forward",
    "conv2d_grad_inputs",
    "conv2d_grad_weights",
    "conv_block_forward",
    "conv_block_grad_inputs",
    "conv_block_grad_weights",
    "dense",
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
    """The convolution of arrays; of ``inputs`` and ``weights`` only the shapes are used."""
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
    """Convolution, bias and ReLU: (N, H, W, C), (KH, KW, C / groups, F), (F,) -> (N, OH, OW, F).

    ``bias`` is ``None`` or empty for none.
    """
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs)
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    plan = _conv2d.forward(c, _has_bias(arrays), relu, precision)
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
    """The gradient of ``inputs``, of which only the shape is used; ``outputs`` with ``relu``."""
    arrays = views(
        weights=weights,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_inputs=grad_inputs,
    )
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    run_on(_conv2d.grad_inputs(c, relu, precision), arrays, ("grad_inputs",), stream)


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
    """The gradients of ``weights`` and ``bias``, of which only the shapes are used.

    ``grad_bias`` may be empty; it is computed all the same, to memory of its own.
    """
    arrays = views(
        inputs=inputs,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    run_with_bias(_conv2d.grad_weights(c, relu, precision), arrays, c.weights[3], stream)


def _grouped(weights: Any) -> View:
    """``weights`` (KH, KW, C, M) as those of a convolution with C groups, (KH, KW, 1, C * M)."""
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
    """Depthwise convolution: (N, H, W, C), (KH, KW, C, M), (C * M,) -> (N, OH, OW, C * M)."""
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
    """The gradient of ``inputs``, of which only the shape is used; ``outputs`` with ``relu``."""
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
    """The gradients of ``weights`` and ``bias``, of which only the shapes are used."""
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
    winners: Any,
    stream: Any = None,
) -> None:
    """Convolution, bias, ReLU and max pooling; ``winners`` uint8, 255 for no gradient."""
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs, winners=winners)
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    plan = block_plans.forward(c, tuple(pool_size), _has_bias(arrays))
    run_on(plan, arrays, ("outputs", "winners"), stream)


def conv_block_grad_inputs(
    inputs: Any,
    weights: Any,
    winners: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    pool_size: Pair,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used, from the winners."""
    arrays = views(
        weights=weights, winners=winners, grad_outputs=grad_outputs, grad_inputs=grad_inputs
    )
    c = _convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_on(block_plans.grad_inputs(c, tuple(pool_size)), arrays, ("grad_inputs",), stream)


def conv_block_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    winners: Any,
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
    """The gradients of ``weights`` and ``bias``, of which only the shapes are used."""
    arrays = views(
        inputs=inputs,
        winners=winners,
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
    winners: Any,
    stream: Any = None,
) -> None:
    """The maximum of each window and its cell; ``winners`` uint8, int32 beyond 256 cells."""
    arrays = views(inputs=inputs, outputs=outputs, winners=winners)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.forward(p, True), arrays, ("outputs", "winners"), stream)


def max_pool2d_grad_inputs(
    inputs: Any,
    winners: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used, from the winners."""
    arrays = views(winners=winners, grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.backward(p, True), arrays, ("grad_inputs",), stream)


def average_pool2d_forward(
    inputs: Any, pool_size: Pair, strides: Pair, same: bool, outputs: Any, stream: Any = None
) -> None:
    """The mean of the real cells of each window."""
    arrays = views(inputs=inputs, outputs=outputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.forward(p, False), arrays, ("outputs",), stream)


def average_pool2d_grad_inputs(
    inputs: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used."""
    arrays = views(grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.backward(p, False), arrays, ("grad_inputs",), stream)


def global_average_pool2d_forward(inputs: Any, outputs: Any, stream: Any = None) -> None:
    """The mean of each map: (N, H, W, C) -> (N, C)."""
    arrays = views(inputs=inputs, outputs=outputs)
    run_on(_pooling.global_forward(tuple(inputs.shape)), arrays, ("outputs",), stream)


def global_average_pool2d_grad_inputs(
    inputs: Any, grad_outputs: Any, grad_inputs: Any, stream: Any = None
) -> None:
    """The gradient of ``inputs``, of which only the shape is used."""
    arrays = views(grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    plan = _pooling.global_backward(tuple(inputs.shape), aligned(arrays))
    run_on(plan, arrays, ("grad_inputs",), stream)
