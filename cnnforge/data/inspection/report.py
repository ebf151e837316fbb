"""Define the result of an inspection of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cnnforge.data.dataset import SkippedFile
from cnnforge.utils.names import printable


class InspectedImage(NamedTuple):
    """An image in a finding.

    Attributes:
        name: Its name in the data.
        class_name: Name of its class.
        split: Its split, or `""`.
    """

    name: str
    class_name: str
    split: str


@dataclass(frozen=True)
class Finding:
    """Something that the user should know about the data.

    Attributes:
        text: The finding, in one line.
        wrong: Whether it has to be corrected before training.
        examples: The images or files that it is about, one line each.
    """

    text: str
    wrong: bool
    examples: Sequence[str] = ()


class ObjectReport(NamedTuple):
    """Facts about the boxes in a dataset.

    Attributes:
        total: Number of objects.
        per_image: Min, median and max number of objects in an image.
        sizes: Smallest, median and largest (height, width) of a box in pixels of the original
            images; the smallest and the largest by area.
        by_size: Number of objects by the area of the box, with the limits of COCO: `"small"` below
            32 x 32 pixels, `"medium"` below 96 x 96, and `"large"`.
        background: Number of images without objects.
        crowds: Number of objects that are crowds.
    """

    total: int
    per_image: tuple[int, int, int]
    sizes: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    by_size: dict[str, int]
    background: int
    crowds: int


@dataclass(frozen=True)
class DataReport:
    """The result of an inspection.

    Attributes:
        name: Name of the dataset.
        parts: Number of images in each part. The parts are splits, or `"all"` if the data have no
            splits.
        counts: Number of images of each class in each part, by class and then by part. If the data
            have boxes, these are the numbers of objects.
        unreadable: The files that cannot be read.
        sizes: Smallest, median and largest (height, width); smallest and largest by area.
        modes: Number of images by mode, such as `"color"`.
        copies: Groups of exact copies.
        alike: Groups of images that look alike; `None` if they were not searched.
        findings: The findings; first those that are wrong.
        notes: Notes of the dataset.
        objects: Facts about boxes; `None` if each image has a class.
    """

    name: str
    parts: dict[str, int]
    counts: dict[str, dict[str, int]]
    unreadable: Sequence[SkippedFile]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    modes: dict[str, int]
    copies: Sequence[Sequence[InspectedImage]]
    alike: Sequence[Sequence[InspectedImage]] | None
    findings: Sequence[Finding] = field(default_factory=tuple)
    notes: Sequence[str] = ()
    objects: ObjectReport | None = None

    @property
    def wrong(self) -> list[Finding]:
        """The findings that have to be corrected."""
        return [finding for finding in self.findings if finding.wrong]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        smallest, median, largest = map(list, self.sizes)
        return {
            "data": self.name,
            "images": sum(self.parts.values()),
            "parts": self.parts,
            "classes": self.counts,
            "unreadable": [
                {"file": printable(path), "reason": reason} for path, reason in self.unreadable
            ],
            "sizes": {"smallest": smallest, "median": median, "largest": largest},
            "modes": self.modes,
            "copies": _groups(self.copies),
            "alike": None if self.alike is None else _groups(self.alike),
            "findings": [
                {"text": it.text, "wrong": it.wrong, "examples": list(it.examples)}
                for it in self.findings
            ],
            "notes": list(self.notes),
            "wrong": len(self.wrong),
            **({} if self.objects is None else {"objects": self.objects._asdict()}),
        }


def _groups(groups: Sequence[Sequence[InspectedImage]]) -> list[dict[str, Any]]:
    return [
        {
            "images": [
                {"name": printable(it.name), "class": it.class_name, "split": it.split or None}
                for it in group
            ],
            "different_labels": len({it.class_name for it in group}) > 1,
            "across_splits": len({it.split for it in group}) > 1,
        }
        for group in groups
    ]
