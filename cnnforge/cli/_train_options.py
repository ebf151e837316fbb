"""Build the options of `cnnforge train` from the fields of a dataclass, and print their values.

The defaults that a model declares hold for options that the user leaves out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cnnforge.cli._common import load_plugins, print_json

if TYPE_CHECKING:
    from cnnforge.configuration import TrainingOptions
    from cnnforge.plugin import ModelSpec
    from cnnforge.plugin_host.discovery import Plugins

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_TYPES = {"str": str, "int": int, "float": float, "bool": bool}
# A model declares these for its own optimizer or schedule, so they do not hold for another one.
_OF_OTHERS = {
    "optimizer": ("learning_rate", "weight_decay", "momentum"),
    "schedule": ("warmup_epochs",),
}
# A run with fewer epochs for each epoch of warmup begins without the warmup of the model.
_MIN_EPOCHS_PER_WARMUP = 10


def with_options(kind: type, after: str) -> Callable[[FunctionT], FunctionT]:
    """Give a command one option for each field of a dataclass.

    Args:
        kind: The dataclass. The metadata of each field holds `metavar` and `help`.
        after: Name of the command's parameter after which `--help` lists the options.

    Returns:
        A decorator for a command with a parameter `**options`. The command gets the option values
        by field name, with `None` for an option that the user did not give.
    """

    def decorate(command: FunctionT) -> FunctionT:
        signature = inspect.signature(command, eval_str=True)
        named = signature.parameters.values()
        own = [parameter for parameter in named if parameter.kind is not Parameter.VAR_KEYWORD]
        # Typer makes an option for each parameter in the command's signature. So insert a parameter
        # for each field there.
        place = 1 + [parameter.name for parameter in own].index(after)
        parameters = [*own[:place], *map(_parameter, fields(kind)), *own[place:]]
        # The inserted parameters are keyword-only, and Python allows only keyword-only parameters
        # after them. So make all parameters keyword-only. Typer passes all values by name anyway.
        parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in parameters]
        command.__signature__ = signature.replace(  # pyright: ignore[reportFunctionMemberAccess]
            parameters=parameters
        )
        return command

    return decorate


def show_options(
    given: dict[str, Any],
    configured: dict[str, Any],
    epochs: str | None,
    resume: Path | None,
    json: bool,
) -> None:
    """Print the options of a run and the source of each value.

    Args:
        given: Values from the command line.
        configured: Values from the file that `--config` names.
        epochs: Value of `--epochs`, or `None`.
        resume: Directory of the run to resume, or `None`.
        json: Whether to print JSON.

    Raises:
        UsageError: A value is wrong.
    """
    from cnnforge.configuration import (
        TrainingOptions,
        check_types,
        epochs_of_resumed,
        parse_epochs,
        resolve,
    )
    from cnnforge.runs import RunDirectory, to_toml

    stored = {}
    if resume is not None:
        stored = check_types(RunDirectory.open(resume, needs=()).read_config()[0], str(resume))
        configured = {**stored, **configured}
    if epochs is not None:
        given["epochs"] = (
            parse_epochs(epochs)
            if resume is None
            else epochs_of_resumed(TrainingOptions(**stored), epochs, resume)
        )
    # The file of a run has the values of all options.
    merged = resolve if resume is not None else resolve_for_model
    options, origins = merged(given, configured)
    values = options.as_dict()
    if json:
        print_json({name: {"value": values[name], "origin": origins[name]} for name in values})
        return
    lines = {name: to_toml({name: value}).rstrip() or f"# {name}" for name, value in values.items()}
    width = max(map(len, lines.values()))
    for name, line in lines.items():
        typer.echo(f"{line:{width}}  # {origins[name]}")


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
    from cnnforge.configuration import resolve

    chosen = {**configured, **given}
    if "model" not in chosen and "data" not in chosen:
        return resolve(given, configured, {})
    if plugins is None:
        from cnnforge.plugin_host.discovery import discover

        plugins = discover(chosen.get("plugin", ()))
    spec = _model_of(chosen, plugins)
    return resolve(given, configured, {} if spec is None else defaults_for(spec, chosen))


def check_new(
    given: dict[str, Any], configured: dict[str, Any], epochs: str | None
) -> tuple[TrainingOptions, Plugins]:
    """Check the options of a new run, without Keras.

    Args:
        given: Options from the command line, by name. `epochs` is added to them.
        configured: Options from a config file, by name.
        epochs: Value of `--epochs`, or `None`.

    Returns:
        The options, and the plugins.

    Raises:
        CnnforgeError: An option, a name or the data are wrong.
    """
    from cnnforge.configuration import parse_epochs
    from cnnforge.data.references import find_dataset

    if epochs is not None:
        given["epochs"] = parse_epochs(epochs)
    plugins = load_plugins(given.get("plugin", configured.get("plugin", ())))
    options, _ = resolve_for_model(given, configured, plugins)
    for names, registry in (
        (options.callback, plugins.callbacks),
        (options.augment, plugins.augmentations),
    ):
        _ = [registry[name.partition(":")[0]] for name in names]
    find_dataset(options.data, plugins.datasets)
    return options, plugins


def _model_of(chosen: Mapping[str, Any], plugins: Plugins) -> ModelSpec | None:
    """Return the model that the user chose, or the default of the task of the data.

    `None` for a classification if the user chose no model.
    """
    if "model" in chosen:
        return plugins.models[chosen["model"].partition(":")[0]]
    from cnnforge.data.references import find_dataset
    from cnnforge.tasks import default_model

    data, _ = find_dataset(chosen["data"], plugins.datasets)
    return default_model(chosen["data"], data.task, plugins.models, plugins.tasks)


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
    from cnnforge.configuration import TrainingOptions, check_types

    values = check_types(spec.defaults, f"the defaults of the model {spec.qualified_name}")
    for option, belonging in _OF_OTHERS.items():
        if option in chosen:
            values = {name: value for name, value in values.items() if name not in belonging}
    epochs = {"epochs": TrainingOptions.epochs, **values, **chosen}["epochs"]
    if epochs < _MIN_EPOCHS_PER_WARMUP * values.get("warmup_epochs", 0):
        del values["warmup_epochs"]
    return {name: value for name, value in values.items() if name not in chosen}


def _parameter(field: Field[Any]) -> Parameter:
    kind = _TYPES[str(field.type).removesuffix(" | None")]
    # A flag has no value, and so no name of the value.
    metavar = field.metadata["metavar"] or None
    option = typer.Option(metavar=metavar, help=field.metadata["help"])
    return Parameter(
        field.name,
        Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )
