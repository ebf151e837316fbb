"""EfficientNet-Lite0: a small network for photographs, with ImageNet weights to start from."""

from __future__ import annotations

import keras
from keras import layers

from cnnforge_plugins.models._checks import LAYOUT, check_sizes
from cnnforge_plugins.models._inputs import with_three_channels

MIN_SIZE = 32
# Repeats, kernel size, strides of the first block, expansion factor, filters.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build EfficientNet-Lite0.

    The architecture is EfficientNet-B0 of M. Tan, Q. Le, "EfficientNet: rethinking model scaling
    for convolutional neural networks", 2019, without squeeze-and-excitation and with ReLU6, as its
    authors published it for mobile devices in 2020. Images with one channel are repeated to three.

    Args:
        input_shape: (H, W, C), H and W at least 32, C 1 or 3.
        classes: Number of classes, at least 2.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: If the images are too small or there are too few classes.
    """
    check_sizes("efficientnet_lite0", input_shape, classes, MIN_SIZE)
    inputs = keras.Input(input_shape, name="image")
    outputs = stages(rescaled(with_three_channels(inputs)))[32]
    outputs = _convolution(outputs, 1280, 1, 1, "head")
    outputs = layers.GlobalAveragePooling2D(data_format=LAYOUT, name="average")(outputs)
    outputs = layers.Dropout(0.2, name="dropout")(outputs)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(outputs)
    return keras.Model(inputs, outputs, name="efficientnet_lite0")


def rescaled(images: keras.KerasTensor) -> keras.KerasTensor:
    """Convert raw pixel values (N, H, W, 3) to the numbers that the ImageNet weights expect."""
    return layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(images)


def stages(images: keras.KerasTensor) -> dict[int, keras.KerasTensor]:
    """Apply the network without its head.

    Args:
        images: (N, H, W, 3), from `rescaled`.

    Returns:
        The last outputs of each stride, 2, 4, 8, 16 and 32, by stride.
    """
    outputs, number, stride = _convolution(images, 32, 3, 2, "stem"), 0, 2
    found = {}
    for repeats, kernel, strides, expansion, filters in _STAGES:
        stride *= strides
        for repeat in range(repeats):
            number += 1
            outputs = _block(
                outputs, kernel, 1 if repeat else strides, expansion, filters, f"block{number}"
            )
        found[stride] = outputs
    return found


def _convolution(
    inputs: keras.KerasTensor, filters: int, kernel: int, strides: int, name: str
) -> keras.KerasTensor:
    """Apply a convolution, batch normalization and ReLU6."""
    outputs = layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        data_format=LAYOUT,
        name=f"{name}_conv",
    )(inputs)
    return _normalized(outputs, name)


def _normalized(inputs: keras.KerasTensor, name: str, *, relu: bool = True) -> keras.KerasTensor:
    outputs = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_norm")(inputs)
    return layers.ReLU(6.0, name=f"{name}_relu")(outputs) if relu else outputs


def _block(
    inputs: keras.KerasTensor, kernel: int, strides: int, expansion: int, filters: int, name: str
) -> keras.KerasTensor:
    """Apply an inverted bottleneck: expand the channels, filter each of them, and project them."""
    channels = inputs.shape[-1]
    outputs = inputs
    if expansion > 1:
        outputs = _convolution(inputs, channels * expansion, 1, 1, f"{name}_expand")
    outputs = layers.DepthwiseConv2D(
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        depthwise_initializer="he_normal",
        data_format=LAYOUT,
        name=f"{name}_depthwise_conv",
    )(outputs)
    outputs = _normalized(outputs, f"{name}_depthwise")
    outputs = layers.Conv2D(
        filters,
        1,
        use_bias=False,
        kernel_initializer="he_normal",
        data_format=LAYOUT,
        name=f"{name}_project_conv",
    )(outputs)
    outputs = _normalized(outputs, f"{name}_project", relu=False)
    if strides == 1 and channels == filters:
        outputs = layers.Add(name=f"{name}_add")([outputs, inputs])
    return outputs
