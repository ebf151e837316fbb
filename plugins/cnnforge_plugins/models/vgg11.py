"""VGG-11: eight convolutions in blocks, for small images."""

from __future__ import annotations

import keras
from keras import layers

from cnnforge_plugins.models._checks import LAYOUT, check_sizes

MIN_SIZE = 32
_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build VGG-11 with batch normalization, for images of about 32x32.

    The convolutions are those of configuration A in K. Simonyan, A. Zisserman, "Very deep
    convolutional networks for large-scale image recognition", 2014. Each is followed by batch
    normalization, which the paper does not have. As usual for small images, global average pooling
    and one dense layer replace the three dense layers of the paper.

    Args:
        input_shape: (H, W, C), H and W at least 32.
        classes: Number of classes, at least 2.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: If the images are too small or there are too few classes.
    """
    check_sizes("vgg11", input_shape, classes, MIN_SIZE)
    inputs = keras.Input(input_shape, name="image")
    outputs = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    number = 0
    for stage, widths in enumerate(_STAGES, 1):
        for filters in widths:
            number += 1
            outputs = layers.Conv2D(
                filters,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
                data_format=LAYOUT,
                name=f"conv{number}",
            )(outputs)
            outputs = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(outputs)
            outputs = layers.ReLU(name=f"relu{number}")(outputs)
        outputs = layers.MaxPooling2D(2, data_format=LAYOUT, name=f"pool{stage}")(outputs)
    outputs = layers.GlobalAveragePooling2D(data_format=LAYOUT, name="average")(outputs)
    outputs = layers.Dropout(0.5, name="dropout")(outputs)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(outputs)
    return keras.Model(inputs, outputs, name="vgg11")
