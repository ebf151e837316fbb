"""Make a dataset for object detection from annotated pictures."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cnnforge.data.boxes.annotations import AnnotatedPicture, Box, DetectionSource
from cnnforge.data.boxes.checks import check_boxes, turned
from cnnforge.data.boxes.samples import DETECTION, DetectionArrays, DetectionFiles, Objects
from cnnforge.data.dataset import BoxFinding, DataOptions, Dataset, Inspection, Samples
from cnnforge.data.digests import Split, duplicates_note, fingerprint
from cnnforge.data.findings import class_name_notes, count_note, quoted
from cnnforge.data.images import describe_image
from cnnforge.data.picture_dataset import Picture, Targets, check_pictures, dataset_from_files
from cnnforge.data.split import choose_parts
from cnnforge.data.stored import ImageSource
from cnnforge.utils.names import normal_name, printable

_MAX_SHOWN = 3
# The error of a side that is computed from two fractions of six digits.
_LAST_DIGIT = 1e-6


class _Corners(NamedTuple):
    """The corners of boxes in pixels of the pictures, and notes on how they were understood."""

    values: np.ndarray
    notes: tuple[str, ...] = ()


def dataset_from_boxes(source: DetectionSource, options: DataOptions, id_name: str = "") -> Dataset:
    """Make a dataset from annotated pictures: check pictures and boxes, and split the pictures.

    Every picture is decoded once; unreadable ones are skipped. A box that leaves its picture is
    clipped. A box without area, with a negative size, with a number that is not finite, or outside
    of its picture is left out. A picture is never left out because of its boxes. The notes give the
    numbers. With the purpose `"inspection"`, `inspection.objects` has each of these boxes.

    Boxes are in pixels of the upright picture. If the data give a size whose height and width have
    changed places, and the orientation (EXIF) of the file rotates the picture, then the boxes are
    in pixels of the stored picture, and are rotated. If the data give another size than that of
    the file, and all boxes lie in it, the boxes are scaled to the file.

    Args:
        source: The pictures and their objects.
        options: Options of the dataset. Pictures without a split are split at random.
        id_name: Name of the ids of the pictures, if they have ids, see `dataset_from_files`.

    Returns:
        The dataset, whose task is `"detection"`. Its samples are `DetectionFiles`. For prediction,
        it has `labelled=False` if the data have no object.

    Raises:
        DataError: If no picture can be read, or the pictures cannot be split.
    """
    annotated, doubled = _joined(source.pictures)
    files = [each.file for each in annotated]
    pictures, skipped = check_pictures(source.root, files, options, source.skipped)
    objects_of = {_key(each): each for each in annotated}
    chosen = [objects_of[each.file.split, each.file.path] for each in pictures]
    names = Counter(map(normal_name, source.classes))
    classes = tuple(names)
    doubled += count_note(
        [name for name, count in names.items() if count > 1],
        len(classes),
        "names of classes are there several times, and are one class each",
    )
    objects, findings, notes = _checked(source, chosen, pictures, classes)
    findings = [*source.findings, *findings]
    # An inspection has these findings one by one.
    inspected = options.purpose == "inspection"
    about = () if inspected else _about_objects(objects, classes, findings)
    if not any(map(len, objects.boxes)) and options.purpose == "prediction":
        classes = ()

    def samples(
        rows: np.ndarray,
        sources: Sequence[ImageSource],
        image_shape: tuple[int, int, int],
        ids: Sequence[str],
    ) -> Samples:
        return DetectionFiles(sources, objects.some(rows), image_shape, ids, source.class_ids)

    dataset = dataset_from_files(
        source.name,
        source.root,
        pictures,
        classes,
        options,
        skipped=skipped,
        notes=(*source.notes, *doubled, *notes, *about),
        id_name=id_name,
        targets=Targets(DETECTION, target_codes(objects), samples),
    )
    if dataset.inspection is None:
        return dataset
    return replace(dataset, inspection=dataset.inspection._replace(objects=findings))


def dataset_from_box_arrays(
    name: str,
    samples: DetectionArrays,
    classes: Sequence[str],
    options: DataOptions,
    *,
    splits: Sequence[str] = (),
) -> Dataset:
    """Make a dataset for object detection from images in memory, which keep their size and color.

    Args:
        name: Name of the dataset.
        samples: The images and their objects.
        classes: The names of the classes.
        options: Options of the dataset.
        splits: N texts: `"train"`, `"validation"` or `"test"` if the data say where the sample
            belongs; by default the images are split at random.

    Returns:
        The dataset.

    Raises:
        DataError: If the images cannot be split.
    """
    given = splits or [""] * len(samples)
    rows = choose_parts(name, None, classes, given, options)
    codes = target_codes(Objects(samples.boxes, samples.labels, samples.crowd, samples.sizes))
    digests = [hashlib.sha256(image).digest() for image in samples.images]
    train, validation, test = (
        DetectionArrays(
            samples.images[part],
            [samples.boxes[int(row)] for row in part],
            [samples.labels[int(row)] for row in part],
            [samples.names[int(row)] for row in part],
            [samples.crowd[int(row)] for row in part],
        )
        for part in rows.parts
    )
    keys = [
        Split(codes[part], each.names, [digests[int(row)] for row in part])
        for part, each in zip(rows.parts, (train, validation, test), strict=True)
    ]
    return Dataset(
        name=name,
        classes=tuple(classes),
        train=train,
        validation=validation,
        fingerprint=fingerprint(classes, samples.images.shape[1:], keys[0], keys[1]),
        notes=rows.notes + duplicates_note(*(each.digests for each in keys)),
        task=DETECTION,
        splits=(keys[0], keys[1]),
        test=test if len(test) else None,
        test_digests=keys[2].digests,
        inspection=Inspection(given) if options.purpose == "inspection" else None,
    )


def target_codes(objects: Objects) -> np.ndarray:
    """Return a number for each image that differs if its objects differ.

    Args:
        objects: The objects in N images.

    Returns:
        (N,) int64. It is the label of the image in the fingerprint of the dataset.
    """
    codes = np.zeros(len(objects.sizes), np.int64)
    for row, (boxes, labels, crowd) in enumerate(
        zip(objects.boxes, objects.labels, objects.crowd, strict=True)
    ):
        content = b"".join(
            np.ascontiguousarray(values, kind).tobytes()
            for values, kind in ((boxes, "<f8"), (labels, "<i4"), (crowd, "?"))
        )
        codes[row] = int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)
    return codes


def _key(each: AnnotatedPicture) -> tuple[str, str]:
    return each.file.split, each.file.path


def _joined(
    pictures: Sequence[AnnotatedPicture],
) -> tuple[list[AnnotatedPicture], tuple[str, ...]]:
    """Join the objects of pictures that are named twice for the same split. Return a note, too."""
    found: dict[tuple[str, str], AnnotatedPicture] = {}
    doubled: dict[tuple[str, str], str] = {}
    for each in pictures:
        before = found.get(_key(each))
        if before is not None:
            doubled[_key(each)] = each.file.path
            each = before._replace(
                objects=[*before.objects, *each.objects], size=before.size or each.size
            )
        found[_key(each)] = each
    what = "pictures are named twice, and their objects are joined"
    return list(found.values()), count_note(list(doubled.values()), len(found), what)


def _checked(
    source: DetectionSource,
    annotated: Sequence[AnnotatedPicture],
    pictures: Sequence[Picture],
    classes: Sequence[str],
) -> tuple[Objects, list[BoxFinding], tuple[str, ...]]:
    """Check the boxes of readable pictures. Return objects, findings and notes."""
    sizes = np.array([each.checked.size for each in pictures], np.int64).reshape(-1, 2)
    boxes: list[Box] = [box for each in annotated for box in each.objects]
    counts = [len(each.objects) for each in annotated]
    rows = np.repeat(np.arange(len(annotated)), counts)
    given = np.array([box.corners for box in boxes], np.float64).reshape(-1, 4)
    corners = _in_pixels(source, given, sizes[rows])
    notes = corners.notes
    if not source.fractions and not notes:
        corners = _in_files(source, annotated, corners.values, sizes, np.cumsum([0, *counts]))
        notes = corners.notes
    clipped, usable, findings = check_boxes(
        corners.values, sizes[rows], [box.place for box in boxes]
    )
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[normal_name(box.class_name)] for box in boxes], np.int32)
    crowd = np.array([box.crowd for box in boxes], bool)
    ends = np.cumsum(np.bincount(rows[usable], minlength=len(annotated)))[:-1]
    split = [np.split(values[usable], ends) for values in (clipped, labels, crowd)]
    return Objects(split[0], split[1], split[2], sizes), findings, notes


def _in_pixels(source: DetectionSource, given: np.ndarray, sizes: np.ndarray) -> _Corners:
    """Convert fractions to pixels. Take numbers in the unit that they show, if all agree."""
    scale = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1).astype(np.float64)
    with np.errstate(over="ignore"):
        scaled = given * scale
    usable = given[np.isfinite(given).all(axis=1)]
    if not len(usable):
        return _Corners(given)
    highest = np.abs(usable).max(axis=1)
    if not source.fractions and highest.max() <= 1.0:
        return _Corners(
            scaled,
            (
                f"all boxes of {printable(source.name)} are between 0 and 1, and {source.form} has "
                "pixels: they are read as fractions of the width and the height of each picture",
            ),
        )
    if source.fractions and highest.min() > 1.5:
        return _Corners(
            given,
            (
                f"all boxes of {printable(source.name)} have numbers greater than 1, and "
                f"{source.form} has fractions of width and height: they are read as pixels",
            ),
        )
    return _Corners(_near_whole(scaled, scale) if source.fractions else given)


def _near_whole(corners: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return positions that are whole numbers if only the last digits of fractions differ.

    Most boxes end at whole pixels, and fractions have six digits. The difference is less than a
    hundredth of a pixel.
    """
    near = np.round(corners)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.abs(corners - near) <= _LAST_DIGIT * scale, near, corners)


def _in_files(
    source: DetectionSource,
    annotated: Sequence[AnnotatedPicture],
    corners: np.ndarray,
    sizes: np.ndarray,
    starts: np.ndarray,
) -> _Corners:
    """Rotate and scale boxes of pictures whose size differs from the one that the data give."""
    corners, notes = corners.copy(), ()
    rotated, scaled, other = [], [], []
    for row, each in enumerate(annotated):
        size = int(sizes[row, 0]), int(sizes[row, 1])
        if each.size is None or each.size == size or not min(each.size) > 0:
            continue
        own = slice(starts[row], starts[row + 1])
        limits = np.array([*each.size[::-1], *each.size[::-1]])
        if each.size == size[::-1]:
            orientation = describe_image(each.file.source).orientation
            if orientation >= 5:
                corners[own] = turned(corners[own], each.size, orientation)
                rotated.append(each)
            else:
                other.append(each)
        elif (corners[own] <= limits + 1).all():
            corners[own] *= np.array([*size[::-1], *size[::-1]]) / limits
            scaled.append(each)
        else:
            other.append(each)
    for found, text in (
        (rotated, "the boxes are those of the picture before it is rotated (EXIF), so they are "
         "rotated, too"),
        (scaled, "the boxes are scaled to the file"),
        (other, "the boxes are read as pixels of the file"),
    ):  # fmt: skip
        if found:
            height, width = found[0].size or (0, 0)
            notes += (
                f"{len(found)} of {len(annotated)} pictures have another size than "
                f"{source.form} says, the first is {printable(found[0].file.path)} ({width}x"
                f"{height} is given): {text}",
            )
    return _Corners(corners, notes)


def _about_objects(
    objects: Objects, classes: Sequence[str], findings: Sequence[BoxFinding]
) -> tuple[str, ...]:
    """Return notes about objects that were changed or left out, and about those that lack."""
    notes = ()
    total = sum(map(len, objects.boxes)) + sum(each.left_out for each in findings)
    causes = Counter((each.left_out, each.cause) for each in findings)
    for (left_out, cause), count in sorted(causes.items(), key=lambda item: (-item[1], item[0])):
        first = next(each for each in findings if (each.left_out, each.cause) == (left_out, cause))
        are = "is" if count == 1 else "are"
        what = f"{are} left out" if left_out else f"{are} changed"
        notes += (
            f"{count} of {total} objects {what}: {cause}; the first is {printable(first.place)}"
            + (f" ({first.detail})" if first.detail else "")
            + "; 'cnnforge data check' lists them" * (count > 1),
        )
    empty = sum(not len(each) for each in objects.boxes)
    if empty and classes:
        has = "1 picture has" if empty == 1 else f"{empty} of {len(objects.boxes)} pictures have"
        notes += (f"{has} no object: background, which counts",)
    crowds = sum(int(each.sum()) for each in objects.crowd)
    if crowds:
        text = "1 object is a group (crowd): it counts"
        if crowds > 1:
            text = f"{crowds} objects are groups (crowds): they count"
        notes += (f"{text} neither as found nor as missed",)
    present = set(np.concatenate([np.zeros(0, np.int32), *objects.labels]).tolist())
    unused = [name for label, name in enumerate(classes) if label not in present]
    if unused:
        more = f" and {len(unused) - _MAX_SHOWN} more" if len(unused) > _MAX_SHOWN else ""
        shown = f"{quoted(unused[:_MAX_SHOWN])}{more}"
        notes += (f"{len(unused)} of {len(classes)} classes have no object: {shown}",)
    return (*notes, *class_name_notes(classes, folders=False))
