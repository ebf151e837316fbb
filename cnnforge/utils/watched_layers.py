"""Watch what the layers of a model compute."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from cnnforge.utils.keras_graph import all_layers


@contextlib.contextmanager
def watched(
    model: keras.Model, look: Callable[[keras.layers.Layer, Any, Any], None]
) -> Iterator[None]:
    """Return a context in which `look` is called after every layer of a model.

    A layer that contains others, such as a nested model, returns after them.

    Args:
        model: The model.
        look: Function of the layer, its inputs and its outputs.
    """
    layers = [layer for layer in all_layers(model) if layer is not model]

    def watch(layer: keras.layers.Layer) -> None:
        call = layer.call

        def called(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            look(layer, args, outputs)
            return outputs

        # Not `layer.call = called`, since Keras tracks attributes that are set on a layer.
        object.__setattr__(layer, "call", called)

    try:
        for layer in layers:
            watch(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def float_arrays(values: Any) -> Iterator[np.ndarray]:
    """Yield the tensors of floating-point numbers in a structure, as arrays.

    Args:
        values: Tensors, variables and arrays in lists and dictionaries; `None`, flags and texts in
            it are left out.
    """
    for value in keras.tree.flatten(values):
        if value is not None and not isinstance(value, bool | str):
            array = np.asarray(keras.ops.convert_to_numpy(value))
            if array.dtype.kind == "f":
                yield array


def describe_layer(layer: keras.layers.Layer) -> str:
    """Return the name and the class of a layer, such as `"layer 'conv1' (Conv2D)"`."""
    return f"layer {layer.name!r} ({type(layer).__name__})"
