"""Check the options of predictions that a caller gives."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from cnnforge.errors import UsageError
from cnnforge.tasks.task import Task

# Names of options for readers.
_MEANINGS = {"top_k": "a number of classes", "max_detections": "a number of objects"}


def prediction_options(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every prediction option of a task.

    Args:
        task: The task.
        given: Values that the caller chose, by name; `None` means the default.

    Returns:
        The given values and, for the other options, the defaults.

    Raises:
        UsageError: The task does not have such an option, or a value is not valid.
    """
    values = dict(task.prediction_options)
    for name, value in given.items():
        if name not in values:
            close = difflib.get_close_matches(name, values, 1)
            has = f"its options are {', '.join(values)}" if values else "it has no options"
            raise UsageError(
                f"{name} is not an option of predictions of the task {type(task).__name__}: "
                + (f"did you mean {close[0]}?" if close else has)
            )
        if value is not None:
            values[name] = _checked(name, value, values[name])
    return values


def _checked(name: str, value: Any, default: int | float) -> Any:
    if isinstance(default, int):
        if type(value) is not int or value < 1:
            meaning = _MEANINGS.get(name, "a whole number")
            raise UsageError(f"{name} must be {meaning}, 1 or more, got {value!r}")
        return value
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise UsageError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)
