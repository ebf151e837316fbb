"""Open annotations in the JSON form of COCO, with the pictures that they name.

hotcoco reads this form too, but it keeps neither the names of doubled pictures nor the place of an
annotation, which messages need, so the file is read here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cnnforge.data import (
    AnnotatedPicture,
    Box,
    BoxFinding,
    DataOptions,
    Dataset,
    DetectionSource,
    PictureFile,
    SkippedFile,
    dataset_from_boxes,
    normal_name,
    printable,
)
from cnnforge.errors import DataError, UsageError, message_of
from cnnforge.utils.structured_text import MALFORMED
from cnnforge_plugins.detection_data._coco_files import (
    Part,
    about_parts,
    find_parts,
    finders_of,
)
from cnnforge_plugins.detection_data._numbers import number, picture_size

_FORM = "COCO"
_FIX = "expected the JSON form of COCO, with images, annotations and categories"


class _Found(NamedTuple):
    """Hold what was found in all files."""

    pictures: list[AnnotatedPicture]
    skipped: list[SkippedFile]
    findings: list[BoxFinding]
    notes: list[str]


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open annotations in the form of COCO.

    The ids of images, categories and annotations may be any numbers or texts. The order of the
    classes is that of the ids of the categories. The pictures are searched at the place that the
    file gives, and in folders next to it that are called like the split. A file for training brings
    the files for validation and testing next to it, such as `instances_val2017.json`.

    Args:
        argument: A JSON file, or a folder with such files.
        options: Options of the dataset.

    Returns:
        The dataset. Its samples have the ids of the images.

    Raises:
        UsageError: If there is no such file, or no file has an annotation.
        DataError: If a file is damaged or contradicts itself, or no picture can be read.
    """
    if argument is None:
        raise UsageError("coco needs a file of annotations: write coco:FILE.json")
    given = os.path.abspath(os.path.expanduser(argument))
    parts = find_parts(given)
    documents = [_read(part.path) for part in parts]
    classes = _classes(parts, documents)
    found = _Found([], [], [], [])
    for part, document in zip(parts, documents, strict=True):
        _collect(part, document, classes, found)
    objects = len(found.findings) + sum(len(each.objects) for each in found.pictures)
    if found.pictures and not objects and options.need_labels:
        files = ", ".join(printable(part.path) for part in parts)
        raise UsageError(
            f"no label found for any of {len(found.pictures) + len(found.skipped)} pictures: "
            f"{files} has no annotation with a box; give the file of the objects, such as "
            "instances_train.json"
        )
    if not found.pictures:
        raise DataError(_no_picture(parts, found.skipped))
    notes = [*about_parts(parts, given), *found.notes]
    source = DetectionSource(
        name=f"coco:{given}",
        root=os.path.commonpath([os.path.dirname(each.file.path) for each in found.pictures]),
        pictures=found.pictures,
        classes=tuple(classes.values()),
        fractions=False,
        form=_FORM,
        skipped=found.skipped,
        findings=found.findings,
        notes=notes,
        # The first id of a name.
        class_ids={name: key for key, name in reversed(classes.items())},
    )
    return dataset_from_boxes(source, options, id_name="image_id")


def _read(path: str) -> dict[str, Any]:
    shown = printable(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            document = json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{shown} is damaged in line {error.lineno}, column {error.colno} ({error.msg}): {_FIX}"
        ) from error
    # A text that is not UTF-8, too many brackets, or a number of thousands of digits.
    except (OSError, *MALFORMED) as error:
        reason = getattr(error, "strerror", None) or message_of(error)
        raise DataError(f"{shown} cannot be read ({reason}): {_FIX}") from error
    if isinstance(document, list):
        what = "is a list"
        if document and isinstance(document[0], dict) and "score" in document[0]:
            what = "has the results of a prediction"
        raise DataError(f"{shown} {what}: {_FIX}")
    if isinstance(document, dict) and "shapes" in document and "imagePath" in document:
        raise DataError(
            f"{shown} is a file of labelme, about one picture: convert the folder to COCO or VOC "
            "with labelme, and name the result"
        )
    lacks = [
        name
        for name in ("images", "categories")
        if not isinstance(document, dict) or not isinstance(document.get(name), list)
    ]
    if lacks:
        raise DataError(f"{shown} has no list called {lacks[0]}: {_FIX}")
    return document


def _entries(document: Mapping[str, Any], name: str) -> Iterable[tuple[int, dict[str, Any]]]:
    found = document.get(name)
    for place, entry in enumerate(found if isinstance(found, list) else ()):
        if isinstance(entry, dict):
            yield place, entry


def _classes(parts: Sequence[Part], documents: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """Return the name of each category by its id, in the order of the ids."""
    classes: dict[Any, str] = {}
    for part, document in zip(parts, documents, strict=True):
        for place, entry in _entries(document, "categories"):
            key, name = _id(entry.get("id")), normal_name(str(entry.get("name", "")))
            if key is None or not name:
                raise DataError(
                    f"{printable(part.path)}: category number {place + 1} has no "
                    f"{'id' if key is None else 'name'}: give each category an id and a name"
                )
            if classes.setdefault(key, name) != name:
                raise DataError(
                    f"{printable(part.path)}: the category id {key} is both {classes[key]!r} and "
                    f"{name!r}: give each category an id of its own"
                )
    if not classes:
        raise DataError(f"{printable(parts[0].path)} has no category: {_FIX}")
    return dict(sorted(classes.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _id(value: Any) -> int | str | None:
    """Return an id in one form: the texts and the floats of some tools become whole numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d{1,18}", value) else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class _Image(NamedTuple):
    """An entry of the list of images."""

    name: str
    size: tuple[int, int] | None


def _images(part: Part, document: Mapping[str, Any]) -> tuple[dict[Any, _Image], list[str]]:
    """Return the images by their ids, and notes."""
    shown, images, doubled = printable(part.path), {}, []
    for place, entry in _entries(document, "images"):
        key = _id(entry.get("id"))
        name = entry.get("file_name") or os.path.basename(str(entry.get("coco_url") or ""))
        if key is None or not isinstance(name, str) or not name:
            raise DataError(
                f"{shown}: image number {place + 1} has no "
                f"{'id' if key is None else 'file_name'}: give each image an id and a file_name"
            )
        size = picture_size(entry.get("height"), entry.get("width"))
        if key in images:
            if images[key].name != name:
                raise DataError(
                    f"{shown}: the image id {key} is both {printable(images[key].name)} and "
                    f"{printable(name)}, so its annotations have no clear picture: give each image "
                    "an id of its own"
                )
            doubled.append(key)
        images[key] = _Image(name, size)
    notes = []
    if doubled:
        ids = "1 image id is" if len(doubled) == 1 else f"{len(doubled)} image ids are"
        notes.append(f"{ids} twice in {shown}, with the same picture; the first is {doubled[0]}")
    return images, notes


def _collect(
    part: Part, document: Mapping[str, Any], classes: Mapping[Any, str], found: _Found
) -> None:
    images, notes = _images(part, document)
    found.notes.extend(notes)
    boxes = _boxes(part, document, images, classes, found)
    finders = finders_of(part)
    for key, image in images.items():
        paths = next((paths for finder in finders if (paths := finder.find(image.name))), [])
        if len(paths) == 1:
            file = PictureFile(paths[0], split=part.split, id=str(key))
            found.pictures.append(AnnotatedPicture(file, boxes.get(key, ()), image.size))
        else:
            lost = len(boxes.get(key, ()))
            objects = f"; it has {lost} object{'' if lost == 1 else 's'}" if lost else ""
            reason = f"several files have this name: {len(paths)}" if paths else "no such picture"
            folder = os.path.dirname(part.path)
            found.skipped.append(SkippedFile(os.path.join(folder, image.name), reason + objects))


def _boxes(
    part: Part,
    document: Mapping[str, Any],
    images: Mapping[Any, _Image],
    classes: Mapping[Any, str],
    found: _Found,
) -> dict[Any, list[Box]]:
    """Return the boxes of each image by its id."""
    boxes: dict[Any, list[Box]] = {}
    seen: dict[Any, tuple[Any, ...]] = {}
    doubled, equal = [], 0
    name = printable(os.path.basename(part.path))
    for place, entry in _entries(document, "annotations"):
        own = _id(entry.get("id"))
        where = f"{name}, annotation " + (f"number {place + 1}" if own is None else str(own))
        image, category = _id(entry.get("image_id")), _id(entry.get("category_id"))
        given = entry.get("bbox")
        cause, detail = "", ""
        if image not in images:
            cause, detail = "the annotation is about an image that the file does not have", image
        elif category not in classes:
            cause, detail = "the annotation has a category that the file does not have", category
        elif not isinstance(given, list) or len(given) != 4:
            cause, given = "the annotation has no bbox of four numbers", ()
        if cause or not given:
            found.findings.append(BoxFinding(where, cause, "" if detail == "" else f"id {detail}"))
            continue
        left, top, width, height = map(number, given)
        corners = (left, top, left + width, top + height)
        if own is not None:
            content = (image, category, corners)
            if own in seen:
                doubled.append(own)
                if seen[own] == content:
                    equal += 1
                    continue
            seen[own] = content
        crowd = bool(entry.get("iscrowd"))
        boxes.setdefault(image, []).append(Box(classes[category], corners, where, crowd))
    if doubled:
        ids = "1 annotation id is" if len(doubled) == 1 else f"{len(doubled)} annotation ids are"
        found.notes.append(
            f"{ids} twice in {printable(part.path)}, the first is {doubled[0]}: {equal} with the "
            f"same box, which counts once, and {len(doubled) - equal} with another one, which "
            "counts too"
        )
    return boxes


def _no_picture(parts: Sequence[Part], skipped: Sequence[SkippedFile]) -> str:
    places = "; ".join(finder.where() for finder in finders_of(parts[0]))
    return (
        f"none of the {len(skipped)} pictures that {printable(parts[0].path)} names is there, the "
        f"first is {printable(os.path.basename(skipped[0].path))}: searched in {places}; put the "
        "pictures into a folder next to the file"
        if skipped
        else f"{printable(parts[0].path)} has no image: {_FIX}"
    )
