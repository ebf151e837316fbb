"""A small MobileNet: depthwise separable convolutions, for small images."""

from __future__ import annotations

import keras
from keras import layers

from cnnforge_plugins.models._checks import LAYOUT, check_sizes

MIN_SIZE = 8
# Filters and strides of each block.
_BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2))


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build a MobileNet for images of about 32x32, to train from random weights.

    The blocks are those of A. Howard et al., "MobileNets: efficient convolutional neural networks
    for mobile vision applications", 2017: a depthwise 3x3 convolution and a 1x1 convolution, each
    with batch normalization and ReLU. There are seven blocks with at most 256 filters, and the
    first convolution does not halve the image.

    Args:
        input_shape: (H, W, C), H and W at least 8.
        classes: Number of classes, at least 2.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: If the images are too small or there are too few classes.
    """
    check_sizes("mobilenet_small", input_shape, classes, MIN_SIZE)
    inputs = keras.Input(input_shape, name="image")
    outputs = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    outputs = layers.Conv2D(
        16, 3, padding="same", use_bias=False, data_format=LAYOUT, name="stem_conv"
    )(outputs)
    outputs = _activated(outputs, "stem")
    for number, (filters, strides) in enumerate(_BLOCKS, 1):
        name = f"block{number}"
        outputs = layers.DepthwiseConv2D(
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            data_format=LAYOUT,
            name=f"{name}_depthwise_conv",
        )(outputs)
        outputs = _activated(outputs, f"{name}_depthwise")
        outputs = layers.Conv2D(
            filters, 1, use_bias=False, data_format=LAYOUT, name=f"{name}_conv"
        )(outputs)
        outputs = _activated(outputs, name)
    outputs = layers.GlobalAveragePooling2D(data_format=LAYOUT, name="average")(outputs)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(outputs)
    return keras.Model(inputs, outputs, name="mobilenet_small")


def _activated(inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
    outputs = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(inputs)
    return layers.ReLU(name=f"{name}_relu")(outputs)
