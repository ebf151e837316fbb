"""Say which modules plain Keras needs to open the saved model of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import keras

from cnnforge.errors import UsageError
from cnnforge.model_files.classes import REFUSED
from cnnforge.model_files.trust import models_are_trusted
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import all_layers


def saved_paths(layers: Registry[LayerSpec]) -> Iterator[tuple[str, LayerSpec]]:
    """Yield the import paths of the classes that saved models may contain, with their specs."""
    for spec in layers.values():
        if spec.reference is None:
            yield spec.target, spec
        elif spec.own_reference:
            yield spec.reference, spec


def check_can_be_opened(layers: Iterable[keras.Layer]) -> None:
    """Check before a training that its model can be opened after it.

    Args:
        layers: The layers of the model.

    Raises:
        UsageError: A layer is one that model files may not contain, see `cnnforge.model_files`.
    """
    for layer in () if models_are_trusted() else layers:
        kind = type(layer)
        if kind.__module__.startswith("keras.") and kind.__name__ in REFUSED:
            raise UsageError(
                f"the model has the {kind.__name__} layer {layer.name!r}, and files with such a "
                "layer are refused: write it as a layer of a plugin, or add --trust-model here and "
                "to each command that opens the run"
            )


def saved_layers_note(kinds: Iterable[type], plugins: Plugins) -> tuple[str, ...]:
    """Describe what plain Keras needs to open a saved model.

    Args:
        kinds: The layer classes in the saved model that do not belong to Keras.
        plugins: The plugins.

    Returns:
        One sentence; none if `kinds` is empty.
    """
    modules: dict[str, list[str]] = {}
    for kind in kinds:
        modules.setdefault(kind.__module__, []).append(kind.__name__)
    if not modules:
        return ()
    named = ", ".join(f"{module} ({', '.join(names)})" for module, names in modules.items())
    plural, them = ("", "it") if len(modules) == 1 else ("s", "them")
    return (
        f"model.keras has layers of the module{plural} {named}: a program that opens it with plain "
        f"Keras imports {them} before{_by_plugins(kinds, plugins)}",
    )


def _by_plugins(kinds: Iterable[type], plugins: Plugins) -> str:
    known = dict(saved_paths(plugins.layers))
    owners = [known.get(f"{kind.__module__}:{kind.__qualname__}") for kind in kinds]
    if None in owners:
        return ""
    names = {owner.plugin for owner in owners if owner is not None}
    files = [it.source for it in plugins.records if it.name in names and it.distribution is None]
    return f", or calls cnnforge.load_plugins({files or ''})"


def own_layers(model: keras.Model) -> list[type]:
    """Return the layer classes of a model that do not belong to Keras."""
    kinds = dict.fromkeys(type(layer) for layer in all_layers(model))
    return [kind for kind in kinds if kind.__module__.partition(".")[0] != "keras"]
