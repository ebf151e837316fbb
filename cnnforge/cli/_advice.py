"""Explain a usage error: what is wrong, and the command to type instead."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from cnnforge.cli._synonyms import COMMANDS, INPUT, MODEL, OPTIONS, RUN
from cnnforge.errors import UnknownNameError, UsageError

_OPTION = re.compile(r"(--?)?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
# A short option with its number, such as -e3.
_SHORT_WITH_VALUE = re.compile(r"-([A-Za-z])(\d.*)")
_IMAGE_SIZE = "--image-size"
_ARGUMENTS = (MODEL, RUN, INPUT)
_LATEST = "latest"
_IMAGES = "IMAGES"
# The commands whose first argument is a run.
_OF_A_RUN = ("evaluate", "predict", "serve")
# Endings of the files in a run that a user may name instead of the run.
_FILES_OF_RUNS = (".keras", ".toml", ".ckpt")
# The options whose value is a run.
_TAKE_A_RUN = ("--resume", "--init-from", "--determinism")


def explain(error: Any, program: Any, arguments: Sequence[str]) -> str:
    """Return a message for an error that Typer raised.

    Args:
        error: A `ClickException` of Click or of Typer's copy of Click.
        program: The Click group of the program.
        arguments: The command line without the program's name.

    Returns:
        The message. If the words are known from other tools, it contains the corrected command.
        Otherwise it has a suggestion, or a hint to `--help`.
    """
    context = getattr(error, "ctx", None)
    if context is None:
        # Click does not say in which command an option lacks its value.
        path = " ".join(["cnnforge", *(word for word in arguments[:1] if word in program.commands)])
    else:
        path = context.command_path
    names = path.split()[1:]
    advice = ""
    if not names:
        advice = _about_program(error, program, arguments)
    elif len(names) == 1:
        advice = _about_command(error, program, arguments, names[0])
    return advice or _plain(error, path)


def with_command(error: UsageError, program: Any, arguments: Sequence[str]) -> str:
    """Return the message of an error about a name or a run, with the command to type instead.

    Args:
        error: An error that a command raised.
        program: The Click group of the program.
        arguments: The command line without the program's name.

    Returns:
        The message of the error; the command is added if the arguments can be corrected.
    """
    command = arguments[0] if arguments else ""
    words = list(arguments[1:])
    if error.correction:
        words = [_replaced(word, *error.correction) for word in words]
    if command in _OF_A_RUN or isinstance(error, UnknownNameError) or error.correction:
        return _and(str(error), _to_type(_corrected(program, command, words), arguments))
    return str(error)


def _replaced(word: str, wrong: str, right: str) -> str:
    """Replace a wrong name in `NAME`, `NAME:ARGUMENT` or `--OPTION=NAME`."""
    start, equals, name = word.rpartition("=") if word.startswith("--") else ("", "", word)
    if name != wrong and not name.startswith(f"{wrong}:"):
        return word
    return f"{start}{equals}{right}{name[len(wrong) :]}"


def _and(message: str, to_type: str) -> str:
    """Add the result of `_to_type` to a message, which may be a question."""
    return message + (f" T{to_type[3:]}" if to_type and message.endswith("?") else to_type)


def _plain(error: Any, path: str) -> str:
    """Return the message of Click, with a suggestion and a hint to `--help`."""
    possibilities = getattr(error, "possibilities", None)
    message = error.message if possibilities else error.format_message()
    message = message.rstrip(".").replace("Value error, ", "")
    for received in _received(error):
        if repr(received) not in message:
            message += f", got {received!r}"
    if possibilities and "did you mean" not in message.lower():
        message += f". Did you mean {' or '.join(map(repr, possibilities))}?"
    separator = "" if message.endswith("?") else "."
    return f"{message}{separator} Try '{path} --help'."


def _received(error: Any) -> list[Any]:
    """Return the values that a validation error rejects, since the message may not name them."""
    cause = error.__cause__
    return [detail["input"] for detail in cause.errors()] if hasattr(cause, "errors") else []


def _about_program(error: Any, program: Any, arguments: Sequence[str]) -> str:
    """Explain a wrong command, or an option that stands before the command."""
    if _is_unknown_option(error):
        return _about_early_option(error.option_name, program, arguments)
    name = next((word for word in arguments if not word.startswith("-")), "")
    if name in program.commands or not error.format_message().startswith("No such command"):
        return ""
    rest = list(arguments[arguments.index(name) + 1 :])
    answer = COMMANDS.get(name.lower(), "")
    if not answer and not os.path.exists(name):
        answer = next(iter(difflib.get_close_matches(name.lower(), program.commands, 1)), "")
    what = f"there is no command {name!r}"
    if answer.startswith("-"):
        return f"{what}; type: cnnforge {answer}"
    if not answer and os.path.exists(name):
        what += f", but {'a folder' if os.path.isdir(name) else 'a file'} of this name"
        # A command that takes a run gets the path as its data, and `latest` as its run.
        image = not os.path.isdir(name) and not name.lower().endswith((".csv", ".zip", ".gz"))
        answer = "evaluate" if _is_run(name) else "predict" if image else "train"
        rest.insert(0, name)
    elif not answer and name in _models():
        what += ", but a model of this name"
        answer = "train"
        rest.insert(0, name)
    if not answer:
        return ""
    command, *options = answer.split()
    if command not in program.commands:
        return f"{what}: {answer}"
    if options and (not rest or rest[0].startswith("-")):
        rest.insert(0, _LATEST)
    return what + _to_type(_corrected(program, command, [*options, *rest]), arguments)


def _about_early_option(option: str, program: Any, arguments: Sequence[str]) -> str:
    """Explain an option that stands before the command."""
    command = next((word for word in arguments if word in program.commands), "")
    name = _split(option)[0]
    if command and (
        name in _options(program.commands[command]) or name.lstrip("-") in OPTIONS.get(command, {})
    ):
        words = list(arguments)
        words.remove(command)
        to_type = _to_type(_corrected(program, command, words), arguments)
        return f"{option} stands before the command: write options after it{to_type}"
    owners = _owners(program, name)
    return owners and f"{option} {owners}: write it after the command"


def _about_command(error: Any, program: Any, arguments: Sequence[str], command: str) -> str:
    """Explain a wrong option or argument of a command."""
    path = f"cnnforge {command}"
    words = arguments[arguments.index(command) + 1 :]
    corrected = _corrected(program, command, words)
    to_type = _to_type(corrected, arguments)
    if _is_unknown_option(error):
        word = _as_typed(error.option_name, words)
        name = _split(word)[0]
        answer = OPTIONS.get(command, {}).get(name.lstrip("-"), "")
        missing = f"{path} has no option {word}"
        if answer in _ARGUMENTS:
            return f"{missing}: {answer} is written without an option{to_type}"
        if answer:
            is_option = answer.startswith("--")
            use = f"use {answer.format('N')}" if is_option else answer
            return f"{missing}: {use}{to_type if is_option else ''}"
        if name in _options(program.commands[command]):
            return f"{missing}: use {name}{to_type}"
        owners = "" if error.possibilities else _owners(program, name)
        return owners and f"{missing}; it {owners}"
    option = getattr(error, "option_name", "")
    if option in _TAKE_A_RUN and list(words)[-1:] == [option]:
        to_type = _to_type([*corrected, _LATEST], arguments)
        return f"{path} {option} needs a run; {_LATEST} is the newest run{to_type}"
    if command == "doctor" and "unexpected extra argument" in error.format_message():
        run = next(filter(_is_run, words), _LATEST)
        return (
            f"{path} checks this machine, and a run is the value of --resume or --determinism; "
            f"type: {shlex.join(['cnnforge', command, '--resume', str(run)])}"
        )
    if not to_type:
        return ""
    if hasattr(error, "param_type"):
        what = "a run and images" if command == "predict" else "a run"
        return f"{path} needs {what}; {_LATEST} is the newest run{to_type}"
    if "unexpected extra argument" in error.format_message():
        first = RUN if command in _OF_A_RUN else MODEL
        named = any("=" in word and not word.startswith("-") for word in words)
        how = "options are written as --NAME VALUE" if named else f"{path} takes one {first}"
        return f"{how}{to_type}"
    return ""


def _to_type(corrected: Sequence[str], arguments: Sequence[str]) -> str:
    """Return the corrected command as the end of a sentence; "" if nothing was corrected."""
    if list(corrected) in ([], list(arguments)):
        return ""
    return f"; type: {shlex.join(['cnnforge', *corrected])}"


def _corrected(program: Any, command: str, words: Sequence[str]) -> list[str]:
    """Correct the arguments of a command.

    Names of other tools are replaced, `NAME=VALUE` becomes `--NAME VALUE`, a path in the place of
    another argument becomes the data, and a missing run becomes `latest`.

    Returns:
        The command and its arguments. The list is empty if the command is unknown.
    """
    if command not in program.commands:
        return []
    if command not in OPTIONS:
        return [command, *words]
    own, synonyms = _options(program.commands[command]), OPTIONS[command]
    # Each part is an option with its value, or an argument.
    parts: list[list[str]] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, value = _split(word)
        answer = name if name in own else synonyms.get(name.lstrip("-"), "")
        assigned = "=" in word and bool(answer) and not os.path.exists(word)
        if not (word.startswith("-") or assigned) or not answer.startswith(("--", *_ARGUMENTS)):
            parts.append([word])
            continue
        joined = [f"{answer}={value}"] if value is not None and word.startswith("--") else []
        if value is None and own.get(answer, True) and left and not left[0].startswith("--"):
            value = left.pop(0)
        if answer == _IMAGE_SIZE and left and left[0].isdigit():
            value, joined = f"{value}x{left.pop(0)}", []
        if answer in _ARGUMENTS:
            place = len(parts) if answer == INPUT else 0
            parts.insert(place, [value or answer])
        elif "{}" in answer:
            parts.append(answer.format(value).split())
        else:
            parts.append(joined or [answer] if value is None or joined else [answer, value])
    _arrange(command, parts)
    return [command, *(word for part in parts for word in part)]


def _arrange(command: str, parts: list[list[str]]) -> None:
    """Put the run first, and write data as the option `--data`."""
    given = {part[0].partition("=")[0] for part in parts}
    arguments = [part for part in parts if not part[0].startswith("-")]
    if command == "train":
        paths = [part for part in arguments if os.path.exists(part[0])]
        paths = [part for part in paths if part[0] not in _models()]
        data = paths[:1] or ([] if "--resume" in given else arguments[1:2])
    else:
        for part in arguments:
            folder = os.path.dirname(part[0])
            if part[0].endswith(_FILES_OF_RUNS) and _is_run(folder):
                part[0] = folder
        runs = [part for part in arguments if _is_run(part[0])]
        if runs:
            parts.remove(runs[0])
            parts.insert(0, runs[0])
        elif not arguments or os.path.exists(arguments[0][0]):
            parts.insert(0, [_LATEST])
        arguments = [part for part in parts if not part[0].startswith("-")]
        data = arguments[1:2]
    if command == "serve":
        for part in arguments[1:]:
            parts.remove(part)
    elif command == "predict":
        if not data:
            parts.append([_IMAGES])
    elif data and "--data" not in given:
        data[0].insert(0, "--data")


def _split(word: str) -> tuple[str, str | None]:
    """Split a word into the name of an option, in the spelling of cnnforge, and its value.

    Examples: `("--batch-size", "8")` for `--Batch_Size=8`, `-batch-size=8` and `batch_size=8`;
    `("-e", "3")` for `-e3`; `("--lr", None)` for `--lr`; `("", None)` for a path.
    """
    short = _SHORT_WITH_VALUE.fullmatch(word)
    if short:
        return f"-{short[1]}", short[2]
    match = _OPTION.fullmatch(word)
    if not match:
        return "", None
    name = match[2].replace("_", "-").lower()
    return f"--{name}" if len(name) > 1 else f"-{name}", match[3]


def _is_unknown_option(error: Any) -> bool:
    return hasattr(error, "possibilities") and hasattr(error, "option_name")


def _as_typed(option: str, words: Sequence[str]) -> str:
    """Return the name of a wrong option as the user typed it.

    Click reads `-epochs` as several short options, and reports the first one, `-e`.
    """
    names = [word.partition("=")[0] for word in words]
    short = len(option) == 2
    return next((n for n in names if n == option or (short and n.startswith(option))), option)


def _options(command: Any) -> dict[str, bool]:
    """Return, for each option of a command, whether it takes a value."""
    return {
        name: not getattr(parameter, "is_flag", False)
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def _owners(program: Any, name: str) -> str:
    """Return a phrase that names the commands with an option; "" without such a command."""
    owners = [
        f"'cnnforge {key}'" for key, each in program.commands.items() if name in _options(each)
    ]
    return f"is an option of {' and '.join(owners)}" if owners else ""


def _models() -> list[str]:
    from cnnforge.plugin_host.discovery import discover

    return discover().models.names()


def _is_run(word: str) -> bool:
    from cnnforge.runs.finding import is_run, names_latest

    return names_latest(word) or is_run(word)
