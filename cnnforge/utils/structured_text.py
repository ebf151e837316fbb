"""Read JSON and TOML files that may come from anywhere, with few kinds of errors."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnnforge.errors import RunError, one_line

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors that Python raises if the content of a file does not have the expected form."""

_MAX_DEPTH = 100


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON in UTF-8, or is nested too deeply.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not TOML in UTF-8, or is nested too deeply, or has a whole number
            of more than 64 bits.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_values(found)
    return found


def _check_values(values: Any) -> None:
    """Check that tables are not nested deeply, and that whole numbers have 64 bits, as in TOML."""
    layer, depth = [values], 0
    while layer:
        if depth == _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if any(isinstance(each, int) and not -(2**63) <= each < 2**63 for each in layer):
            raise ValueError("a whole number has more than 64 bits")
        layer = [
            inner
            for each in layer
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        depth += 1


@contextmanager
def well_formed(path: Path, remedy: str = "restore or delete it") -> Iterator[None]:
    """Report errors in the block as errors in the content of a file.

    Args:
        path: The file whose content is used in the block.
        remedy: Clause for the message that says how to go on.

    Raises:
        RunError: The content does not have the expected form.
    """
    try:
        yield
    except MALFORMED as error:
        raise RunError(f"{path} is damaged ({one_line(error)}): {remedy}") from error
