"""The rows of a prediction table of a detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cnnforge.runs import csv_parts

# Columns of a CSV table that has a line for each object.
_COLUMNS = ("label", "confidence", "x1", "y1", "x2", "y2")


class DetectedObject(NamedTuple):
    """An object that was found in an image, or a true object.

    Attributes:
        label: Name of the class.
        confidence: Confidence from 0 to 1; 1 for a true object.
        box: `x1 y1 x2 y2` in pixels of the original image, after it was rotated as its orientation
            (EXIF) says. The left edge of the first pixel is 0, and the width is x2 - x1.
    """

    label: str
    confidence: float
    box: tuple[float, float, float, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the object as plain values, ready for JSON."""
        return {"label": self.label, "confidence": self.confidence, "box": list(self.box)}


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects that were found in one image, or the reason why it could not be read.

    Attributes:
        name: Source of the image, for instance a path or `"digits_in_scenes 42"`.
        size: Height and width of the original image; `None` if it could not be read.
        objects: The objects, the one with the highest confidence first.
        true_objects: The true objects, or `None` if they are not known.
        error: Reason why the image could not be read; `None` if it was read.
    """

    name: str
    size: tuple[int, int] | None = None
    objects: tuple[DetectedObject, ...] = ()
    true_objects: tuple[DetectedObject, ...] | None = None
    error: str | None = None

    def cells(self) -> dict[str, str]:
        """Return the number of objects, as the cell of a table with a line for each image."""
        return {} if self.error is not None else {"objects": str(len(self.objects))}

    def shown(self) -> dict[str, str]:
        """Return the cells of a row in a terminal table, by column name."""
        if self.error is not None:
            return {}
        counts = Counter(each.label for each in self.objects)
        found = {
            "objects": str(len(self.objects)),
            "classes": ", ".join(f"{n} {label}" for label, n in sorted(counts.items())),
        }
        if self.true_objects is not None:
            found["true objects"] = str(len(self.true_objects))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
        height, width = self.size or (None, None)
        true = self.true_objects
        return {
            "file": self.name,
            "height": height,
            "width": width,
            "objects": [each.as_dict() for each in self.objects],
            "true_objects": None
            if true is None
            else [{"label": each.label, "box": list(each.box)} for each in true],
            "error": self.error,
        }


def csv_table(rows: Sequence[Detections]) -> str:
    """Convert rows to CSV with a line for each object.

    Args:
        rows: The rows.

    Returns:
        CSV text, see `csv_table_parts`.
    """
    return "".join(csv_table_parts(rows))


def csv_table_parts(rows: Sequence[Detections]) -> Iterator[str]:
    """Convert rows to CSV with a line for each object.

    Args:
        rows: The rows.

    Returns:
        Parts of CSV text with the columns `file`, `label`, `confidence`, `x1`, `y1`, `x2`, `y2`,
        and `error` if a row has an error. An image without objects has one line, whose other cells
        are empty.
    """
    with_error = any(row.error is not None for row in rows)

    def lines() -> Iterator[list[str]]:
        for row in rows:
            error = [row.error or ""] * with_error
            for each in row.objects:
                box = [f"{value:.2f}" for value in each.box]
                yield [row.name, each.label, f"{each.confidence:.6f}", *box, *error]
            if not row.objects:
                yield [row.name, *[""] * len(_COLUMNS), *error]

    return csv_parts(["file", *_COLUMNS, *["error"] * with_error], lines())


def summary(rows: Sequence[Detections]) -> str:
    """Return a text with the number of objects in all images."""
    counts = Counter(len(row.objects) for row in rows if row.error is None)
    read, empty = counts.total(), counts[0]
    if not read:
        return ""
    count = sum(objects * images for objects, images in counts.items())
    text = f"{count} object{'s' * (count != 1)} in {read} image{'s' * (read != 1)}"
    return f"{text}, {empty} of them without objects" if empty else text
