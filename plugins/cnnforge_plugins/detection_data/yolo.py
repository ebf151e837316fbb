"""Open pictures with label files in the form of YOLO.

hotcoco reads one folder of this form with the names of its classes; the rules by which labels are
found, and the number of a line, are not part of it, so the files are read here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from cnnforge.data import (
    AnnotatedPicture,
    Box,
    BoxFinding,
    DataOptions,
    Dataset,
    DetectionSource,
    SkippedFile,
    count_note,
    dataset_from_boxes,
    normal_name,
    printable,
)
from cnnforge.errors import UsageError
from cnnforge_plugins.detection_data._yolo_files import (
    Content,
    find_content,
    is_label,
    label_places,
)
from cnnforge_plugins.detection_data._yolo_lines import read_boxes

_FORM = "YOLO"
_MAX_CLASS = 100_000


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open pictures with label files in the form of YOLO.

    The paths in a YAML file are relative to its key `path`, or else to the folder of the file. The
    labels of a picture `images/a/1.jpg` are searched in `labels/a/1.txt`, next to the picture, and
    in folders called `labels` next to it. A picture without a label file has no objects.

    Args:
        argument: A file `data.yaml`, or a folder with such a file, or a folder of pictures and
            label files.
        options: Options of the dataset.

    Returns:
        The dataset.

    Raises:
        UsageError: If there is no such file, or no picture has a label file.
        DataError: If a file is damaged, or no picture can be read.
    """
    if argument is None:
        raise UsageError("yolo needs data: write yolo:data.yaml or yolo:FOLDER")
    given = os.path.abspath(os.path.expanduser(argument))
    content = find_content(given)
    if not content.pictures:
        raise UsageError(
            f"there is no picture in {printable(content.root)}: give a folder with the folders "
            "images and labels, or a file data.yaml that names them"
        )
    labels = {each.path: _labels_of(each.path) for each in content.pictures}
    if not any(labels.values()) and options.need_labels:
        raise UsageError(_no_label(content))
    names = content.names
    boxes: dict[str, list[Box]] = {}
    findings: list[BoxFinding] = []
    for path, label in labels.items():
        if label is not None:
            boxes[path], wrong = _read(label, content, names)
            findings += wrong
    if not names:
        names = _numbered(boxes)
    pictures = [AnnotatedPicture(each, boxes.get(each.path, ())) for each in content.pictures]
    source = DetectionSource(
        name=f"yolo:{given}",
        root=content.root,
        pictures=pictures,
        classes=tuple(names.values()),
        fractions=True,
        form=_FORM,
        skipped=[*content.skipped, *_without_picture(labels)],
        findings=findings,
        notes=_notes(content, labels),
    )
    return dataset_from_boxes(source, options)


def _labels_of(picture: str) -> str | None:
    return next((place for place in label_places(picture) if os.path.isfile(place)), None)


def _read(
    path: str, content: Content, names: Mapping[int, str]
) -> tuple[list[Box], list[BoxFinding]]:
    shown = printable(os.path.relpath(path, content.root))
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        reason = str(error.strerror or error).lower()
        return [], [BoxFinding(shown, "the label file cannot be read", reason)]
    known = {*names.values()}

    def name_of(word: str) -> str | None:
        if re.fullmatch(r"\d{1,9}(\.0*)?", word):
            key = int(word.partition(".")[0])
            # Without names, the numbers are the names.
            return names.get(key) if names else str(key) if key < _MAX_CLASS else None
        return normal_name(word) if normal_name(word) in known else None

    return read_boxes(text, shown, name_of, content.key_points)


def _numbered(boxes: Mapping[str, Sequence[Box]]) -> dict[int, str]:
    """Return names for classes 0, 1, ... up to the greatest number in the labels."""
    found = {int(box.class_name) for own in boxes.values() for box in own}
    return {key: str(key) for key in range(max(found, default=0) + 1)}


def _notes(content: Content, labels: Mapping[str, str | None]) -> tuple[str, ...]:
    folders = Counter(os.path.dirname(label) for label in labels.values() if label)
    shown = ", ".join(printable(folder) for folder in sorted(folders)[:3])
    more = f" and {len(folders) - 3} more folders" if len(folders) > 3 else ""
    notes = ()
    without = [path for path, label in labels.items() if label is None]
    if folders:
        notes += count_note(without, len(labels), f"pictures have no label file in {shown}{more}")
    if not content.names:
        notes += (
            "the data do not name the classes, so their numbers are the names: write the names "
            f"into {printable(os.path.join(content.root, 'classes.txt'))}, one in a line",
        )
    return notes


def _without_picture(labels: Mapping[str, str | None]) -> list[SkippedFile]:
    """Return the label files without a picture, in the folders where labels were found."""
    used = {label for label in labels.values() if label}
    skipped = []
    for folder in sorted({os.path.dirname(label) for label in used}):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if is_label(name) and path not in used and _looks_like_labels(path):
                skipped.append(SkippedFile(path, "there is no picture for this label file"))
    return skipped


def _looks_like_labels(path: str) -> bool:
    """Return whether the first line of a text begins like that of a label file."""
    try:
        with open(path, "rb") as file:
            words = file.readline(200).split()
    except OSError:
        return False
    return not words or (len(words) >= 5 and words[0].isdigit())


def _no_label(content: Content) -> str:
    first = content.pictures[0].path
    places = ", ".join(printable(place) for place in label_places(first))
    total = len({each.path for each in content.pictures})
    pictures = "the picture" if total == 1 else f"any of {total} pictures"
    return (
        f"no label found for {pictures} in {printable(content.root)}: searched for the labels of "
        f"{printable(os.path.basename(first))} in {places}; put the label files into a folder "
        "labels next to images, or next to the pictures"
    )
