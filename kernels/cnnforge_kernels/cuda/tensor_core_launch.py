"""Convolution on tensor cores: the ops of ``launch.py`` for an explicit precision.

Operands are rounded to ``"tf32"`` or ``"bfloat16"``, sums are float32. There are no groups.
"""

from __future__ import annotations

from typing import Any

from cnnforge_kernels.cuda import tensor_core_plans as _plans
from cnnforge_kernels.cuda.launch import convolution, run_on, run_with_bias, views
from cnnforge_kernels.cuda.tensor_core_convolution import Precision

Pair = tuple[int, int]


def _problem(
    arrays: Any,
    inputs: Any,
    weights: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    precision: Precision,
) -> _plans.Problem:
    if groups != 1:
        raise ValueError(
            f'precision="{precision}" is for convolutions without groups. Received: '
            f'groups={groups}. Use precision="float32".'
        )
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    return _plans.Problem(
        c.inputs, c.weights, c.strides, c.same, c.dilation_rate, precision, c.aligned
    )


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
    problem = _problem(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    has_bias = "bias" in arrays and arrays["bias"].size > 0
    run_on(_plans.forward(problem, has_bias, relu), arrays, ("outputs",), stream)


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
    problem = _problem(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    run_on(_plans.grad_inputs(problem, relu), arrays, ("grad_inputs",), stream)


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
    problem = _problem(arrays, inputs, weights, strides, same, dilation_rate, groups, precision)
    run_with_bias(_plans.grad_weights(problem, relu), arrays, problem.weights[3], stream)
