"""``BatchNormalization``: Keras' layer, computed by ``cnnforge_kernels`` in training."""

from __future__ import annotations

from typing import Any

import keras
import numba

from cnnforge.ops import ArrayOp
from cnnforge_kernels.cpu import batch_norm as kernels
from cnnforge_plugins.layers._fallback import kernel_fits

Shape = tuple[int, ...]


def _output_shapes(inputs: Shape, gamma: Shape, beta: Shape) -> tuple[Shape, Shape, Shape]:
    if gamma[0] != inputs[1] or beta[0] != inputs[1]:
        raise ValueError("`gamma` and `beta` must have a value for each channel of the inputs.")
    return inputs, gamma, gamma


batch_norm = ArrayOp(
    "batch_norm",
    forward=kernels.batch_norm_forward,
    backward=kernels.batch_norm_grads,
    inputs={"inputs": 2, "gamma": 1, "beta": 1},
    outputs={"outputs": 2, "mean": numba.float64[::1], "variance": numba.float64[::1]},
    output_shapes=_output_shapes,
    attributes={"epsilon": 1e-3, "relu": False},
)


@keras.saving.register_keras_serializable(package="cnnforge")
class BatchNormalization(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` whose training runs on Numba kernels.

    The moments take one pass over the inputs, the outputs another; the gradients two. Constructor
    arguments, weights, configuration and errors are Keras' own. Inference, where the layer is a
    product and a sum, is computed by the framework. So are inputs that are not float32, an axis
    that is not the last, a mask, ``renorm`` and ``synchronized``, and that is said once.

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
        moves = training and self.trainable
        if not moves or not kernel_fits(self, inputs, self._missing(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        ops = keras.ops
        channels = tuple(self.moving_mean.shape)
        outputs, mean, variance = batch_norm(
            ops.reshape(inputs, (-1, *channels)),
            self.gamma if self.scale else ops.ones(channels, "float32"),
            self.beta if self.center else ops.zeros(channels, "float32"),
            epsilon=float(self.epsilon),
        )
        for average, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            now = ops.cast(now, average.dtype)
            average.assign(average * self.momentum + now * (1.0 - self.momentum))
        return ops.reshape(outputs, ops.shape(inputs))

    def _missing(self, inputs: Any, mask: Any) -> str | None:
        """What the layer is asked for that there is no kernel for."""
        if self.axis not in (-1, len(inputs.shape) - 1):
            return f"axis={self.axis} (the kernels need the last one)"
        if mask is not None:
            return "a mask (every row counts)"
        if self.renorm or self.synchronized:
            return "renorm=True" if self.renorm else "synchronized=True"
        if getattr(getattr(inputs, "device", None), "type", "cpu") == "cuda":
            return "the device cuda (cnnforge has no batch normalization there)"
        return None
