"""Build the options of `cnnforge train` from the fields of a dataclass, and print their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cnnforge.cli._common import print_json

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_TYPES = {"str": str, "int": int, "float": float, "bool": bool}


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
    from cnnforge.cli._resolving import resolve_for_model
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
