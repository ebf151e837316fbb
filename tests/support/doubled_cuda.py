"""The functions of `doubled.py` for CUDA devices."""

from typing import Any

from numba import cuda

VALUE, GAP, GRADIENT, MODIFIED, RAISES = range(1, 6)


@cuda.jit
def _multiply(inputs, factor, last, outputs):
    row, column = cuda.grid(2)
    if row < inputs.shape[0] and column < inputs.shape[1] and row + column < last:
        outputs[row, column] = factor * inputs[row, column]


def _launch(inputs, factor, last, outputs):
    blocks = tuple(-(-size // 8) for size in inputs.shape)
    kernel: Any = _multiply
    kernel[blocks, (8, 8)](inputs, factor, last, outputs)


def forward(inputs, fault, outputs, stream):
    rows, columns = inputs.shape
    if fault == RAISES:
        raise ValueError("too many threads")
    last = rows + columns - 1
    _launch(inputs, 3 if fault == VALUE else 2, last - 1 if fault == GAP else last, outputs)
    if fault == MODIFIED:
        _launch(inputs, 0, last, inputs)


def backward(grad_outputs, fault, grad_inputs, stream):
    _launch(grad_outputs, -2 if fault == GRADIENT else 2, 1 << 30, grad_inputs)
