"""Rows of a prediction table, which has one row per image, and its conversion to CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Protocol

from cnnforge.runs import csv_parts as in_csv_parts


class Source(NamedTuple):
    """The source of an image that is predicted.

    Attributes:
        name: Name, for instance a path or `"mnist5k 42"`.
        size: Height and width of the image before it was resized to the model's image size, after
            it was rotated as its orientation (EXIF) says.
    """

    name: str
    size: tuple[int, int]


class Row(Protocol):
    """The prediction for one image, or the reason why the image could not be read."""

    @property
    def name(self) -> str:
        """Source of the image, for instance a path or `"mnist5k 42"`."""
        ...

    @property
    def error(self) -> str | None:
        """Reason why the image could not be read; `None` if it was read."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        ...

    def cells(self) -> dict[str, str]:
        """Return the cells of the row in a CSV file, by column name, except `file` and `error`."""
        ...

    def shown(self) -> dict[str, str]:
        """Return the cells of a row in a terminal table, by heading, except `file` and `error`."""
        ...


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A row that holds a number or a string for each column.

    Attributes:
        name: Source of the image, for instance a path.
        values: Numbers and strings, by column name.
        error: Reason why the image could not be read; `None` if it was read.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        return {"file": self.name, **self.values, "error": self.error}

    def cells(self) -> dict[str, str]:
        """Return the values as strings, by column name; floats have seven significant digits."""
        return {
            name: f"{value:.7g}" if isinstance(value, float) else str(value)
            for name, value in self.values.items()
        }

    def shown(self) -> dict[str, str]:
        """Return the values as strings, by heading; floats have four significant digits."""
        return {
            name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in self.values.items()
        }


def csv_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write rows as CSV.

    Args:
        rows: The rows.
        columns: Names of columns that are always present.

    Returns:
        CSV text. Its columns are `file`, those of `columns`, further columns of the rows in order
        of appearance, and `error` if a row has an error.
    """
    return "".join(csv_parts(rows, columns))


def csv_parts(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[str]:
    """Write rows as CSV in parts, see `csv_table`.

    Args:
        rows: The rows.
        columns: Names of columns that are always present.

    Yields:
        Parts of the text.
    """
    # The cells are made twice, because those of many rows take much more memory than the rows.
    names = list(dict.fromkeys(chain(columns, (name for row in rows for name in row.cells()))))
    with_error = any(row.error is not None for row in rows)

    def line(row: Row) -> list[str]:
        cells = row.cells()
        return [row.name, *(cells.get(n, "") for n in names), *[row.error or ""] * with_error]

    yield from in_csv_parts(["file", *names, *["error"] * with_error], map(line, rows))
