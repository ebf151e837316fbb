"""An op with functions for CUDA devices, which `test_cuda_check.py` breaks by its attribute."""

import numba

from cnnforge.ops import ArrayOp

FAULTS = ("none", "value", "gap", "gradient", "modified", "raises")


@numba.njit(cache=True)
def forward(inputs, fault, outputs):
    for i in range(inputs.size):
        outputs.flat[i] = 2 * inputs.flat[i]


@numba.njit(cache=True)
def backward(grad_outputs, fault, grad_inputs):
    for i in range(grad_outputs.size):
        grad_inputs.flat[i] = 2 * grad_outputs.flat[i]


def make_op(name, cuda):
    return ArrayOp(
        name,
        forward=forward,
        backward=backward,
        inputs={"inputs": 2},
        outputs={"outputs": 2},
        output_shapes=lambda inputs: inputs,
        attributes={"fault": 0},
        cuda=cuda,
    )


doubled = make_op("doubled", "doubled_cuda")
without_cuda = make_op("doubled_without_cuda", None)
without_functions = make_op("doubled_without_functions", "colorsys")
without_module = make_op("doubled_without_module", "no_such_module")
