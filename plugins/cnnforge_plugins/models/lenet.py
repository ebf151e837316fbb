"""LeNet: two convolutions, each with pooling, and two dense layers."""

from __future__ import annotations

import keras
from keras import layers

from cnnforge_plugins.models._checks import LAYOUT, check_sizes

MIN_SIZE = 4


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build a small network that is similar to LeNet-5.

    It has two blocks of convolution, ReLU, max pooling and dropout, and then two dense layers.
    LeNet-5 is described in Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning
    applied to document recognition", 1998, section II.B. This model uses ReLU instead of tanh, max
    pooling instead of subsampling, and a softmax instead of radial basis functions. It also has
    dropout.

    Args:
        input_shape: (H, W, C), H and W at least 4.
        classes: Number of classes, at least 2.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: If the images are too small or there are too few classes.
    """
    check_sizes("lenet", input_shape, classes, MIN_SIZE)
    inputs = keras.Input(input_shape, name="image")
    outputs = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    outputs = layers.Conv2D(
        8, 5, padding="same", activation="relu", data_format=LAYOUT, name="conv1"
    )(outputs)
    outputs = layers.MaxPooling2D(2, data_format=LAYOUT, name="pool1")(outputs)
    outputs = layers.Dropout(0.25, name="dropout1")(outputs)
    outputs = layers.Conv2D(
        16, 3, padding="same", activation="relu", data_format=LAYOUT, name="conv2"
    )(outputs)
    outputs = layers.MaxPooling2D(2, strides=2, data_format=LAYOUT, name="pool2")(outputs)
    outputs = layers.Dropout(0.25, name="dropout2")(outputs)
    outputs = layers.Flatten(data_format=LAYOUT, name="flatten")(outputs)
    outputs = layers.Dense(256, activation="relu", name="dense")(outputs)
    outputs = layers.Dropout(0.5, name="dropout3")(outputs)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(outputs)
    return keras.Model(inputs, outputs, name="lenet")
