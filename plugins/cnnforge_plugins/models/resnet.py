"""ResNet-20, 32, 56 and 110: residual networks for small images."""

from __future__ import annotations

import keras
from keras import layers

from cnnforge_plugins.models._checks import LAYOUT, check_sizes

MIN_SIZE = 8
_STAGES = (16, 32, 64)


def resnet20(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build ResNet-20 (see `build`)."""
    return build(20, input_shape, classes)


def resnet32(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build ResNet-32 (see `build`)."""
    return build(32, input_shape, classes)


def resnet56(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build ResNet-56 (see `build`)."""
    return build(56, input_shape, classes)


def resnet110(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build ResNet-110 (see `build`)."""
    return build(110, input_shape, classes)


def build(depth: int, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build a residual network for CIFAR-10.

    The architecture is that of K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image
    recognition", 2015, section 4.2. It has a 3x3 convolution, three stages of equally many blocks
    with 16, 32 and 64 filters, global average pooling, and a dense layer with softmax. The second
    and the third stage halve the image. Weights are initialised as in "Delving deep into
    rectifiers", 2015, by the same authors. The shortcut of a block that halves the image is option
    A of the paper: it takes every second pixel, and sets new channels to zero. Shortcuts therefore
    have no weights.

    The paper subtracts the mean of each pixel. This model scales pixel values to 0..1 instead, and
    batch normalization removes the mean. For the weight decay of the paper, set the option
    `weight_decay` of training.

    Args:
        depth: Number of layers with weights: 6n + 2 for n blocks in each stage.
        input_shape: (H, W, C), H and W at least 8.
        classes: Number of classes, at least 2.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: If the images are too small or there are too few classes.
    """
    name = f"resnet{depth}"
    check_sizes(name, input_shape, classes, MIN_SIZE)
    inputs = keras.Input(input_shape, name="image")
    outputs = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    outputs = _convolution(outputs, 16, 1, "stem")
    outputs = layers.ReLU(name="stem_relu")(outputs)
    for stage, filters in enumerate(_STAGES, 1):
        for block in range(1, (depth - 2) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            outputs = _block(outputs, filters, strides, f"stage{stage}_block{block}")
    outputs = layers.GlobalAveragePooling2D(data_format=LAYOUT, name="average")(outputs)
    outputs = layers.Dense(
        classes, activation="softmax", kernel_initializer="he_normal", name="probabilities"
    )(outputs)
    return keras.Model(inputs, outputs, name=name)


def _convolution(
    inputs: keras.KerasTensor, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    """Apply a 3x3 convolution and batch normalization.

    The convolution does not need a bias, since batch normalization adds an offset.
    """
    outputs = layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        data_format=LAYOUT,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(inputs)
    return layers.BatchNormalization(name=f"{name}_norm")(outputs)


def _block(inputs: keras.KerasTensor, filters: int, strides: int, name: str) -> keras.KerasTensor:
    outputs = _convolution(inputs, filters, strides, f"{name}_1")
    outputs = layers.ReLU(name=f"{name}_1_relu")(outputs)
    outputs = _convolution(outputs, filters, 1, f"{name}_2")
    outputs = layers.Add(name=f"{name}_add")([outputs, _shortcut(inputs, filters, strides, name)])
    return layers.ReLU(name=f"{name}_2_relu")(outputs)


def _shortcut(
    inputs: keras.KerasTensor, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    """Return the shortcut of a block, which is added to the outputs of its convolutions.

    If the stride is 1, the shortcut is `inputs`. If it is 2, the shortcut is every second pixel of
    `inputs`, with additional channels of zeros.
    """
    if strides == 1:
        return inputs
    outputs = layers.MaxPooling2D(
        1, strides=strides, padding="same", data_format=LAYOUT, name=f"{name}_subsample"
    )(inputs)
    before = (filters - inputs.shape[-1]) // 2
    after = filters - inputs.shape[-1] - before
    # Use ZeroPadding2D to pad the channels, because every exporter supports this stock layer. With
    # channels_first, it pads the last two axes, which here are W and C.
    return layers.ZeroPadding2D(
        ((0, 0), (before, after)), data_format="channels_first", name=f"{name}_zeros"
    )(outputs)
