"""Open the model of a run as stock Keras layers, and refuse one that has others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from cnnforge.conversion import lower
from cnnforge.conversion.matching import plugin_layers
from cnnforge.errors import UsageError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction.keras_model import load_model
from cnnforge.runs import RunDirectory
from cnnforge.utils.keras_graph import all_layers, model_parts

_KNOWN = ("keras", "builtins")


def open_stock_model(run: RunDirectory, plugins: Plugins) -> keras.Model:
    """Open the model of a run, with stock Keras layers only.

    Args:
        run: The run.
        plugins: All plugins.

    Raises:
        UsageError: A layer cannot be lowered, or calls a function of a plugin.
        RunError: The model cannot be opened.
    """
    model = load_model(run.model, plugins.layers)
    if plugin_layers(model, plugins.layers):
        model = lower(model, layers=plugins.layers)
    check_stock(model)
    return model


def check_stock(model: keras.Model) -> None:
    """Check that a model consists of stock Keras layers, which other programs know.

    Args:
        model: Any model.

    Raises:
        UsageError: A layer is of another class, or calls a function that Keras does not have.
    """
    parts = {id(part) for part in model_parts(model)}
    for layer in all_layers(model):
        kind = type(layer)
        foreign = [f"{kind.__module__}.{kind.__qualname__}"]
        if kind.__module__.partition(".")[0] in _KNOWN:
            # The layers inside a model follow it in the list.
            foreign = [] if id(layer) in parts else list(_foreign(layer.get_config()))
        if foreign:
            raise UsageError(
                f"the layer {layer.name!r} cannot be lowered to stock Keras layers: {foreign[0]} "
                "is code that other programs do not have; predict with cnnforge.load(RUN), or "
                "declare a stock reference for the layer in its plugin"
            )


def _foreign(config: Any) -> Iterator[str]:
    """Yield the names of the classes and functions in a configuration that Keras does not have."""
    if isinstance(config, dict):
        module = config.get("module")
        if isinstance(module, str) and "class_name" in config:
            # Keras keeps a registered function as `package>name`, without its module.
            if config["class_name"] == "function" and ">" in str(config.get("config")):
                yield str(config["config"])
            elif module.partition(".")[0] not in _KNOWN:
                yield f"{module}.{config['class_name']}"
        for value in config.values():
            yield from _foreign(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _foreign(value)
