"""The layer ``BatchNormalizationReLU``: batch normalization and a ReLU, computed in one kernel."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge_kernels.authoring import BATCH_NORM_ACTIVATIONS
from cnnforge_plugins.layers._kernel_layer import KernelLayer
from cnnforge_plugins.layers.batch_normalization import NORMALIZED, BatchNormalization, batch_norm


class _NormalizationReLU(keras.layers.BatchNormalization):
    """The base class: adds the argument ``max_value`` and the ReLU to ``BatchNormalization``."""

    def __init__(self, *args: Any, max_value: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_value not in (None, 6):
            raise ValueError(f"`max_value` must be 6 or None. Received: max_value={max_value!r}")
        self.max_value = max_value

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of ``BatchNormalization`` with ``max_value`` added."""
        return {**super().get_config(), "max_value": self.max_value}

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize the inputs, and apply the ReLU."""
        outputs = super().call(inputs, training=training, mask=mask)
        return _fused(outputs, "relu" if self.max_value is None else "relu6")


@keras.saving.register_keras_serializable(package="cnnforge")
class StockBatchNormalizationReLU(_NormalizationReLU):
    """A layer that computes the same as ``BatchNormalizationReLU`` with the framework's own ops.

    Tests and benchmarks compare ``BatchNormalizationReLU`` with this layer.
    """


@keras.saving.register_keras_serializable(package="cnnforge")
class BatchNormalizationReLU(_NormalizationReLU, BatchNormalization):
    """``BatchNormalization`` and the ``ReLU`` after it, in one kernel when a model is trained.

    A training step neither writes nor reads the outputs before the ReLU. Weights and errors are
    those of ``keras.layers.BatchNormalization``. The constructor has one more argument,
    ``max_value``, which is that of ``keras.layers.ReLU``: 6, or ``None`` for no limit. In eager
    mode and under torch, and in a prediction, the framework computes the ReLU.

    Input shape:
        (..., C)

    Output shape:
        the shape of the inputs
    """

    @classmethod
    def fuse(cls, normalization: Any, activation: Any) -> BatchNormalizationReLU | None:
        """Return the layer that computes a ``BatchNormalization`` and the ReLU after it.

        Args:
            normalization: The normalization.
            activation: A ``keras.layers.ReLU`` or a ``keras.layers.Activation``.

        Returns:
            An unbuilt ``BatchNormalizationReLU`` with the name of the normalization; ``None`` if
            the kernel cannot compute the pair.
        """
        name = _activation_name(activation)
        dtypes = normalization.compute_dtype, activation.compute_dtype
        if name is None or dtypes != ("float32", "float32"):
            return None
        # These arguments do not change what the layer computes from given weights.
        unused = ("_initializer", "_regularizer", "_constraint")
        config = {k: v for k, v in normalization.get_config().items() if not k.endswith(unused)}
        return cls.from_config({**config, "max_value": None if name == "relu" else 6})

    def split(self) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        """Return the ``BatchNormalization`` and the ``ReLU`` that compute the same as the layer."""
        config = self.get_config()
        config.pop("max_value")
        return keras.layers.BatchNormalization.from_config(config), self._activation()

    def _activation(self) -> keras.layers.Layer:
        return keras.layers.ReLU(self.max_value, dtype=self.dtype_policy)


@keras.saving.register_keras_serializable(package="cnnforge")
class BatchNormalizationActivation(BatchNormalizationReLU):
    """The same as ``BatchNormalizationReLU``, for a ``keras.layers.Activation`` in place of a ReLU.

    Input shape:
        (..., C)

    Output shape:
        the shape of the inputs
    """

    def _activation(self) -> keras.layers.Layer:
        name = "relu" if self.max_value is None else "relu6"
        return keras.layers.Activation(name, dtype=self.dtype_policy)


class _AfterNormalization(KernelLayer):
    """A mixin for a layer that applies a ReLU to the outputs of a ``BatchNormalization``.

    ``forge`` puts it after a ``BatchNormalization`` of this package. When the graph of a training
    step is built, the layer finds the op of the normalization, and computes normalization and ReLU
    in one kernel. TensorFlow then computes the normalization alone only if something else reads its
    outputs. In eager mode and under torch these outputs exist already, and a prediction uses
    another op, so the layer is a stock layer there.
    """

    def call(self, inputs: Any) -> Any:
        """Apply the ReLU, if possible together with the normalization before it."""
        name = _activation_name(self)
        return super().call(inputs) if name is None else _fused(inputs, name)  # type: ignore


@keras.saving.register_keras_serializable(package="cnnforge")
class NormalizedReLU(_AfterNormalization, keras.layers.ReLU):
    """The ``keras.layers.ReLU`` after a normalization, computed in one kernel with it.

    Constructor arguments, configuration and errors are those of Keras.
    """


@keras.saving.register_keras_serializable(package="cnnforge")
class NormalizedActivation(_AfterNormalization, keras.layers.Activation):
    """The ``keras.layers.Activation`` after a normalization, computed in one kernel with it.

    Constructor arguments, configuration and errors are those of Keras.
    """


def _fused(inputs: Any, name: str) -> Any:
    """Apply a ReLU to outputs of ``BatchNormalization``, in its kernel if that is possible."""
    ops = keras.ops
    rows, shape = getattr(inputs, NORMALIZED, (None, None))
    found = batch_norm.call_of(rows)
    if found is None:
        return ops.relu(inputs) if name == "relu" else ops.relu6(inputs)
    tensors, attributes = found
    number = BATCH_NORM_ACTIVATIONS.index(name)
    outputs = batch_norm(*tensors, **{**attributes, "activation": number})
    return ops.reshape(outputs, shape)


def _activation_name(layer: Any) -> str | None:
    """Return ``"relu"`` or ``"relu6"`` if a layer is this function, else ``None``."""
    if isinstance(layer, keras.layers.Activation):
        names = {keras.activations.relu: "relu", keras.activations.relu6: "relu6"}
        return names.get(layer.activation)
    if layer.negative_slope or layer.threshold:
        return None
    return {None: "relu", 6: "relu6"}.get(layer.max_value)
