"""Inspect the boxes in a dataset: count objects, and find those that are wrong or unusual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.data.boxes.samples import Objects
from cnnforge.data.dataset import Dataset
from cnnforge.data.findings import quoted
from cnnforge.data.inspection.report import Finding, ObjectReport
from cnnforge.utils.names import printable

# Areas that divide small, medium and large objects, by the definition of COCO.
_SMALL, _LARGE = 32**2, 96**2
# Objects with a smaller side have hardly any pixel in a map of a network.
_TINY = 4


def objects_of(dataset: Dataset) -> Objects:
    """Return the objects in `train` of a dataset with boxes."""
    samples: Any = dataset.train
    return Objects(samples.boxes, samples.labels, samples.crowd, np.asarray(samples.sizes))


def describe(dataset: Dataset) -> list[str]:
    """Return a text for each image, such as `"2 cat, 1 dog"`."""
    texts = []
    for labels in objects_of(dataset).labels:
        counts = Counter(labels.tolist())
        shown = [f"{counts[label]} {dataset.classes[label]}" for label in sorted(counts)]
        texts.append(", ".join(shown) or "no object")
    return texts


def count_objects(
    dataset: Dataset, parts: Sequence[str], order: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the objects of each class in each part.

    Args:
        dataset: The dataset.
        parts: The part of each image.
        order: The parts that occur.

    Returns:
        Numbers of objects by class and then by part.
    """
    found = Counter(
        (label, part)
        for labels, part in zip(objects_of(dataset).labels, parts, strict=True)
        for label in labels.tolist()
    )
    return {
        name: {part: found[label, part] for part in order}
        for label, name in enumerate(dataset.classes)
    }


def report_objects(dataset: Dataset) -> ObjectReport:
    """Return facts about the boxes in a dataset."""
    objects = objects_of(dataset)
    counts = np.array([len(each) for each in objects.boxes] or [0])
    boxes = np.concatenate([np.zeros((0, 4)), *objects.boxes])
    sides = boxes[:, 3:1:-1] - boxes[:, 1::-1]
    areas = sides.prod(axis=1)
    limits = np.searchsorted([_SMALL, _LARGE], areas, side="right")
    sizes = ((0.0, 0.0),) * 3
    if len(boxes):
        order = np.argsort(areas, kind="stable")
        height, width = np.median(sides, axis=0).tolist()
        smallest, largest = sides[order[0]].tolist(), sides[order[-1]].tolist()
        sizes = (smallest[0], smallest[1]), (height, width), (largest[0], largest[1])
    return ObjectReport(
        total=len(boxes),
        per_image=(int(counts.min()), int(np.median(counts)), int(counts.max())),
        sizes=(sizes[0], sizes[1], sizes[2]),
        by_size={
            name: int((limits == place).sum())
            for place, name in enumerate(("small", "medium", "large"))
        },
        background=int((counts == 0).sum()),
        crowds=sum(int(each.sum()) for each in objects.crowd),
    )


def about_boxes(dataset: Dataset, counts: dict[str, dict[str, int]]) -> list[Finding]:
    """Return the findings about the boxes in a dataset.

    Args:
        dataset: The dataset.
        counts: The result of `count_objects`.
    """
    return [*_left_out(dataset), *_unusual(dataset), *_classes(counts)]


def _left_out(dataset: Dataset) -> list[Finding]:
    """Group the objects that were left out or changed by their cause."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for each in dataset.inspection.objects if dataset.inspection is not None else ():
        groups.setdefault((each.left_out, each.cause), []).append(
            printable(each.place) + (f": {each.detail}" if each.detail else "")
        )
    findings = []
    for (left_out, cause), examples in groups.items():
        are = "1 object is" if len(examples) == 1 else f"{len(examples)} objects are"
        what = "left out" if left_out else "changed"
        findings.append(Finding(f"{are} {what}: {cause}", left_out, examples))
    return findings


def _unusual(dataset: Dataset) -> list[Finding]:
    # The names of the splits are short: paths below the folder of the data.
    names = dataset.train.names if dataset.splits is None else dataset.splits[0].names
    objects = objects_of(dataset)
    tiny, doubled = [], []
    for name, boxes, labels in zip(names, objects.boxes, objects.labels, strict=True):
        shown = printable(name)
        for label, box in zip(labels.tolist(), boxes.tolist(), strict=True):
            if min(box[2] - box[0], box[3] - box[1]) < _TINY:
                tiny.append(f"{shown}: {_text(dataset.classes[label], box)}")
        rows = Counter(
            (label, *box) for label, box in zip(labels.tolist(), boxes.tolist(), strict=True)
        )
        doubled += [
            f"{shown}: {count} times {_text(dataset.classes[int(row[0])], row[1:])}"
            for row, count in rows.items()
            if count > 1
        ]
    findings = []
    if tiny:
        are = "1 object is" if len(tiny) == 1 else f"{len(tiny)} objects are"
        findings.append(Finding(f"{are} less than {_TINY} pixels high or wide", False, tiny))
    if doubled:
        are = "1 box is" if len(doubled) == 1 else f"{len(doubled)} boxes are"
        text = f"{are} there several times, with the same class, in the same image"
        findings.append(Finding(text, False, doubled))
    empty = sum(not len(each) for each in objects.boxes)
    if empty:
        images = "1 image has" if empty == 1 else f"{empty} of {len(names)} images have"
        examples = [
            printable(name)
            for name, boxes in zip(names, objects.boxes, strict=True)
            if not len(boxes)
        ]
        text = f"{images} no object: background, which a detector learns from, too"
        findings.append(Finding(text, False, examples))
    return findings


def _classes(counts: dict[str, dict[str, int]]) -> list[Finding]:
    findings = []
    none = [name for name, row in counts.items() if not any(row.values())]
    if none:
        text = f"{len(none)} of {len(counts)} classes have no object"
        findings.append(Finding(text, False, [quoted([name]) for name in none]))
    untrained = [
        name for name, row in counts.items() if any(row.values()) and not row.get("train", 1)
    ]
    if untrained:
        are = "1 class has" if len(untrained) == 1 else f"{len(untrained)} classes have"
        text = f"{are} objects, but none for training: a detector cannot learn them"
        findings.append(Finding(text, True, [quoted([name]) for name in untrained]))
    return findings


def _text(name: str, box: Sequence[float]) -> str:
    return f"{name} {' '.join(f'{value:.6g}' for value in box)}"
