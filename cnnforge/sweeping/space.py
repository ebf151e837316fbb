"""Read the space of a sweep: which options are tried, and with which values.

A dimension is written as `learning_rate=1e-4..1e-2` (a range), or as `optimizer=adam,sgd` (a list
of choices). A TOML file has the same texts, or lists of choices, by the names of the options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice, product
from pathlib import Path
from typing import Any

from cnnforge.configuration import NAMES, TrainingOptions, check_types
from cnnforge.errors import UsageError
from cnnforge.optimizer_options import hint
from cnnforge.utils.names import printable
from cnnforge.utils.structured_text import read_toml

Value = str | int | float | bool | None

# A trial with other data or another measure could not be compared with the others.
_COMPARED = (
    "data",
    "drop_duplicates",
    "monitor",
    "plugin",
    "split_seed",
    "strict",
    "validation_fraction",
)
# These do not change what is trained.
_NO_EFFECT = ("cache", "log", "output", "tensorboard", "thumbnails")
_LOG_FACTOR = 10
_MAX_COMBINATIONS = 256
_NONE = ("none", "off")


@dataclass(frozen=True)
class Dimension:
    """The values of an option that a sweep tries.

    Attributes:
        name: Name of the option, a field of `TrainingOptions`.
        choices: The values; empty for a range.
        low: Lower end of the range, which is part of it.
        high: Upper end, which is part of it.
        log: Whether equal factors are equally likely, and not equal distances.
    """

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def extremes(self) -> tuple[Value, ...]:
        """The choices, or both ends of the range."""
        return self.choices or (self.low, self.high)

    @property
    def text(self) -> str:
        """The dimension as `parse_dimension` reads it, without the name."""
        if not self.choices:
            return f"{self.low!r}..{self.high!r}"
        return ",".join("none" if each is None else _shown(each) for each in self.choices)

    def describe(self) -> str:
        """Return a line for the user."""
        if self.choices:
            return f"{self.name}: {self.text.replace(',', ', ')}"
        kind = "whole numbers, " if isinstance(self.low, int) else ""
        scale = "log scale" if self.log else "even scale"
        return f"{self.name}: {self.low:g} to {self.high:g}, {kind}{scale}"

    def option(self, value: Value) -> Any:
        """Return a value of the dimension as the option has it."""
        if _kind(self.name) == "tuple":
            return () if value is None else tuple(str(value).split("+"))
        return value


def read_space(texts: Sequence[str]) -> tuple[Dimension, ...]:
    """Read the space of a sweep.

    Args:
        texts: Values of `--space`: `key=VALUES`, or a TOML file.

    Returns:
        The dimensions, sorted by name, at least one.

    Raises:
        UsageError: A key is unknown or given twice, a range is empty, a value has the wrong type,
            or a file cannot be read.
    """
    found: dict[str, Dimension] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        pairs: Iterable[tuple[str, Any]] = [(key.strip(), values)]
        source = "--space"
        if not equals:
            pairs, source = _read_file(text).items(), text
        for name, value in pairs:
            dimension = parse_dimension(name, value, source)
            if dimension.name in found:
                raise UsageError(f"{source}: {name} is in the space twice: leave out one of them")
            found[dimension.name] = dimension
    if not found:
        raise UsageError(
            "the space is empty: name options and their values, such as --space "
            "learning_rate=1e-4..1e-2 --space optimizer=adam,sgd"
        )
    return tuple(found[name] for name in sorted(found))


def parse_dimension(key: str, value: Any, source: str) -> Dimension:
    """Read one dimension.

    Args:
        key: Name of the option, with underscores or hyphens.
        value: A text such as `"1e-4..1e-2"` or `"adam,sgd"`, or a list of choices.
        source: Origin of the dimension for error messages.

    Raises:
        UsageError: The key is unknown, the range is empty, or a value has the wrong type.
    """
    name = key.replace("-", "_")
    if name not in NAMES:
        known = hint(name, NAMES) or "; 'cnnforge train --print-config' lists all options"
        raise UsageError(f"{source}: there is no option {key!r}{known}")
    if name in _COMPARED or name in _NO_EFFECT:
        why = (
            "trials with different values could not be compared"
            if name in _COMPARED
            else "it does not change what is trained"
        )
        raise UsageError(f"{source}: {key} cannot be in a space, because {why}: leave it out")
    if isinstance(value, str) and ".." in value:
        return _range(name, value, source)
    if not isinstance(value, str | list) or not value:
        raise UsageError(
            f"{source}: the values of {key} must be a range such as 1e-4..1e-2, or choices such as "
            f"a,b, got {value!r}"
        )
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    choices = list(dict.fromkeys(_choice(name, part, source) for part in parts))
    if len(choices) < 2:
        raise UsageError(
            f"{source}: {key} has one value, {printable(_shown(choices[0]))}: give two or "
            "more, or set it outside of the space, in a file for --config"
        )
    return Dimension(name, tuple(choices))


def check_space(space: Sequence[Dimension], resolve: Callable[[Mapping[str, Any]], object]) -> None:
    """Check that each value of a space is allowed together with some values of the others.

    Args:
        space: The dimensions.
        resolve: Function that checks the options of a trial, by name.

    Raises:
        UsageError: A value is not allowed in any combination.
    """
    for dimension in space:
        others = [each for each in space if each is not dimension]
        for value in dimension.extremes:
            error: UsageError | None = None
            combinations = product(*(each.extremes for each in others))
            for combination in islice(combinations, _MAX_COMBINATIONS):
                values = dict(zip(others, combination, strict=True)) | {dimension: value}
                try:
                    resolve({each.name: each.option(v) for each, v in values.items()})
                except UsageError as found:
                    error = error or found
                else:
                    error = None
                    break
            if error is not None:
                shown = printable(f"{dimension.name}={dimension.text}")
                raise UsageError(f"--space {shown}: {error}") from error


def _read_file(text: str) -> dict[str, Any]:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UsageError(
            f"--space {text}: expected key=VALUES, such as learning_rate=1e-4..1e-2, or the name of"
            " a TOML file, and there is no such file"
        )
    try:
        return read_toml(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"the space {text} is not TOML: {error}") from error


def _range(name: str, text: str, source: str) -> Dimension:
    kind = _kind(name)
    if kind not in ("int", "float"):
        raise UsageError(
            f"{source}: {name} has no range, because its values are not numbers: list choices, such"
            f" as {name}=a,b"
        )
    first, _, second = text.partition("..")
    low, high = (_number(name, part, source) for part in (first, second))
    if not low < high:
        shown = f"the range {printable(text)} of {name}"
        raise UsageError(
            f"{source}: {shown} is empty: write the lower end first, such as {high:g}..{low:g}"
            if low > high
            else f"{source}: {shown} has one value: write two different ends"
        )
    return Dimension(name, (), low, high, low > 0 and high / low > _LOG_FACTOR)


def _choice(name: str, part: Any, source: str) -> Value:
    """Return one of several values, of the type of the option."""
    kind = _kind(name)
    if isinstance(part, list):
        part = "+".join(map(str, part)) or "none"
    if kind == "tuple" and not isinstance(part, str):
        raise UsageError(f"{source}: a value of {name} must be a text or a list, got {part!r}")
    if part == "":
        raise UsageError(f"{source}: a value of {name} is empty: write values between the commas")
    if _may_be_none(name) and isinstance(part, str) and part.lower() in _NONE:
        return None
    if kind in ("int", "float"):
        return _number(name, part, source)
    if kind == "bool" and isinstance(part, str):
        if part.lower() not in ("true", "false"):
            raise UsageError(f"{source}: {name} must be true or false, got {part!r}")
        return part.lower() == "true"
    dimension = Dimension(name)
    checked = check_types({name: dimension.option(part)}, source)[name]
    # A list is one choice, written with plus signs.
    return "+".join(part.split("+")) if isinstance(checked, tuple) else checked


def _number(name: str, part: Any, source: str) -> int | float:
    whole = _kind(name) == "int"
    try:
        value = float(part)
        if not math.isfinite(value) or isinstance(part, bool):
            raise ValueError
        if whole and not value.is_integer():
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        what = "a whole number" if whole else "a number"
        raise UsageError(
            f"{source}: {name} must be {what}, got {str(part).strip()!r}: write a range such as "
            f"{'16..128' if whole else '1e-4..1e-2'}, or numbers between commas"
        ) from None
    return int(value) if whole else value


def _types() -> dict[str, str]:
    return {each.name: str(each.type) for each in fields(TrainingOptions)}


def _kind(name: str) -> str:
    found = _types()[name].removesuffix(" | None")
    return "tuple" if found.startswith("tuple") else found


def _may_be_none(name: str) -> bool:
    return _types()[name].endswith(" | None") or _kind(name) == "tuple"


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
