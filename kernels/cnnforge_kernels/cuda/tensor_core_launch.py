"""Convolution on tensor cores: the ops of ``launch.py`` for an explicit precision.

Operands are rounded to ``"tf32"`` or ``"bfloat16"``, sums are float32. Convolutions with groups
are computed in float32.

Raises, all of them: ``CudaUnavailableError`` on a device whose tensor cores do not know the
precision; the rest as in ``launch.py``.
"""

from __future__ import annotations

from typing import Any

from cnnforge_kernels.cuda import tensor_cores
from cnnforge_kernels.cuda.arrays import View
from cnnforge_kernels.cuda.launch import convolution, run_on, run_with_bias, views
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.tensor_cores import Precision, check_capability

Pair = tuple[int, int]


def _check(arrays: dict[str, View], precision: Precision) -> None:
    check_capability(driver().capability(next(iter(arrays.values())).device), precision)


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
    stream: Any,
    precision: Precision,
) -> None:
    """As ``launch.conv2d_forward``."""
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs)
    _check(arrays, precision)
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    has_bias = "bias" in arrays and arrays["bias"].size > 0
    run_on(tensor_cores.forward(c, has_bias, relu, precision), arrays, ("outputs",), stream)


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
    stream: Any,
    precision: Precision,
) -> None:
    """As ``launch.conv2d_grad_inputs``."""
    arrays = views(
        weights=weights,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_inputs=grad_inputs,
    )
    _check(arrays, precision)
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_on(tensor_cores.grad_inputs(c, relu, precision), arrays, ("grad_inputs",), stream)


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
    stream: Any,
    precision: Precision,
) -> None:
    """As ``launch.conv2d_grad_weights``."""
    arrays = views(
        inputs=inputs,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    _check(arrays, precision)
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    plan = tensor_cores.grad_weights(c, relu, precision)
    run_with_bias(plan, arrays, c.weights[3], stream)
