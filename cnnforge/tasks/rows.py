"""Rows of a prediction, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cnnforge.runs import to_csv


class Row(Protocol):
    """What a prediction says about one image, or why it says nothing."""

    @property
    def name(self) -> str:
        """Where the image came from: a path, `"mnist5k 42"`."""
        ...

    @property
    def error(self) -> str | None:
        """Why the image could not be read."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        ...

    def cells(self) -> dict[str, str]:
        """Return the columns of a CSV file but for `file` and `error`."""
        ...

    def shown(self) -> dict[str, str]:
        """Return the columns of a table on a terminal but for `file` and `error`."""
        ...


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A row of plain values, each of which is a column.

    Attributes:
        name: Where the image came from.
        values: Numbers and texts, by column.
        error: Why the image could not be read.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        return {"file": self.name, **self.values, "error": self.error}

    def cells(self) -> dict[str, str]:
        """Return the values as text; a fraction with seven digits."""
        return {
            name: f"{value:.7g}" if isinstance(value, float) else str(value)
            for name, value in self.values.items()
        }

    def shown(self) -> dict[str, str]:
        """Return the values as text; a fraction with four digits."""
        return {
            name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in self.values.items()
        }


def csv_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write rows as CSV.

    Args:
        rows: The rows.
        columns: Columns that are there in any case.

    Returns:
        `file`, the columns, others in the order in which they are met, and `error` if a row has
        one.
    """
    cells = [row.cells() for row in rows]
    names = list(dict.fromkeys([*columns, *(name for it in cells for name in it)]))
    with_error = any(row.error is not None for row in rows)
    table = [
        [row.name, *(it.get(name, "") for name in names), *[row.error or ""] * with_error]
        for row, it in zip(rows, cells, strict=True)
    ]
    return to_csv(["file", *names, *["error"] * with_error], table)
