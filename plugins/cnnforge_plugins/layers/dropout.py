"""The layer ``Dropout`` of Keras, computed by kernels of ``cnnforge_kernels``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import keras
import numba

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    dropout_forward,
    dropout_grad_inputs,
)
from cnnforge_plugins.layers._fallback import kernel_fits
from cnnforge_plugins.layers._kernel_layer import KernelLayer

Shape = tuple[int, ...]


def _output_shapes(inputs: Shape) -> tuple[Shape, Shape]:
    return inputs, inputs


dropout = ArrayOp(
    "dropout",
    forward=dropout_forward,
    backward=dropout_grad_inputs,
    inputs={"inputs": 1, "key": numba.uint64[::1], "counter": numba.uint64[::1]},
    outputs={"outputs": 1, "mask": numba.uint8[::1]},
    output_shapes=_output_shapes,
    attributes={"rate": 0.5},
)


def _key_and_counter(generator: keras.random.SeedGenerator) -> tuple[Any, Any]:
    """Return two tensors for the next call: the key and the counter of the Philox generator.

    The seed is drawn as Keras draws it. The key and the counter are computed from the seed as
    TensorFlow computes them. So the mask is the same as that of Keras.
    """
    tf = import_module("tensorflow")
    seed = tf.math.floormod(generator.next(), tf.int32.max - 1)
    return tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)


def _missing(layer: keras.layers.Dropout) -> str | None:
    """Return the reason why the kernel cannot compute a layer, or ``None``."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        return f"the backend {backend} (the mask is the one that TensorFlow draws)"
    if layer.noise_shape is not None:
        return f"noise_shape={layer.noise_shape!r} (each element is drawn on its own)"
    return None


@keras.saving.register_keras_serializable(package="cnnforge")
class Dropout(KernelLayer, keras.layers.Dropout):
    """``keras.layers.Dropout`` on Numba kernels, which draw, compare and scale in one pass.

    The mask is exactly the one that Keras on TensorFlow would draw with the same seed generator.
    Constructor arguments, configuration and errors are those of Keras. The framework computes the
    layer, with one warning, if the inputs are not float32, if there is a ``noise_shape``, or if the
    backend is not TensorFlow.

    Input shape:
        any

    Output shape:
        the shape of the inputs
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """In training, drop elements and scale the others; otherwise return the inputs."""
        nothing_drawn = not training or self.rate in (0, 1)
        if nothing_drawn or not kernel_fits(self, inputs, _missing(self)):
            return super().call(inputs, training=training)
        flat = keras.ops.reshape(inputs, (-1,))
        outputs, _ = dropout(flat, *_key_and_counter(self.seed_generator), rate=self.rate)
        return keras.ops.reshape(outputs, keras.ops.shape(inputs))
