"""Say which modules plain Keras needs to open the saved model of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.plugin_host.registry import Registry


def saved_paths(layers: Registry[LayerSpec]) -> Iterator[tuple[str, LayerSpec]]:
    """Yield the import paths of the classes that saved models may contain, with their specs."""
    for spec in layers.values():
        if spec.reference is None:
            yield spec.target, spec
        elif spec.own_reference:
            yield spec.reference, spec


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
