"""Check the arguments of the functions that convert models."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import keras

from cnnforge.errors import UsageError
from cnnforge.optimizer_options import one_of

KERNELS = ("auto", "numba", "keras")
"""The words that `forge` and `decide` accept as `kernels`."""


def check_model(function: str, model: Any) -> None:
    """Require a Keras model.

    Args:
        function: Name of the function that was called, for the message.
        model: Any value.

    Raises:
        UsageError: The value is not a model.
    """
    if isinstance(model, keras.Model):
        return
    got, advice = f"a value of the type {type(model).__name__}", "build or load a model first"
    if model is None:
        got = "None"
        advice = "does the function that builds the model end with `return model`?"
    elif isinstance(model, str | Path):
        got = repr(str(model))
        advice = f"load the file first: {function}(keras.models.load_model({str(model)!r}))"
    elif isinstance(model, type):
        got, advice = f"the class {model.__name__}", f"make a model of it first: {model.__name__}()"
    elif isinstance(model, keras.layers.Layer):
        got = f"the layer {model.name!r} ({type(model).__name__})"
        advice = (
            "put it into one: keras.Sequential([keras.Input((height, width, channels)), layer])"
        )
    raise UsageError(f"{function}() got {got}, expected a Keras model; {advice}")


def check_kernels(kernels: Any) -> None:
    """Require one of the words `KERNELS`.

    Args:
        kernels: Any value.

    Raises:
        UsageError: The value is another one. The message suggests a similar word.
    """
    if not isinstance(kernels, str):
        raise UsageError(f"kernels must be one of the words {', '.join(KERNELS)}, got {kernels!r}")
    one_of("kernels", kernels, KERNELS)


def check_batch_size(batch_size: Any) -> int:
    """Require a positive whole number, and return it as an `int`.

    Args:
        batch_size: Any value.

    Raises:
        UsageError: The value is not a positive whole number.
    """
    try:
        number = 0 if isinstance(batch_size, bool) else operator.index(batch_size)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(
            "batch_size must be a whole number of 1 or more, the number of images to measure with "
            f"(64 by default), got {batch_size!r}"
        )
    return number
