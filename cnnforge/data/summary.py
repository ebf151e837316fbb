"""Summarize what was found in a dataset: images, classes, sizes, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnforge.data.dataset import Dataset, Samples
from cnnforge.data.findings import by_cause

_MAX_CLASSES = 5
_MAX_REASONS = 3
# A class with a larger share of the images is worth a note.
_LARGE_SHARE = 0.8


@dataclass(frozen=True)
class DataSummary:
    """The findings about a dataset.

    Attributes:
        name: Name of the dataset.
        images: Number of images in each part, by name, for instance `"training"`.
        classes: Number of images of each class in all parts, by name; empty without classes. If the
            images have several objects each, it is the number of objects.
        image_shape: (H, W, C) of the images after they were resized; `None` if it is not known.
        left_out: Number of files that could not be used, by reason.
        objects: Number of objects in the images; `None` if each image has one label or none.
    """

    name: str
    images: Mapping[str, int]
    classes: Mapping[str, int] = field(default_factory=dict)
    image_shape: tuple[int, int, int] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    objects: int | None = None

    @property
    def line(self) -> str:
        """One line for the user."""
        total = sum(self.images.values())
        text = f"data: {_images(total)}"
        if self.image_shape is not None:
            text += f" of {'x'.join(map(str, self.image_shape))}"
        if self.objects is not None:
            text += f", with {self.objects} object{'s' * (self.objects != 1)}"
        if self.classes:
            shown = [f"{name} {count}" for name, count in self.classes.items()][:_MAX_CLASSES]
            more = len(self.classes) - len(shown)
            named = ", ".join(shown) + (f" and {more} more" if more else "")
            count = "1 class" if len(self.classes) == 1 else f"{len(self.classes)} classes"
            text += f" in {count} ({named})"
        if len(self.images) > 1:
            text += f"; {', '.join(f'{count} for {part}' for part, count in self.images.items())}"
        if self.left_out:
            reasons = [f"{count} ({reason})" for reason, count in self.left_out.items()]
            shown = ", ".join(reasons[:_MAX_REASONS])
            shown += f" and {len(reasons) - _MAX_REASONS} more" * (len(reasons) > _MAX_REASONS)
            text += f"; left out: {shown}"
        return text

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user about the classes."""
        total = sum(self.classes.values())
        if len(self.classes) < 2 or not total or self.objects is not None:
            return ()
        name, count = max(self.classes.items(), key=lambda item: item[1])
        if count <= _LARGE_SHARE * total:
            return ()
        return (
            f"{count / total:.0%} of the images are of the class {name}: a model that always "
            f"predicts {name} has this accuracy; 'cnnforge evaluate' shows each class",
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, ready for JSON."""
        return {
            "name": self.name,
            "images": dict(self.images),
            "classes": dict(self.classes),
            "image_shape": None if self.image_shape is None else list(self.image_shape),
            "left_out": dict(self.left_out),
            **({} if self.objects is None else {"objects": self.objects}),
        }


def summarize(
    dataset: Dataset, parts: Mapping[str, tuple[Samples, np.ndarray]] | None = None
) -> DataSummary:
    """Summarize a dataset.

    Args:
        dataset: The dataset.
        parts: Samples and the indices of those that are used, by the name of the part. By default
            all samples for training and for validation, and those of the test split.
    """
    if parts is None:
        splits = {"training": dataset.train, "validation": dataset.validation}
        if dataset.test is not None:
            splits["test"] = dataset.test
        parts = {name: (each, np.arange(len(each))) for name, each in splits.items()}
    counts, objects = np.zeros(len(dataset.classes), np.int64), None
    for samples, indices in parts.values():
        labels = getattr(samples, "labels", None)
        if labels is None or not dataset.classes:
            counts = np.zeros(0, np.int64)
            break
        if isinstance(labels, list):
            # An array of labels for each image.
            own = np.concatenate([np.empty(0, np.int64), *(labels[index] for index in indices)])
            objects = (objects or 0) + len(own)
        else:
            own = np.asarray(labels)[indices]
        counts += np.bincount(own.astype(np.int64), minlength=len(counts))[: len(counts)]
    classes = {
        name: int(count)
        for name, count in zip(dataset.classes, counts, strict=False)
        if count or len(parts) > 1
    }
    return DataSummary(
        name=dataset.name,
        images={name: len(indices) for name, (_, indices) in parts.items()},
        classes=classes,
        image_shape=dataset.image_shape,
        left_out=count_causes(dataset.skipped),
        objects=objects,
    )


def count_causes(skipped: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Count files that were left out, by cause, the most frequent cause first.

    Args:
        skipped: Path and reason of each file; see `cnnforge.data.findings.by_cause`.
    """
    return {cause: len(reasons) for cause, reasons in by_cause(skipped).items()}


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
