"""Detectors of objects, and the backbone that they share with a classification.

Every map says for each of its cells how much it is the middle of an object of each class, and how
far away the four sides of the box are. The layers have the names of the stride of their outputs, so
weights of one of these models fit into the others.
"""

from __future__ import annotations

import keras
from keras import layers

from cnnforge_plugins.models import efficientnet_lite0
from cnnforge_plugins.models._checks import LAYOUT, check_sizes
from cnnforge_plugins.models._inputs import with_three_channels

MIN_SIZE = 16
LITE0 = "efficientnet_lite0"
# Filters of the convolutions of each stage by the stride of its outputs. A stage begins with max
# pooling, except the first, whose first convolution halves the image.
_STAGES = {2: (16, 32), 4: (48,), 8: (64, 64), 16: (96, 96), 32: (128, 128)}
# Channels in which a stage is added to the next coarser one.
_NECK = {4: 48, 8: 64, 16: 64}
_HEAD = 64
# Rare at first: without this bias, the many empty cells outweigh the few middles of objects.
_HEAT_BIAS = -3.0
# The first boxes reach e = 2.7 cells to each side.
_SIDES_BIAS = 1.0


def detector(
    input_shape: tuple[int, int, int], classes: int, argument: str | None = None
) -> keras.Model:
    """Build a detector with one map, at a quarter of the size of the image.

    The map and its training are those of Z. Liu et al., "Training-time-friendly network for
    real-time object detection", 2019. Without an argument the model has 0.27 million weights, and
    is for objects of about 8 to 100 pixels.

    Args:
        input_shape: (H, W, C), H and W at least 16, C 1 or 3.
        classes: Number of classes, 1 or more.
        argument: `"efficientnet_lite0"`: the backbone is this network, for which there are ImageNet
            weights. `None`: a small backbone.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to a map (N, h, w, classes + 4): the
        logits of the classes, and the logarithms of the distances to the left, upper, right and
        lower side of the box in cells. h and w are a quarter of H and W, rounded up.

    Raises:
        ValueError: The images are too small, or the argument is unknown.
    """
    check_sizes("detector", input_shape, classes, MIN_SIZE, min_classes=1)
    inputs = keras.Input(input_shape, name="image")
    if argument is None:
        stages = _backbone(inputs, 16)
    elif argument == LITE0:
        stages = _lite0(inputs)
    else:
        raise ValueError(f"there is no backbone {argument!r}: write detector or detector:{LITE0}")
    output = _map(_neck(stages)[4], classes, 4, input_shape)
    return keras.Model(inputs, output, name="detector")


def detector_m(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build a detector with three maps, for objects of 8 to 300 pixels.

    Args:
        input_shape: (H, W, C), H and W at least 16, C 1 or 3.
        classes: Number of classes, 1 or more.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to a list of three maps as those of
        `detector`, at strides of 4, 8 and 16 pixels.

    Raises:
        ValueError: The images are too small.
    """
    check_sizes("detector_m", input_shape, classes, MIN_SIZE, min_classes=1)
    inputs = keras.Input(input_shape, name="image")
    joined = _neck(_backbone(inputs, 32))
    outputs = [_map(joined[stride], classes, stride, input_shape) for stride in sorted(joined)]
    return keras.Model(inputs, outputs, name="detector_m")


def backbone(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build a classification with the backbone of the detectors, to train this on other images.

    A detector takes its weights with `--init-from`.

    Args:
        input_shape: (H, W, C), H and W at least 16, C 1 or 3.
        classes: Number of classes, at least 2.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: The images are too small or there are too few classes.
    """
    check_sizes("detector_backbone", input_shape, classes, MIN_SIZE)
    inputs = keras.Input(input_shape, name="image")
    outputs = _backbone(inputs, 32)[32]
    outputs = layers.GlobalAveragePooling2D(data_format=LAYOUT, name="average")(outputs)
    outputs = layers.Dropout(0.2, name="dropout")(outputs)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(outputs)
    return keras.Model(inputs, outputs, name="detector_backbone")


def _backbone(inputs: keras.KerasTensor, last: int) -> dict[int, keras.KerasTensor]:
    """Apply the stages up to a stride. Return the outputs of each stage by its stride."""
    outputs = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    outputs, found = _padded(outputs, last), {}
    for stride, widths in _STAGES.items():
        if stride > last:
            break
        if stride > 2:
            outputs = layers.MaxPooling2D(2, data_format=LAYOUT, name=f"stride{stride}_pool")(
                outputs
            )
        for number, filters in enumerate(widths, 1):
            strides = 2 if (stride, number) == (2, 1) else 1
            outputs = _convolution(outputs, filters, 3, f"stride{stride}_{number}", strides=strides)
        found[stride] = outputs
    return found


def _lite0(inputs: keras.KerasTensor) -> dict[int, keras.KerasTensor]:
    """Apply EfficientNet-Lite0. Return the last outputs of each stride."""
    outputs = efficientnet_lite0.rescaled(with_three_channels(inputs))
    return efficientnet_lite0.stages(_padded(outputs, 32))


def _padded(images: keras.KerasTensor, multiple: int) -> keras.KerasTensor:
    """Add zeros at the lower and the right edge, such that the size is a multiple of a number."""
    bottom, right = (-size % multiple for size in images.shape[1:3])
    if not (bottom or right):
        return images
    padding = ((0, bottom), (0, right))
    return layers.ZeroPadding2D(padding, data_format=LAYOUT, name="padding")(images)


def _neck(stages: dict[int, keras.KerasTensor]) -> dict[int, keras.KerasTensor]:
    """Add to each stage, from coarse to fine, what the coarser ones have found.

    Args:
        stages: Outputs of the stages of a backbone by their stride; stride 2 is not used.

    Returns:
        The sums by stride: 4, 8 and 16 if they are finer than the coarsest stage.
    """
    last = max(stages)
    outputs, found = stages[last], {}
    for stride in sorted((stride for stride in _NECK if stride < last), reverse=True):
        name, filters = f"neck{stride}", _NECK[stride]
        coarse = _convolution(outputs, filters, 1, f"{name}_coarse")
        coarse = layers.UpSampling2D(2, data_format=LAYOUT, name=f"{name}_upsampling")(coarse)
        fine = _convolution(stages[stride], filters, 1, f"{name}_fine")
        outputs = found[stride] = layers.Add(name=f"{name}_add")([coarse, fine])
    return found


def _map(
    inputs: keras.KerasTensor, classes: int, stride: int, input_shape: tuple[int, int, int]
) -> keras.KerasTensor:
    """Compute the map of a stride, without the cells of the padding: (N, h, w, classes + 4)."""
    outputs = _convolution(inputs, _HEAD, 3, f"map{stride}")
    parts = [
        layers.Conv2D(
            filters,
            1,
            bias_initializer=keras.initializers.Constant(bias),
            data_format=LAYOUT,
            name=f"map{stride}_{name}",
        )(outputs)
        for name, filters, bias in (("heat", classes, _HEAT_BIAS), ("sides", 4, _SIDES_BIAS))
    ]
    output = layers.Concatenate(name=f"map{stride}")(parts)
    cells = [-(-size // stride) for size in input_shape[:2]]
    bottom, right = (size - own for size, own in zip(output.shape[1:3], cells, strict=True))
    if not (bottom or right):
        return output
    cropping = ((0, bottom), (0, right))
    return layers.Cropping2D(cropping, data_format=LAYOUT, name=f"map{stride}_cropping")(output)


def _convolution(
    inputs: keras.KerasTensor, filters: int, kernel: int, name: str, *, strides: int = 1
) -> keras.KerasTensor:
    """Apply a convolution, batch normalization and ReLU."""
    outputs = layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        data_format=LAYOUT,
        name=f"{name}_conv",
    )(inputs)
    outputs = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(outputs)
    return layers.ReLU(name=f"{name}_relu")(outputs)
