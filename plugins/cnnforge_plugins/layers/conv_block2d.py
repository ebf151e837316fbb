"""The layer ``ConvBlock2D``: convolution, bias, ReLU and max pooling, computed in one kernel."""

from __future__ import annotations

from typing import Any

import keras
import numba
from numba.extending import register_jitable

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    conv_block_forward,
    conv_block_grad_inputs,
    conv_block_grad_weights,
    output_size,
)
from cnnforge_plugins.layers._fallback import kernel_fits
from cnnforge_plugins.layers._kernel_layer import KernelLayer, bias_or_empty

Shape = tuple[int, ...]

# The maximum number of cells of a pooling window. The argmax is one byte, and its value 255 means
# that no cell of the window is positive. So the indices of the cells are 0 to 254.
_MAX_CELLS = 255


@register_jitable
def _pooled(size: int, window: int, stride: int, dilation: int, same: bool, pool: int) -> int:
    outputs = output_size(size, window, stride, dilation, same) // pool
    if outputs == 0 and size > 0:
        raise ValueError(
            "The convolution and the pooling behind it resulted in an empty output: a window is "
            'larger than the inputs. Use larger inputs, smaller windows or padding="same".'
        )
    return outputs


def _output_shapes(
    inputs: Shape,
    weights: Shape,
    strides: Shape,
    same: bool,
    dilation_rate: Shape,
    pool_size: Shape,
) -> Any:
    shape = (
        inputs[0],
        _pooled(inputs[1], weights[0], strides[0], dilation_rate[0], same, pool_size[0]),
        _pooled(inputs[2], weights[1], strides[1], dilation_rate[1], same, pool_size[1]),
        weights[3],
    )
    return shape, shape


conv_block = ArrayOp(
    "conv_block",
    forward=conv_block_forward,
    backward=(conv_block_grad_inputs, conv_block_grad_weights),
    inputs={"inputs": 4, "weights": 4, "bias": 1},
    outputs={"outputs": 4, "argmax": numba.uint8[:, :, :, ::1]},
    output_shapes=_output_shapes,
    attributes={
        "strides": (1, 1),
        "same": False,
        "dilation_rate": (1, 1),
        "groups": 1,
        "pool_size": (2, 2),
    },
    cuda="cnnforge_kernels.cuda.launch",
)


class _Block2D(KernelLayer, keras.layers.Conv2D):
    """The base class: ``Conv2D``, ReLU and max pool, computed by the framework's own ops."""

    def __init__(
        self, filters: int, kernel_size: Any, *, pool_size: Any = (2, 2), **kwargs: Any
    ) -> None:
        kwargs.setdefault("activation", "relu")
        super().__init__(filters, kernel_size, **kwargs)
        if self.activation is not keras.activations.relu:
            raise ValueError(
                f"{type(self).__name__} has a ReLU built in. Received: "
                f"activation={kwargs['activation']!r}, expected 'relu'"
            )
        self.pool_size = keras.layers.MaxPooling2D(pool_size).pool_size
        if self.pool_size[0] * self.pool_size[1] > _MAX_CELLS:
            raise ValueError(
                f"`pool_size` must have at most {_MAX_CELLS} cells. "
                f"Received: pool_size={self.pool_size}"
            )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape after convolution and pooling."""
        return self._pool().compute_output_shape(super().compute_output_shape(input_shape))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of ``Conv2D`` with ``pool_size`` added."""
        return {**super().get_config(), "pool_size": self.pool_size}

    def call(self, inputs: Any) -> Any:
        """Compute convolution, bias, ReLU and pool with the framework's own ops."""
        return self._pool().call(super().call(inputs))

    def _pool(self) -> keras.layers.Layer:
        # Make a new layer for each call. If the layer were an attribute, Keras would count it as a
        # layer of the model.
        return keras.layers.MaxPooling2D(self.pool_size, data_format=self.data_format)


@keras.saving.register_keras_serializable(package="cnnforge")
class StockBlock2D(_Block2D):
    """A layer that computes the same as ``ConvBlock2D`` with the framework's own ops.

    Tests and benchmarks compare ``ConvBlock2D`` with this layer.
    """


@keras.saving.register_keras_serializable(package="cnnforge")
class ConvBlock2D(_Block2D):
    """``Conv2D`` with a ReLU and the ``MaxPooling2D`` after it, in one kernel.

    The outputs before pooling are never written to an array. The gradients need only the argmax of
    the pool. Weights and errors are those of ``keras.layers.Conv2D`` with ``activation="relu"``.
    The constructor has one more argument, ``pool_size``, which is both the window and the strides
    of the pool. The padding of the pool is VALID. The framework computes the layer, with one
    warning, if the inputs are not float32 or if ``data_format`` is ``"channels_first"``.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH // pool_size[0], OW // pool_size[1], filters)
    """

    def call(self, inputs: Any) -> Any:
        """Compute convolution, bias, ReLU and pool in one kernel."""
        if not kernel_fits(self, inputs):
            return super().call(inputs)
        return conv_block(
            inputs,
            self.kernel,
            bias_or_empty(self),
            strides=self.strides,
            same=self.padding == "same",
            dilation_rate=self.dilation_rate,
            groups=self.groups,
            pool_size=self.pool_size,
        )[0]

    @classmethod
    def fuse(cls, convolution: Any, pool: Any) -> tuple[Any, Any] | None:
        """Return the two layers that replace a ``Conv2D`` and the ``MaxPooling2D`` after it.

        Returns:
            A ``ConvBlock2D`` with the name of the convolution, and a ``FusedPooling2D`` with the
            name of the pool; ``None`` if the kernel cannot compute the pair.
        """
        fits = (
            convolution.activation is keras.activations.relu
            and convolution.data_format == pool.data_format == "channels_last"
            and convolution.compute_dtype == pool.compute_dtype == "float32"
            and pool.strides == pool.pool_size
            and pool.padding == "valid"
            and pool.pool_size[0] * pool.pool_size[1] <= _MAX_CELLS
        )
        if not fits:
            return None
        block = cls.from_config({**convolution.get_config(), "pool_size": pool.pool_size})
        return block, FusedPooling2D.from_config(pool.get_config())

    def unfuse(self, alone: bool = False) -> keras.layers.Layer:
        """Return the layer of Keras that computes the same as this layer.

        Args:
            alone: Whether the model has no ``FusedPooling2D`` after this layer. If so, the result
                must contain the pool.

        Returns:
            A ``Conv2D``, or a ``Sequential`` of a ``Conv2D`` and a ``MaxPooling2D``.
        """
        config = self.get_config()
        pool_size = config.pop("pool_size")
        convolution = keras.layers.Conv2D.from_config(config)
        if not alone:
            return convolution
        pool = keras.layers.MaxPooling2D(pool_size, data_format=self.data_format)
        return keras.Sequential([convolution, pool], name=self.name)


@keras.saving.register_keras_serializable(package="cnnforge")
class FusedPooling2D(keras.layers.MaxPooling2D):
    """A layer that returns its inputs; it replaces a pool that a ``ConvBlock2D`` now computes."""

    def call(self, inputs: Any) -> Any:
        """Return the inputs."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def unfuse(self) -> keras.layers.Layer:
        """Return the ``MaxPooling2D`` that this layer has replaced."""
        return keras.layers.MaxPooling2D.from_config(self.get_config())
