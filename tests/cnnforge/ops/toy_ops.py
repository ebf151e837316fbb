"""An op with two inputs, every kind of attribute, two outputs and two backward functions.

outputs = relu(sign * (inputs * factor + bias) + shift), mask = outputs > 0
"""

import keras
import numba
import numpy as np

from cnnforge.ops import ArrayOp


@numba.njit(cache=True)
def toy(inputs, factor, bias, flip, repeat, shift, outputs, mask):
    if repeat < 0:
        raise ValueError("repeat is negative:", repeat)
    sign = -1 if flip else 1
    for n in range(inputs.shape[0]):
        for row in range(inputs.shape[1]):
            for channel in range(inputs.shape[2]):
                value = sign * (inputs[n, row, channel] * factor[channel] + bias)
                value += shift[0] - shift[1]
                for copy in range(repeat):
                    outputs[n, row + copy * inputs.shape[1], channel] = max(value, 0)
                    mask[n, row + copy * inputs.shape[1], channel] = value > 0


@numba.njit(cache=True)
def toy_backward_inputs(factor, mask, grad_outputs, flip, grad_inputs):
    sign = -1 if flip else 1
    rows = grad_inputs.shape[1]
    grad_inputs[:] = 0
    for n in range(mask.shape[0]):
        for row in range(mask.shape[1]):
            for channel in range(mask.shape[2]):
                if mask[n, row, channel]:
                    grad_inputs[n, row % rows, channel] += (
                        sign * factor[channel] * grad_outputs[n, row, channel]
                    )


@numba.njit(cache=True)
def toy_backward_factor(inputs, mask, grad_outputs, flip, grad_factor):
    sign = -1 if flip else 1
    rows = inputs.shape[1]
    grad_factor[:] = 0
    for n in range(mask.shape[0]):
        for row in range(mask.shape[1]):
            for channel in range(mask.shape[2]):
                if mask[n, row, channel]:
                    grad_factor[channel] += (
                        sign * inputs[n, row % rows, channel] * grad_outputs[n, row, channel]
                    )


def toy_shape(inputs, repeat):
    shape = (inputs[0], inputs[1] * repeat, inputs[2])
    return shape, shape


def toy_oracle(inputs, factor, bias=0.125, flip=False, repeat=2, shift=(1, 2)):
    """Return the outputs and the mask, computed by NumPy."""
    values = (-1 if flip else 1) * (inputs * factor + bias) + shift[0] - shift[1]
    values = np.concatenate([values] * repeat, axis=1)
    return np.maximum(values, 0), (values > 0).astype(np.uint8)


ATTRIBUTES = {"bias": 0.125, "flip": False, "repeat": 2, "shift": (1, 2)}

toy_op = ArrayOp(
    "toy",
    forward=toy,
    backward=(toy_backward_inputs, toy_backward_factor),
    inputs={"inputs": 3, "factor": 1},
    outputs={"outputs": 3, "mask": numba.uint8[:, :, ::1]},
    output_shapes=toy_shape,
    attributes=ATTRIBUTES,
)

toy_op_float64 = ArrayOp(
    "toy_float64",
    forward=toy,
    backward=(toy_backward_inputs, toy_backward_factor),
    inputs={"inputs": numba.float64[:, :, ::1], "factor": numba.float64[::1]},
    outputs={"outputs": numba.float64[:, :, ::1], "mask": numba.uint8[:, :, ::1]},
    output_shapes=toy_shape,
    attributes=ATTRIBUTES,
)


@numba.njit(parallel=True, cache=True)
def _total(inputs):
    partial = np.zeros(inputs.shape[0])
    for row in numba.prange(inputs.shape[0]):
        partial[row] = inputs[row].sum()
    return partial.sum()


@numba.njit(cache=True)
def total(inputs, outputs):
    outputs[...] = _total(inputs)


total_op = ArrayOp(
    "toy_total",
    forward=total,
    inputs={"inputs": 2},
    outputs={"outputs": 0},
    output_shapes=lambda inputs: (),
)


@keras.saving.register_keras_serializable("toy_ops")
class Toy(keras.layers.Layer):
    """A layer of the toy op."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.supports_jit = False

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        return toy_op(inputs, self.factor, shift=(1, 1))[0]


def make_model():
    return keras.Sequential(
        [keras.Input((4, 3)), Toy(), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
