"""Write a dataset with boxes as COCO, YOLO or VOC, with the unchanged image files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import yaml

from cnnforge.data.dataset import Dataset
from cnnforge.data.writers.items import Item, Items, UniqueNames, splits_of
from cnnforge.errors import DataError
from cnnforge.utils.names import printable

_NAMES = {"": "", "train": "train", "validation": "val", "test": "test"}
# The digits after the point of a fraction in YOLO: the error of a box is far less than a pixel.
_DIGITS = 9


class _Boxes(NamedTuple):
    """The objects in a sample, and the size of the upright image."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    height: int
    width: int


def _boxes_of(dataset: Dataset, row: int) -> _Boxes:
    samples: Any = dataset.train
    height, width = (int(side) for side in samples.sizes[row])
    return _Boxes(samples.boxes[row], samples.labels[row], samples.crowd[row], height, width)


def _write_images(
    items: Items, folder: Path, place: Callable[[str], str]
) -> dict[int, tuple[str, str]]:
    """Write the image files. Return the stem and the name of each one by its row.

    Args:
        items: The samples.
        folder: The folder of the data.
        place: Function from the split to the folder of the images in it.
    """
    # A name is unique in all splits, and without its ending, so that label files differ, too.
    stems, written = UniqueNames(), {}
    for item in items.items:
        content, suffix = items.encoded(item)
        stem = stems.make(items.stem(item), "")
        inner = folder / place(item.split)
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"{stem}{suffix}").write_bytes(content)
        written[item.row] = stem, f"{stem}{suffix}"
    return written


def write_coco(items: Items, folder: Path) -> None:
    """Write `annotations.json` and the folder `images`.

    If there are splits, write `annotations/instances_SPLIT.json` and `images/SPLIT`.

    Args:
        items: The samples.
        folder: An empty folder.

    Raises:
        DataError: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    written = _write_images(items, folder, lambda split: f"images/{_NAMES[split]}")
    ids = _image_ids(items)
    number = 0
    for split in items.splits:
        images, annotations = [], []
        for item in items.of(split):
            own = _boxes_of(items.dataset, item.row)
            images.append(
                {
                    "id": ids[item.row],
                    "file_name": written[item.row][1],
                    "width": own.width,
                    "height": own.height,
                }
            )
            for box, label, crowd in zip(own.boxes, own.labels, own.crowd, strict=True):
                left, top, right, bottom = box.tolist()
                number += 1
                annotations.append(
                    {
                        # The id 0 would mean "no match" in the evaluation of COCO.
                        "id": number,
                        "image_id": ids[item.row],
                        "category_id": int(label) + 1,
                        "bbox": [left, top, _side(left, right), _side(top, bottom)],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": int(crowd),
                    }
                )
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": label, "name": name} for label, name in enumerate(items.classes, 1)
            ],
        }
        path = folder / "annotations.json"
        if split:
            path = folder / "annotations" / f"instances_{_NAMES[split]}.json"
            path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _side(low: float, high: float) -> float:
    """Return a length that gives `high` again when it is added to `low`."""
    length = high - low
    for value in (length, np.nextafter(length, 0), np.nextafter(length, np.inf)):
        if low + value == high:
            return float(value)
    return length


def _image_ids(items: Items) -> list[int]:
    """Return the ids that the images had in COCO, or else 1, 2, ..."""
    ids = getattr(items.dataset.train, "ids", None)
    if items.dataset.id_name == "image_id" and ids is not None and all(map(str.isdigit, ids)):
        numbers = [int(own) for own in ids]
        if len({*numbers}) == len(numbers):
            return numbers
    return list(range(1, len(items.items) + 1))


def write_yolo(items: Items, folder: Path) -> None:
    """Write `data.yaml` and the folders `images` and `labels`, with a folder for each split.

    Args:
        items: The samples.
        folder: An empty folder.

    Raises:
        DataError: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    written = _write_images(items, folder, lambda split: f"images/{_NAMES[split]}")
    for item in items.items:
        own = _boxes_of(items.dataset, item.row)
        size = np.array([own.width, own.height, own.width, own.height], np.float64)
        middles, sides = own.boxes[:, :2] + own.boxes[:, 2:], own.boxes[:, 2:] - own.boxes[:, :2]
        values = np.concatenate([middles / 2, sides], axis=1) / size
        lines = [
            " ".join([str(label), *(f"{value:.{_DIGITS}f}" for value in row)]) + "\n"
            for row, label, crowd in zip(values, own.labels, own.crowd, strict=True)
            if not crowd
        ]
        path = folder / "labels" / _NAMES[item.split] / f"{written[item.row][0]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    # The readers of this form need both keys.
    places = {"train": "images", "val": "images"}
    if items.splits != [""]:
        places = {_NAMES[split]: f"images/{_NAMES[split]}" for split in items.splits}
    document = {**places, "names": dict(enumerate(items.classes))}
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def write_voc(items: Items, folder: Path) -> None:
    """Write the folders `Annotations` and `JPEGImages`, and the splits in `ImageSets/Main`.

    Numbers are counted from 1, and the last pixel belongs to a box. If a number of any box is not
    whole, all are positions from 0 with a decimal point, as labelme writes them.

    Args:
        items: The samples.
        folder: An empty folder.

    Raises:
        DataError: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    written = _write_images(items, folder, lambda split: "JPEGImages")
    whole = _all_whole(items)
    (folder / "Annotations").mkdir()
    for item in items.items:
        stem, name = written[item.row]
        text = _voc_text(items, item, name, whole)
        (folder / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    if items.splits != [""]:
        lists = folder / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        for split in items.splits:
            stems = [f"{written[item.row][0]}\n" for item in items.of(split)]
            (lists / f"{_NAMES[split]}.txt").write_text("".join(stems), encoding="utf-8")


def _all_whole(items: Items) -> bool:
    samples: Any = items.dataset.train
    return all((boxes == np.round(boxes)).all() for boxes in samples.boxes)


def _voc_text(items: Items, item: Item, name: str, whole: bool) -> str:
    own = _boxes_of(items.dataset, item.row)
    depth = items.dataset.image_shape[2]
    lines = [
        "<annotation>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{own.width}</width><height>{own.height}</height>"
        f"<depth>{depth}</depth></size>",
    ]
    for box, label, crowd in zip(own.boxes, own.labels, own.crowd, strict=True):
        left, top, right, bottom = box.tolist()
        numbers = left + 1, top + 1, right, bottom
        texts = (
            [str(int(value)) for value in numbers]
            if whole
            else [_decimal(value) for value in (left, top, right, bottom)]
        )
        sides = zip(("xmin", "ymin", "xmax", "ymax"), texts, strict=True)
        inner = "".join(f"<{side}>{text}</{side}>" for side, text in sides)
        lines += [
            "  <object>",
            f"    <name>{escape(items.classes[int(label)])}</name>",
            f"    <difficult>{int(crowd)}</difficult>",
            f"    <bndbox>{inner}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _decimal(value: float) -> str:
    """Return all digits of a number, with a decimal point."""
    text = repr(value)
    return f"{value:.20f}" if "e" in text else text


def verify_boxes(items: Items, written: Dataset, kind: str) -> None:
    """Check that written data have the same objects as the original ones.

    Args:
        items: The original samples.
        written: The dataset that was written, opened again.
        kind: Name of the format.

    Raises:
        DataError: If they differ.
    """
    expected = _sums(items.dataset, items.classes, with_crowds=kind != "yolo")
    found = _sums(written, written.classes, with_crowds=True)
    for key in sorted({*expected, *found}):
        own, other = expected.get(key), found.get(key)
        # The error of a number in YOLO is less than this.
        if (
            own is None
            or other is None
            or own[0] != other[0]
            or abs(own - other).max() > 1e-4 * (own[0] + 1)
        ):
            raise DataError(
                f"{kind} would be read with other boxes than {printable(items.dataset.name)} "
                f"(class {key[0]!r}): rename this class, or choose another format"
            )


def _sums(
    dataset: Dataset, classes: Any, *, with_crowds: bool
) -> dict[tuple[str, str, bool], np.ndarray]:
    """Return number and sum of the boxes by class, split and crowd: (5,) float64."""
    sums: dict[tuple[str, str, bool], np.ndarray] = defaultdict(lambda: np.zeros(5))
    for row, split in enumerate(splits_of(dataset)):
        own = _boxes_of(dataset, row)
        for box, label, crowd in zip(own.boxes, own.labels, own.crowd, strict=True):
            if with_crowds or not crowd:
                sums[classes[int(label)], split, bool(crowd)] += [1, *box]
    return dict(sums)


def box_notes(items: Items, kind: str) -> list[str]:
    """Return notes about what a format does not hold.

    Args:
        items: The samples.
        kind: Name of the format.
    """
    notes, samples = [], items.dataset.train
    inspection = items.dataset.inspection
    left_out = sum(each.left_out for each in inspection.objects) if inspection is not None else 0
    if left_out:
        objects = "1 object" if left_out == 1 else f"{left_out} objects"
        notes.append(f"{objects} with an unusable box left out; 'cnnforge data check' lists them")
    crowds = sum(int(each.sum()) for each in getattr(samples, "crowd", ()))
    if crowds and kind == "yolo":
        objects = "1 object" if crowds == 1 else f"{crowds} objects"
        notes.append(f"{objects} that are crowds left out: yolo has no mark for them")
    if kind == "voc":
        used = {int(label) for own in getattr(samples, "labels", ()) for label in own}
        lost = len(items.classes) - len(used)
        if lost:
            classes = "1 class" if lost == 1 else f"{lost} classes"
            notes.append(f"{classes} without an object: voc does not name such a class")
        if crowds:
            notes.append("crowds are marked as difficult objects in voc")
        if not _all_whole(items):
            notes.append(
                "some boxes do not end at whole pixels: all numbers in voc have a decimal point "
                "and are positions from 0, as labelme writes them"
            )
    return notes
