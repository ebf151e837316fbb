"""The layer ``BatchNormalization`` of Keras, computed by kernels of ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras
import numba

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    batch_moments_and_averages,
    batch_norm_forward,
    batch_norm_grads,
    batch_norm_inference_forward,
    batch_norm_inference_grad_inputs,
    batch_norm_inference_grad_parameters,
)
from cnnforge_plugins.layers._fallback import kernel_fits
from cnnforge_plugins.layers._kernel_layer import KernelLayer

Shape = tuple[int, ...]


def _moment_shapes(inputs: Shape) -> tuple[Shape, Shape, Shape, Shape]:
    return inputs[1:], inputs[1:], inputs[1:], inputs[1:]


def _output_shape(inputs: Shape, gamma: Shape, beta: Shape, mean: Shape, variance: Shape) -> Shape:
    for each in (gamma, beta, mean, variance):
        if each[0] != inputs[1]:
            raise ValueError("Each channel of the inputs must have a value of all the others.")
    return inputs


_MOMENT = numba.float64[::1]
# Attribute of the outputs of a training step: the output of the op, (M, C), and the outputs' shape.
NORMALIZED = "_cnnforge_normalized"

batch_moments = ArrayOp(
    "batch_moments",
    forward=batch_moments_and_averages,
    inputs={"inputs": 2, "moving_mean": 1, "moving_variance": 1},
    outputs={"mean": _MOMENT, "variance": _MOMENT, "new_mean": 1, "new_variance": 1},
    output_shapes=_moment_shapes,
    attributes={"momentum": 0.99},
)
# Its gradient of the inputs is also that through the moments, which are functions of the inputs. So
# nothing is differentiated through `batch_moments`, and the moments have no gradient here.
batch_norm = ArrayOp(
    "batch_norm",
    forward=batch_norm_forward,
    backward=batch_norm_grads,
    inputs={"inputs": 2, "gamma": 1, "beta": 1, "mean": _MOMENT, "variance": _MOMENT},
    outputs={"outputs": 2},
    output_shapes=_output_shape,
    attributes={"epsilon": 1e-3, "activation": 0},
    not_differentiable=("mean", "variance"),
)
batch_norm_inference = ArrayOp(
    "batch_norm_inference",
    forward=batch_norm_inference_forward,
    backward=(
        batch_norm_inference_grad_inputs,
        batch_norm_inference_grad_parameters,
    ),
    inputs={"inputs": 2, "gamma": 1, "beta": 1, "mean": 1, "variance": 1},
    outputs={"outputs": 2},
    output_shapes=_output_shape,
    attributes={"epsilon": 1e-3},
)


@keras.saving.register_keras_serializable(package="cnnforge")
class BatchNormalization(KernelLayer, keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` on Numba kernels.

    A training step reads the inputs four times: once to compute the mean and the variance, once to
    compute the outputs, and twice to compute the gradients. A prediction reads them once.
    Constructor arguments, weights, configuration and errors are those of Keras. In some cases the
    framework computes the layer, with one warning: if the inputs are not float32, if the axis is
    not the last one, or if a training step has a mask, ``renorm`` or ``synchronized``.

    Input shape:
        (..., C)

    Output shape:
        the shape of the inputs
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize the inputs.

        In training, use the mean and the variance of the batch, and update the moving averages.
        Otherwise, or if the layer is frozen, use the moving averages.
        """
        moves = bool(training and self.trainable)
        # Outside training a mask has no effect. Call the Keras layer nevertheless, which
        # checks the mask.
        own = mask is not None and not moves
        if own or not kernel_fits(self, inputs, self._missing(inputs, mask, moves)):
            return super().call(inputs, training=training, mask=mask)
        ops = keras.ops
        channels = tuple(self.moving_mean.shape)
        rows = ops.reshape(inputs, (-1, *channels))
        gamma = self.gamma if self.scale else ops.ones(channels, "float32")
        beta = self.beta if self.center else ops.zeros(channels, "float32")
        epsilon = float(self.epsilon)
        if not moves:
            moments = self.moving_mean, self.moving_variance
            outputs = batch_norm_inference(rows, gamma, beta, *moments, epsilon=epsilon)
            return ops.reshape(outputs, ops.shape(inputs))
        averages = self.moving_mean, self.moving_variance
        mean, variance, *changed = batch_moments(
            ops.stop_gradient(rows), *averages, momentum=float(self.momentum)
        )
        for average, now in zip(averages, changed, strict=True):
            average.assign(now)
        found, shape = (
            batch_norm(rows, gamma, beta, mean, variance, epsilon=epsilon),
            ops.shape(inputs),
        )
        outputs = ops.reshape(found, shape)
        # A layer that applies a ReLU to the outputs finds the call of the op here, and the shape
        # without reading the outputs.
        setattr(outputs, NORMALIZED, (found, shape))
        return outputs

    def _missing(self, inputs: Any, mask: Any, moves: bool) -> str | None:
        """Return the reason why the kernels cannot compute this call, or ``None``."""
        if self.axis not in (-1, len(inputs.shape) - 1):
            return f"axis={self.axis} (the kernels need the last one)"
        if mask is not None:
            return "a mask (every row counts)"
        if moves and (self.renorm or self.synchronized):
            return "renorm=True" if self.renorm else "synchronized=True"
        if getattr(getattr(inputs, "device", None), "type", "cpu") == "cuda":
            return "the device cuda (cnnforge has no batch normalization there)"
        return None
