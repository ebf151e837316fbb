"""Open pictures with XML annotations in the form of PASCAL VOC.

hotcoco reads this form too, but it does not say which object of which file is wrong, and it takes
all numbers as counted from 1, so the files are read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from defusedxml import DefusedXmlException, ElementTree

from cnnforge.data import (
    IMAGE_SUFFIXES,
    AnnotatedPicture,
    Box,
    BoxFinding,
    DataOptions,
    Dataset,
    DetectionSource,
    PictureFile,
    Role,
    SkippedFile,
    dataset_from_boxes,
    find_images,
    normal_name,
    printable,
    split_role,
)
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets.shared.picture_finder import PictureFinder
from cnnforge_plugins.detection_data._numbers import number, picture_size

_FORM = "VOC"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_PICTURE_FOLDERS = ("JPEGImages", "images", "Images", "jpegimages", "img", "imgs", "")


class _Object(NamedTuple):
    """An object in a file: the texts of its sides as they are written, and where it is."""

    class_name: str
    sides: tuple[str, ...]
    place: str
    difficult: bool


class _Annotation(NamedTuple):
    """The content of a file."""

    path: str
    picture: str
    size: tuple[int, int] | None
    objects: list[_Object]


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open pictures with XML annotations in the form of PASCAL VOC.

    The files are in a folder `Annotations`, and the pictures in `JPEGImages` next to it; or a file
    is next to its picture. The splits are those of the lists in `ImageSets/Main`, or else of the
    names of folders. VOC counts pixels from 1, and the last pixel belongs to a box. If all numbers
    have a decimal point, as labelme writes them, or some boxes begin at 0, the numbers are
    positions from 0.

    Args:
        argument: The folder.
        options: Options of the dataset.

    Returns:
        The dataset. Objects that are marked as difficult are crowds.

    Raises:
        UsageError: If there is no such folder, or no file of annotations in it.
        DataError: If no file and no picture can be read.
    """
    if argument is None:
        raise UsageError("voc needs a folder: write voc:FOLDER")
    given = os.path.abspath(os.path.expanduser(argument))
    root, paths = _files(given)
    skipped: list[SkippedFile] = []
    findings: list[BoxFinding] = []
    annotations: list[_Annotation] = []
    for path in paths:
        read = _read(path, os.path.relpath(path, root), findings)
        if isinstance(read, str):
            skipped.append(SkippedFile(path, read))
        elif read is not None:
            annotations.append(read)
    if not annotations:
        raise UsageError(_no_label(given, len(paths), skipped))
    lists = _lists(root)
    splits: dict[str, Role | Literal[""] | None] = {
        each.path: _split(each.path, root, lists) for each in annotations
    }
    listed = [each for each in annotations if splits[each.path] is not None]
    if not listed:
        raise DataError(
            f"the lists in {printable(os.path.join(root, 'ImageSets', 'Main'))} name none of the "
            f"{len(annotations)} files of annotations: correct the lists, or remove them"
        )
    from_zero, notes = _origin(listed)
    pictures = []
    finders: dict[str, PictureFinder] = {}
    for each in listed:
        path = _picture(each, root, finders)
        if isinstance(path, SkippedFile):
            skipped.append(path)
            continue
        file = PictureFile(path, split=splits[each.path] or "")
        boxes = [_box(it, from_zero) for it in each.objects]
        pictures.append(AnnotatedPicture(file, boxes, each.size))
    if len({each.file.split for each in pictures}) == 1:
        pictures = [each._replace(file=each.file._replace(split="")) for each in pictures]
    if not pictures:
        raise DataError(
            f"none of the {len(listed)} pictures that the annotations in {printable(root)} name is "
            f"there, the first is {printable(os.path.basename(skipped[-1].path))}: put them into "
            "the folder JPEGImages next to Annotations, or next to the files of annotations"
        )
    if len(listed) < len(annotations):
        count = len(annotations) - len(listed)
        notes.append(
            f"{count} of {len(annotations)} annotated pictures are in no list of ImageSets/Main, "
            "and are left out"
        )
    notes += _unannotated(pictures)
    source = DetectionSource(
        name=f"voc:{given}",
        root=root,
        pictures=pictures,
        classes=sorted({box.class_name for each in pictures for box in each.objects}),
        fractions=False,
        form=_FORM,
        skipped=skipped,
        findings=findings,
        notes=notes,
    )
    return dataset_from_boxes(source, options)


def _files(given: str) -> tuple[str, list[str]]:
    """Return the folder of the data, and the files of annotations in it."""
    if not os.path.isdir(given):
        what = "is a file" if os.path.exists(given) else "does not exist"
        raise UsageError(
            f"{printable(given)} {what}: give the folder that has the folders Annotations and "
            "JPEGImages, voc:FOLDER"
        )
    if os.path.basename(given).lower() == "annotations":
        given = os.path.dirname(given)
    paths: list[str] = []
    for folder, folders, names in os.walk(given):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        paths += [
            os.path.join(folder, name)
            for name in sorted(names)
            if name.lower().endswith(".xml") and name[0] != "."
        ]
    own = {os.path.dirname(path) for path in paths}
    # The usual archive has its data in VOCdevkit/VOC2007.
    if len(own) == 1 and os.path.basename(folder := own.pop()).lower() == "annotations":
        given = os.path.dirname(folder)
    return given, paths


def _read(path: str, shown: str, findings: list[BoxFinding]) -> _Annotation | str | None:
    """Read a file. Return a text if it cannot be read, and `None` if it has other content."""
    shown = printable(shown)
    try:
        tree: Any = ElementTree.parse(path).getroot()
    except DefusedXmlException as error:
        return f"forbidden in XML: {type(error).__name__}"
    except ElementTree.ParseError as error:
        return f"damaged XML: {error}"
    except (OSError, ValueError, LookupError) as error:
        return f"damaged XML: {getattr(error, 'strerror', None) or error}"
    if tree.tag != "annotation":
        return None
    size = picture_size(_text(tree, "size/height"), _text(tree, "size/width"))
    objects = []
    for place, item in enumerate(tree.findall("object"), 1):
        where = f"{shown}, object {place}"
        name, box = normal_name(_text(item, "name")), item.find("bndbox")
        if not name:
            findings.append(BoxFinding(where, "the object has no name"))
        elif box is None:
            findings.append(BoxFinding(where, "the object has no bndbox"))
        else:
            sides = tuple(_text(box, side) for side in _SIDES)
            objects.append(_Object(name, sides, where, number(_text(item, "difficult")) > 0))
    picture = _text(tree, "filename") or os.path.basename(_text(tree, "path").replace("\\", "/"))
    return _Annotation(path, picture, size, objects)


def _text(tree: Any, name: str) -> str:
    return (tree.findtext(name) or "").strip()


def _origin(annotations: Sequence[_Annotation]) -> tuple[bool, list[str]]:
    """Return whether numbers are positions from 0, and a note if they are."""
    sides = [text for each in annotations for it in each.objects for text in it.sides]
    if not sides:
        return False, []
    starts = [number(text) for each in annotations for it in each.objects for text in it.sides[:2]]
    if all("." in text for text in sides):
        return True, [
            "all numbers of the boxes have a decimal point, as labelme writes them: they are read "
            "as positions from 0, not as pixels counted from 1"
        ]
    if any(start == 0 for start in starts) and not any(start < 0 for start in starts):
        count = sum(start == 0 for start in starts)
        return True, [
            f"{count} of {len(starts)} sides of boxes are 0, and VOC counts pixels from 1: all "
            "numbers are read as positions from 0"
        ]
    return False, []


def _box(item: _Object, from_zero: bool) -> Box:
    left, top, right, bottom = map(number, item.sides)
    first = 0 if from_zero else 1
    corners = left - first, top - first, right, bottom
    return Box(item.class_name, corners, item.place, item.difficult)


def _lists(root: str) -> Mapping[str, Role]:
    """Return the split of each name in the lists; empty if there is no list."""
    folder = os.path.join(root, "ImageSets", "Main")
    lists: dict[str, Role] = {}
    names = ("trainval", "train", "val", "test")
    there = [name for name in names if os.path.isfile(os.path.join(folder, f"{name}.txt"))]
    if "train" in there and "trainval" in there:
        there.remove("trainval")
    for name in there:
        role: Role | None = split_role(name)
        with open(
            os.path.join(folder, f"{name}.txt"), encoding="utf-8-sig", errors="surrogateescape"
        ) as file:
            for line in file:
                words = line.split()
                if words and role is not None:
                    stem, suffix = os.path.splitext(words[0])
                    has_suffix = suffix.lower() in (*IMAGE_SUFFIXES, ".xml")
                    lists.setdefault(stem if has_suffix else words[0], role)
    return lists


def _split(path: str, root: str, lists: Mapping[str, Role]) -> Role | Literal[""] | None:
    """Return the split of a file; `None` if there are lists, and it is in none of them."""
    if lists:
        return lists.get(os.path.splitext(os.path.basename(path))[0])
    for part in os.path.relpath(path, root).split(os.sep)[:-1]:
        role = split_role(part)
        if role is not None:
            return role
    return ""


def _picture(
    annotation: _Annotation, root: str, finders: dict[str, PictureFinder]
) -> str | SkippedFile:
    """Find the picture of a file of annotations."""
    folder, name = os.path.split(annotation.path)
    stem = os.path.splitext(name)[0]
    above = os.path.dirname(folder)
    places = [folder, *(os.path.join(above, each) for each in _PICTURE_FOLDERS)]
    for place in places:
        path = os.path.join(place, os.path.basename(annotation.picture.replace("\\", "/")))
        if annotation.picture and os.path.isfile(path):
            return os.path.normpath(path)
    if root not in finders:
        finders[root] = PictureFinder(os.path.join(root, "JPEGImages"))
    for text in dict.fromkeys((annotation.picture, stem)):
        found = finders[root].find(text) if text else []
        if len(found) == 1:
            return found[0]
        if found:
            return SkippedFile(annotation.path, f"several pictures have its name: {len(found)}")
    count = len(annotation.objects)
    objects = f"; it has {count} object{'' if count == 1 else 's'}" if count else ""
    expected = os.path.join(places[0], annotation.picture or stem)
    return SkippedFile(expected, f"no such picture{objects}")


def _unannotated(pictures: Sequence[AnnotatedPicture]) -> list[str]:
    """Return a note about pictures without a file, in the folders of the others."""
    used = {each.file.path for each in pictures}
    folders = {os.path.dirname(path) for path in used}
    lost = [
        path
        for folder in sorted(folders)
        for path in find_images(folder, recursive=False).paths
        if path not in used
    ]
    if not lost:
        return []
    return [
        f"{len(lost)} pictures without a file of annotations are left out, the first is "
        f"{printable(lost[0])}: a picture without objects needs a file without objects"
    ]


def _no_label(given: str, files: int, skipped: Sequence[SkippedFile]) -> str:
    try:
        total = len(find_images(given).paths)
    except UsageError:
        total = 0
    if skipped:
        why = f"{len(skipped)} XML files cannot be read, the first is " + (
            f"{printable(skipped[0].path)}: {skipped[0].reason}"
        )
    else:
        why = f"none of {files} XML files is an annotation" if files else "there is no XML file"
    return (
        f"no label found for any of {total} pictures in {printable(given)}: {why}; give the folder "
        "that has the folders Annotations and JPEGImages, or XML files next to the pictures"
    )
