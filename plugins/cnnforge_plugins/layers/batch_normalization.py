"""``BatchNormalization``: Keras' layer, computed by ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras
import numba

from cnnforge.ops import ArrayOp
from cnnforge_kernels.cpu.norm import inference
from cnnforge_kernels.cpu.norm import training as kernels
from cnnforge_plugins.layers._fallback import kernel_fits

Shape = tuple[int, ...]


def _output_shapes(inputs: Shape, gamma: Shape, beta: Shape) -> tuple[Shape, Shape, Shape]:
    if gamma[0] != inputs[1] or beta[0] != inputs[1]:
        raise ValueError("`gamma` and `beta` must have a value for each channel of the inputs.")
    return inputs, gamma, gamma


def _output_shape(inputs: Shape, gamma: Shape, beta: Shape, mean: Shape, variance: Shape) -> Shape:
    for each in (gamma, beta, mean, variance):
        if each[0] != inputs[1]:
            raise ValueError("Each channel of the inputs must have a value of all the others.")
    return inputs


batch_norm = ArrayOp(
    "batch_norm",
    forward=kernels.batch_norm_forward,
    backward=kernels.batch_norm_grads,
    inputs={"inputs": 2, "gamma": 1, "beta": 1},
    outputs={"outputs": 2, "mean": numba.float64[::1], "variance": numba.float64[::1]},
    output_shapes=_output_shapes,
    attributes={"epsilon": 1e-3, "relu": False},
)
batch_norm_inference = ArrayOp(
    "batch_norm_inference",
    forward=inference.batch_norm_inference,
    backward=(
        inference.batch_norm_inference_grad_inputs,
        inference.batch_norm_inference_grad_parameters,
    ),
    inputs={"inputs": 2, "gamma": 1, "beta": 1, "mean": 1, "variance": 1},
    outputs={"outputs": 2},
    output_shapes=_output_shape,
    attributes={"epsilon": 1e-3},
)


@keras.saving.register_keras_serializable(package="cnnforge")
class BatchNormalization(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` on Numba kernels.

    In training the moments take one pass over the inputs, the outputs another, and the gradients
    two; a prediction takes one. Constructor arguments, weights, configuration and errors are Keras'
    own. Inputs that are not float32, an axis that is not the last, and in training a mask,
    ``renorm`` and ``synchronized`` are computed by the framework, and that is said once.

    Input shape:
        (..., C)

    Output shape:
        that of the inputs
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_jit = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize by the moments of the batch and move the averages; else by the averages."""
        moves = bool(training and self.trainable)
        # Without training a mask changes nothing: all that is left of it are Keras' checks.
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
        outputs, mean, variance = batch_norm(rows, gamma, beta, epsilon=epsilon)
        for average, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            now = ops.cast(now, average.dtype)
            average.assign(average * self.momentum + now * (1.0 - self.momentum))
        return ops.reshape(outputs, ops.shape(inputs))

    def _missing(self, inputs: Any, mask: Any, moves: bool) -> str | None:
        """What the layer is asked for that there is no kernel for."""
        if self.axis not in (-1, len(inputs.shape) - 1):
            return f"axis={self.axis} (the kernels need the last one)"
        if mask is not None:
            return "a mask (every row counts)"
        if moves and (self.renorm or self.synchronized):
            return "renorm=True" if self.renorm else "synchronized=True"
        if getattr(getattr(inputs, "device", None), "type", "cpu") == "cuda":
            return "the device cuda (cnnforge has no batch normalization there)"
        return None
