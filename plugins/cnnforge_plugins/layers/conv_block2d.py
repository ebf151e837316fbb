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
from cnnforge_plugins.layers.conv2d import conv2d
from cnnforge_plugins.layers.pooling import MaxPooling2D

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
    def fuse(cls, convolution: Any, pool: Any) -> ConvBlock2D | None:
        """Return the layer that computes a ``Conv2D`` and the ``MaxPooling2D`` after it.

        Returns:
            An unbuilt ``ConvBlock2D`` with the name of the convolution; ``None`` if the kernel
            cannot compute the pair.
        """
        fits = (
            convolution.activation is keras.activations.relu
            and convolution.data_format == "channels_last"
            and convolution.compute_dtype == pool.compute_dtype == "float32"
            and _pools_like_a_block(pool)
        )
        if not fits:
            return None
        # These arguments do not change what the layer computes from given weights.
        unused = ("_initializer", "_regularizer", "_constraint")
        config = {k: v for k, v in convolution.get_config().items() if not k.endswith(unused)}
        return cls.from_config({**config, "pool_size": pool.pool_size})

    def split(self) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        """Return the ``Conv2D`` and the ``MaxPooling2D`` that compute the same as this layer."""
        config = self.get_config()
        config.pop("pool_size")
        return keras.layers.Conv2D.from_config(config), self._pool()


@keras.saving.register_keras_serializable(package="cnnforge")
class BlockPooling2D(MaxPooling2D):
    """The ``MaxPooling2D`` after a convolution, which computes the convolution again with itself.

    ``forge`` puts it after a ``Conv2D`` of this package. When a TensorFlow graph is built, the
    layer finds the op of the convolution, and computes convolution, ReLU and pool in the kernel of
    ``ConvBlock2D``. TensorFlow then computes the convolution alone only if something else reads its
    outputs, for instance ``keras.Model(model.inputs, convolution.output)``. In eager mode and under
    torch the outputs of the convolution exist already, so the layer is a ``MaxPooling2D``.
    Constructor arguments, configuration and errors are those of Keras.

    Input shape:
        (N, H, W, C)

    Output shape:
        (N, OH, OW, C)
    """

    def call(self, inputs: Any) -> Any:
        """Return the maximum of each window, computed from the inputs of the convolution."""
        found = conv2d.call_of(inputs)
        if found is None or self.compute_dtype != "float32" or not _pools_like_a_block(self):
            return super().call(inputs)
        tensors, attributes = found
        if not attributes.pop("relu"):
            return super().call(inputs)
        return conv_block(*tensors, **attributes, pool_size=self.pool_size)[0]


def _pools_like_a_block(pool: Any) -> bool:
    """Return whether the kernel of ``ConvBlock2D`` can compute a pool."""
    return (
        pool.data_format == "channels_last"
        and pool.strides == pool.pool_size
        and pool.padding == "valid"
        and pool.pool_size[0] * pool.pool_size[1] <= _MAX_CELLS
    )


@keras.saving.register_keras_serializable(package="cnnforge")
class FusedPooling2D(keras.layers.MaxPooling2D):
    """A layer that returns its inputs; it replaces a pool that a ``ConvBlock2D`` computes.

    Only models that an older version of cnnforge has saved contain it.
    """

    def call(self, inputs: Any) -> Any:
        """Return the inputs."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def unfuse(self) -> keras.layers.Layer:
        """Return the ``MaxPooling2D`` that this layer has replaced."""
        return keras.layers.MaxPooling2D.from_config(self.get_config())
