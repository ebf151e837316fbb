"""Ops for the tests of compiling ahead, in a module that needs no framework."""

import numba
import numpy as np
from numba import types

from cnnforge.ops import ArrayOp

FACTOR = 3
_abort = types.ExternalFunction("abort", types.void())


@numba.njit(cache=True)
def scale(inputs, factor, outputs):
    for i in range(inputs.shape[0]):
        outputs[i] = np.float32(FACTOR) * factor[0] * inputs[i]


@numba.njit(cache=True)
def scale_grad_inputs(inputs, factor, grad_outputs, grad_inputs):
    print("scale_grad_inputs")
    for i in range(inputs.shape[0]):
        grad_inputs[i] = np.float32(FACTOR) * factor[0] * grad_outputs[i]


def scale_grad_factor(inputs, grad_outputs, grad_factor):
    grad_factor[0] = 0
    for i in range(inputs.shape[0]):
        grad_factor[0] += np.float32(FACTOR) * inputs[i] * grad_outputs[i]


@numba.njit(cache=True)
def copy(inputs, outputs):
    outputs[:] = inputs


@numba.njit(cache=True)
def copy_backward(grad_outputs, grad_inputs):
    grad_inputs[:] = grad_outputs


@numba.njit(cache=True)
def dying_backward(grad_outputs, grad_inputs):
    if grad_outputs.shape[0] == 4:
        _abort()
    grad_inputs[:] = grad_outputs


@numba.njit(cache=True)
def endless_backward(grad_outputs, grad_inputs):
    while grad_outputs[0] >= 0:
        grad_inputs[0] += 1


def _same(inputs):
    return inputs


def unary(name, backward):
    return ArrayOp(
        name,
        forward=copy,
        backward=backward,
        inputs={"inputs": 1},
        outputs={"outputs": 1},
        output_shapes=_same,
    )


scale_op = ArrayOp(
    "scale_ahead",
    forward=scale,
    backward=(scale_grad_inputs, scale_grad_factor),
    inputs={"inputs": 1, "factor": 1},
    outputs={"outputs": 1},
    output_shapes=lambda inputs, factor: inputs,
)
copy_op = unary("copy_ahead", copy_backward)
dying_op = unary("dying_ahead", dying_backward)
endless_op = unary("endless_ahead", endless_backward)
