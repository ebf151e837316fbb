"""Check the arguments of the functions that convert models."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import keras

from cnnforge.errors import UsageError
from cnnforge.optimizer_options import one_of
from cnnforge.utils.keras_graph import FunctionalModel, model_parts

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


def check_convertible(model: keras.Model) -> None:
    """Require that a model and the models inside it are Sequential or Functional, and built.

    Args:
        model: Any model.

    Raises:
        UsageError: A model is subclassed or not built.
    """
    _check(model)
    for part in model_parts(model):
        _check(part)


def _check(model: keras.Model) -> None:
    kind = type(model)
    if not isinstance(model, keras.Sequential | FunctionalModel):
        raise UsageError(
            f"the model {model.name!r} is a {kind.__name__}, a subclass of keras.Model, and only "
            "Sequential and Functional models can be converted; build it from layers with "
            "keras.Model(inputs, outputs), or use --kernels keras"
        )
    # A clone is built from the layers, so it would lose the computation in the model's own `call`.
    if kind.call not in (keras.Sequential.call, FunctionalModel.call):
        raise UsageError(
            f"the model {model.name!r} is a {kind.__name__} with a call() of its own, and only "
            "models that are nothing but their layers can be converted; put what it computes "
            "into a layer, or use --kernels keras"
        )
    if not model.built:
        raise UsageError(
            f"the model {model.name!r} has no weights yet, because the shape of its inputs is not "
            "known; begin it with keras.Input((height, width, channels)), or call "
            "model.build((None, height, width, channels))"
        )
    # Keras builds no layer after one whose output shape it cannot find.
    waiting = next((layer for layer in model.layers if not layer.built), None)
    if waiting is not None:
        raise UsageError(
            f"the layer {waiting.name!r} of the model {model.name!r} has no weights yet, because "
            "Keras cannot find the shape of its inputs; give each of your layers before it a "
            "compute_output_shape()"
        )
