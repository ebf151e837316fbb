"""Inspect a dataset: count its images, and find what would harm training on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cnnforge.data.dataset import Dataset, SkippedFile
from cnnforge.data.duplicates import equal_items
from cnnforge.data.findings import class_name_notes, quoted
from cnnforge.data.images import CheckedImage
from cnnforge.data.inspection.boxes import about_boxes, count_objects, describe, report_objects
from cnnforge.data.inspection.near_duplicates import look_alike
from cnnforge.data.inspection.report import DataReport, Finding, InspectedImage
from cnnforge.errors import DataError
from cnnforge.utils.names import printable

PARTS = ("train", "validation", "test")
# Name of the only part of data without splits.
_ALL = "all"
# A largest class with this many times the images of the smallest one is worth a note.
_UNEQUAL = 10
_MAX_IN_LINE = 4


def inspect(dataset: Dataset, *, near: bool = False) -> DataReport:
    """Inspect a dataset.

    Wrong are: files that cannot be read, copies of an image with different labels, copies of an
    image in different splits, a class with one image for training, a class without any, and objects
    that are left out. Images that look alike, classes of very different size, and objects that are
    unusual are findings, but not wrong.

    Args:
        dataset: A dataset with labels that was opened with the purpose `"inspection"`.
        near: Whether to search images that look alike, too.

    Returns:
        The report.

    Raises:
        DataError: If the dataset has no labels, or the digests of its images are not known.
    """
    labels = getattr(dataset.train, "labels", None)
    if dataset.splits is None or labels is None or not dataset.classes:
        raise DataError(
            f"{printable(dataset.name)} has no fixed images with class labels, so there is nothing "
            "to check"
        )
    split, inspection = dataset.splits[0], dataset.inspection
    given = list(inspection.splits) if inspection is not None else [""] * len(labels)
    if any(given):
        # Images without a split are for training, if others have a split.
        given = [each or "train" for each in given]
    with_boxes = hasattr(dataset.train, "boxes")
    texts = describe(dataset) if with_boxes else [dataset.classes[int(label)] for label in labels]
    images = [
        InspectedImage(name, text, part)
        for name, text, part in zip(split.names, texts, given, strict=True)
    ]
    checked = inspection.checked if inspection is not None else ()
    copies = [[images[row] for row in group] for group in equal_items(split.digests)]
    alike = None
    if near:
        found = look_alike(dataset.train, split.digests)
        alike = [[images[row] for row in group] for group in found]
    parts = Counter(image.split or _ALL for image in images)
    order = [part for part in (*PARTS, _ALL) if part in parts]
    if with_boxes:
        counts = count_objects(dataset, [image.split or _ALL for image in images], order)
        about = about_boxes(dataset, counts)
    else:
        counts = _counts(dataset.classes, images, order)
        about = _about_classes(counts)
    findings = [
        *_unreadable(dataset.skipped),
        *_about_copies(copies),
        *about,
        *_about_alike(alike or ()),
    ]
    return DataReport(
        name=dataset.name,
        parts={part: parts[part] for part in order},
        counts=counts,
        unreadable=dataset.skipped,
        sizes=_sizes(checked, dataset.image_shape),
        modes=_modes(checked, len(images), dataset.image_shape),
        copies=copies,
        alike=alike,
        findings=sorted(findings, key=lambda finding: not finding.wrong),
        notes=tuple(
            dict.fromkeys(
                (*dataset.notes, *class_name_notes(dataset.classes, folders=not with_boxes))
            )
        ),
        objects=report_objects(dataset) if with_boxes else None,
    )


def _counts(
    classes: Sequence[str], images: Sequence[InspectedImage], parts: Sequence[str]
) -> dict[str, dict[str, int]]:
    found = Counter((image.class_name, image.split or _ALL) for image in images)
    return {name: {part: found[name, part] for part in parts} for name in classes}


def _sizes(
    checked: Sequence[CheckedImage], image_shape: tuple[int, int, int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    sizes = sorted((image.size for image in checked), key=lambda size: (size[0] * size[1], size))
    if not sizes:
        size = image_shape[:2]
        return size, size, size
    height, width = (sorted(size[axis] for size in sizes)[(len(sizes) - 1) // 2] for axis in (0, 1))
    return sizes[0], (height, width), sizes[-1]


def _modes(
    checked: Sequence[CheckedImage], total: int, image_shape: tuple[int, int, int]
) -> dict[str, int]:
    if not checked:
        return {"gray" if image_shape[2] == 1 else "color": total}
    modes: Counter[str] = Counter()
    for image in checked:
        mode = "gray" if image.grayscale else "color"
        # Pillow reads 16-bit gray in these modes, and color with 8 bits.
        modes[f"16-bit {mode}" if image.mode.startswith("I") else mode] += 1
        modes["with transparency"] += image.transparent
    return dict((+modes).most_common())


def _unreadable(skipped: Sequence[SkippedFile]) -> list[Finding]:
    if not skipped:
        return []
    files = "1 file" if len(skipped) == 1 else f"{len(skipped)} files"
    examples = [f"{printable(path)}: {reason}" for path, reason in skipped]
    return [Finding(f"{files} cannot be read", True, examples)]


def _about_copies(copies: Sequence[Sequence[InspectedImage]]) -> list[Finding]:
    findings, plain = [], []
    contradictory, across = [], []
    for group in copies:
        is_wrong = False
        if len({image.class_name for image in group}) > 1:
            contradictory.append(group)
            is_wrong = True
        if len({image.split for image in group}) > 1:
            across.append(group)
            is_wrong = True
        if not is_wrong:
            plain.append(group)
    if contradictory:
        text = f"{_images(len(contradictory))} with different labels for exact copies"
        findings.append(Finding(text, True, [_line(group) for group in contradictory]))
    if across:
        text = f"{_images(len(across))} with exact copies in different splits"
        text += ": the scores on them say nothing about new images"
        findings.append(Finding(text, True, [_line(group) for group in across]))
    if plain:
        text = f"{_images(len(plain))} with exact copies of the same class"
        findings.append(Finding(text, False, [_line(group) for group in plain]))
    if contradictory or across or plain:
        last = findings[-1]
        fix = "'cnnforge train --drop-duplicates' leaves copies out"
        findings[-1] = Finding(f"{last.text}; {fix}", last.wrong, last.examples)
    return findings


def _about_classes(counts: dict[str, dict[str, int]]) -> list[Finding]:
    findings = []
    trained = {name: row.get("train", row.get(_ALL, 0)) for name, row in counts.items()}
    if not any(trained.values()):
        # A test split alone: all of its images are data.
        trained = {name: sum(row.values()) for name, row in counts.items()}
    if none := [name for name, count in trained.items() if not count]:
        text = f"{_classes(len(none))} without an image for training"
        where = [f"{name}: {_parts_of(counts[name])}" for name in none]
        findings.append(Finding(text, True, where))
    if single := [name for name, count in trained.items() if count == 1]:
        text = f"{_classes(len(single))} with one image for training"
        findings.append(Finding(text, True, single))
    if len(trained) == 1:
        text = f"one class only, {quoted(trained)}: training needs two"
        findings.append(Finding(text, True))
    ordered = sorted((count, name) for name, count in trained.items() if count)
    if len(ordered) > 1 and ordered[-1][0] >= _UNEQUAL * ordered[0][0]:
        (low, small), (high, large) = ordered[0], ordered[-1]
        text = f"classes of very different size: '{large}' has {high} images, '{small}' has {low}"
        findings.append(
            Finding(f"{text}; 'cnnforge train --class-weights balanced' weights them", False)
        )
    return findings


def _about_alike(alike: Sequence[Sequence[InspectedImage]]) -> list[Finding]:
    if not alike:
        return []
    labels = sum(len({image.class_name for image in group}) > 1 for group in alike)
    splits = sum(len({image.split for image in group}) > 1 for group in alike)
    text = f"{len(alike)} {'group' if len(alike) == 1 else 'groups'} of images that look alike"
    texts = [f"{labels} with different labels"] if labels else []
    texts += [f"{splits} across splits"] if splits else []
    if texts:
        text += f", {' and '.join(texts)}"
    # The most suspicious groups first.
    ordered = sorted(
        alike,
        key=lambda group: (
            -2 * (len({it.class_name for it in group}) > 1) - (len({it.split for it in group}) > 1)
        ),
    )
    return [Finding(text, False, [_line(group) for group in ordered])]


def _line(group: Sequence[InspectedImage]) -> str:
    """Describe a group of images in one line, with the classes if they differ."""
    different = len({image.class_name for image in group}) > 1
    shown = [
        f"{printable(image.name)} ({image.class_name})" if different else printable(image.name)
        for image in group[:_MAX_IN_LINE]
    ]
    more = f" and {len(group) - _MAX_IN_LINE} more" if len(group) > _MAX_IN_LINE else ""
    return " = ".join(shown) + more


def _parts_of(row: dict[str, int]) -> str:
    return ", ".join(f"{count} in {part}" for part, count in row.items() if count)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"
