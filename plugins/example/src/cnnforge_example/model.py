"""Build a small network that uses both layers of this plugin."""

from __future__ import annotations

import keras
from keras import layers

from cnnforge_example.gabor import GaborConv2D
from cnnforge_example.separable import SeparableBlock2D


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build the network.

    Args:
        input_shape: Shape of an image, (H, W, C). H and W must be at least 4.
        classes: Number of classes.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: The images are too small.
    """
    if min(input_shape[:2]) < 4:
        raise ValueError(
            f"gabor_net halves the image twice and needs 4 x 4 pixels, got {input_shape[0]} x "
            f"{input_shape[1]}: choose a larger image size"
        )
    inputs = keras.Input(input_shape, name="image")
    outputs = layers.Rescaling(1 / 255)(inputs)
    outputs = GaborConv2D(16, 7)(outputs)
    outputs = layers.ReLU()(outputs)
    outputs = layers.MaxPooling2D(2)(outputs)
    outputs = SeparableBlock2D(32)(outputs)
    outputs = layers.MaxPooling2D(2)(outputs)
    outputs = SeparableBlock2D(64)(outputs)
    outputs = layers.GlobalAveragePooling2D()(outputs)
    outputs = layers.Dense(classes, activation="softmax")(outputs)
    return keras.Model(inputs, outputs, name="gabor_net")
