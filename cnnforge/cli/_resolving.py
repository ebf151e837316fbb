"""Merge the options of a training with the defaults that its model declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnnforge.configuration import TrainingOptions, check_types, resolve

if TYPE_CHECKING:
    from cnnforge.plugin import ModelSpec
    from cnnforge.plugin_host.discovery import Plugins

# A model declares these for its own optimizer or schedule, so they do not hold for another one.
_OF_OTHERS = {
    "optimizer": ("learning_rate", "weight_decay", "momentum"),
    "schedule": ("warmup_epochs",),
}
# A run with fewer epochs for each epoch of warmup begins without the warmup of the model.
_MIN_EPOCHS_PER_WARMUP = 10


def resolve_for_model(
    given: Mapping[str, Any], configured: Mapping[str, Any], plugins: Plugins | None = None
) -> tuple[TrainingOptions, dict[str, str]]:
    """Merge the options of a new run: those that are left out have the values of the model.

    Args:
        given: Options from the command line, by name.
        configured: Options from the config file, by name.
        plugins: All plugins; `None`: they are loaded without warnings.

    Returns:
        The options and the origin of each, see `cnnforge.configuration.resolve`.

    Raises:
        UsageError: The model is unknown, or a value is out of range.
        PluginError: A plugin cannot be loaded.
    """
    chosen = {**configured, **given}
    model, defaults = chosen.get("model"), {}
    if model is not None:
        if plugins is None:
            from cnnforge.plugin_host.discovery import discover

            plugins = discover(chosen.get("plugin", ()))
        defaults = defaults_for(plugins.models[model.partition(":")[0]], chosen)
    return resolve(given, configured, defaults)


def defaults_for(spec: ModelSpec, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a model for the options that a user has left out.

    If the user chooses another optimizer or schedule, what belongs to that of the model does not
    hold. Neither does the warmup if the run is short.

    Args:
        spec: Spec of the model.
        chosen: Options that the user chose, by name.

    Returns:
        Values of options by name.
    """
    values = check_types(spec.defaults, f"the defaults of the model {spec.qualified_name}")
    for option, belonging in _OF_OTHERS.items():
        if option in chosen:
            values = {name: value for name, value in values.items() if name not in belonging}
    epochs = {"epochs": TrainingOptions.epochs, **values, **chosen}["epochs"]
    if epochs < _MIN_EPOCHS_PER_WARMUP * values.get("warmup_epochs", 0):
        del values["warmup_epochs"]
    return {name: value for name, value in values.items() if name not in chosen}
