"""The layer ``Dense`` of Keras, computed by kernels of ``cnnforge_kernels``."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import dense_forward, dense_grad_inputs, dense_grad_weights
from cnnforge_plugins.layers._fallback import kernel_fits
from cnnforge_plugins.layers._kernel_layer import KernelLayer, bias_or_empty

Shape = tuple[int, ...]


def _output_shape(inputs: Shape, weights: Shape) -> Shape:
    return (inputs[0], weights[1])


dense = ArrayOp(
    "dense",
    forward=dense_forward,
    backward=(dense_grad_inputs, dense_grad_weights),
    inputs={"inputs": 2, "weights": 2, "bias": 1},
    outputs={"outputs": 2},
    output_shapes=_output_shape,
    attributes={"relu": False},
)


def _missing(inputs: Any) -> str | None:
    """Return the reason why the kernel cannot compute a call, or ``None``."""
    device = getattr(getattr(inputs, "device", None), "type", "cpu")
    return f"the device {device} (this kernel runs on CPUs)" if device == "cuda" else None


@keras.saving.register_keras_serializable(package="cnnforge")
class Dense(KernelLayer, keras.layers.Dense):
    """``keras.layers.Dense`` on Numba kernels: product, bias and ReLU in one pass.

    Constructor arguments, weights, configuration and errors are those of Keras. The framework
    computes the layer, with one warning, if the inputs are not float32 or are on a CUDA device.

    Input shape:
        (N, ..., C)

    Output shape:
        (N, ..., units)
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Multiply the inputs by the kernel, add the bias, and apply the activation."""
        if not kernel_fits(self, inputs, _missing(inputs)):
            return super().call(inputs, training=training)
        kernel, is_flat = self.kernel, len(inputs.shape) == 2
        relu = self.activation is keras.activations.relu
        flat = inputs if is_flat else keras.ops.reshape(inputs, (-1, kernel.shape[0]))
        outputs = dense(flat, kernel, bias_or_empty(self), relu=relu)
        if not is_flat:
            sizes = keras.ops.shape(inputs)[:-1]
            outputs = keras.ops.reshape(outputs, (*sizes, self.units))
        return outputs if relu or self.activation is None else self.activation(outputs)
