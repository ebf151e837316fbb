"""The sections of a run's report that are about objects and their boxes."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from cnnforge.errors import RunError, one_line
from cnnforge.pages.parts import Section, Series, chart, figure, paragraphs, table
from cnnforge.runs import EVALUATION, RunDirectory
from cnnforge.tasks.reports import TaskSections
from cnnforge.utils.structured_text import MALFORMED, read_json

# The twelve numbers of COCO: their titles, and their names in `evaluation.json`.
_COCO = {
    "mAP50-95": "map",
    "mAP50": "map50",
    "mAP75": "map75",
    "mAP50-95, small objects": "map_small",
    "mAP50-95, medium objects": "map_medium",
    "mAP50-95, large objects": "map_large",
    "AR, 1 detection an image": "ar1",
    "AR, 10 detections": "ar10",
    "AR, 100 detections": "ar100",
    "AR, small objects": "ar_small",
    "AR, medium objects": "ar_medium",
    "AR, large objects": "ar_large",
}
_CLASS_NUMBERS = ("map", "map50", "ar100", "precision", "recall", "f1")
_CLASS_TITLES = ("mAP50-95", "mAP50", "AR", "precision", "recall", "F1")
# Max width and height in pixels of a picture in the page.
_MAX_SIDE = 1400
_MAX_BYTES = 900_000
# The pictures of a run have fewer pixels.
_MAX_PIXELS = 40_000_000


def detection_sections(run: RunDirectory) -> TaskSections:
    """Make the sections of a detector's report from the files of its run.

    Raises:
        RunError: A file is damaged.
    """
    path = run.path / EVALUATION
    try:
        found = read_json(path)["validation"]
        sections = [
            Section(
                "pictures",
                "Truth and detections",
                _picture(
                    run, "validation.png", "Validation images with their true boxes and those found"
                ),
            ),
            Section("numbers", "COCO's numbers", _numbers(found)),
            Section("classes", "Classes", _classes(found)),
            Section("precision", "Precision and recall", _curve(run)),
            Section("errors", "Errors", _errors(found) + _confusions(run)),
            Section(
                "labels",
                "Labels",
                _picture(run, "labels.png", "Sizes and places of the training objects"),
            ),
        ]
    except (OSError, *MALFORMED, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)}") from error
    return TaskSections(sections)


def _numbers(found: Mapping[str, Any]) -> str:
    confidence = found["confidence"]
    text = (
        f"Detections from a confidence of {confidence:.2f} have the highest F1: "
        f"{found['f1']:.4f}, with a precision of {found['precision']:.4f} and a recall of "
        f"{found['recall']:.4f}. 'cnnforge predict' uses this confidence."
    )
    rows = [(title, _text(found["coco"][name])) for title, name in _COCO.items()]
    sizes = [
        (name, f"{values['objects']:,}", _text(values["map"]), _text(values["ar"]))
        for name, values in found["by_size"].items()
    ]
    about = "Small objects have less than 32x32 pixels, large ones 96x96 or more."
    return (
        paragraphs([text])
        + table(["number", "value"], rows, caption="The twelve numbers of COCO")
        + table(["size", "objects", "mAP50-95", "AR"], sizes, caption="By the size of the objects")
        + paragraphs([about], "muted")
    )


def _classes(found: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{values['objects']:,}", *(_text(values[each]) for each in _CLASS_NUMBERS))
        for name, values in sorted(found["classes"].items(), key=lambda each: each[1]["map"] or 0)
    ]
    headings = ["class", "objects", *_CLASS_TITLES]
    return table(headings, rows, caption="Classes, the lowest mAP50-95 first")


def _curve(run: RunDirectory) -> str:
    """Return a chart of the mean precision of all classes at each recall, at IoU 0.5."""
    path = run.path / "pr_curve.csv"
    if not path.is_file():
        return paragraphs(["There is no pr_curve.csv."])
    precisions: dict[float, list[float]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            precisions[float(row["recall"])].append(float(row["precision"]))
    points = [(recall, sum(each) / len(each)) for recall, each in sorted(precisions.items())]
    return chart(
        "Mean precision of the classes at IoU 0.5",
        [Series("validation", points)],
        x_title="recall",
        y_range=(0.0, 1.0),
    )


def _errors(found: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{values['count']:,}", f"{values['lost_map50']:.4f}")
        for name, values in found["errors"].items()
    ]
    about = "The mAP50 that is lost by each kind of error (TIDE, D. Bolya et al., 2020)."
    return paragraphs([about]) + table(
        ["error", "detections", "lost mAP50"], rows, caption="Kinds of errors"
    )


def _confusions(run: RunDirectory) -> str:
    """Return a table of the most frequent confusions."""
    path = run.path / "confusion_matrix.csv"
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        (_, *names), *lines = list(csv.reader(file))
    pairs = [
        (int(count), true, name)
        for true, *counts in lines
        for name, count in zip(names, counts, strict=True)
        if name != true and int(count)
    ]
    rows: Sequence[Sequence[object]] = [
        (true, name, f"{count:,}") for count, true, name in sorted(pairs, key=lambda each: -each[0])
    ][:20]
    caption = "Most frequent confusions; all are in confusion_matrix.csv"
    return table(["true class", "detected as", "objects"], rows, caption=caption, text=2)


def _picture(run: RunDirectory, name: str, about: str) -> str:
    path = run.path / name
    if not path.is_file():
        return paragraphs([f"There is no {name}."])
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if math.prod(image.size) > _MAX_PIXELS:
                raise ValueError(f"it has {image.width}x{image.height} pixels")
            picture = image.convert("RGB")
    # Pillow raises errors of many types for a damaged picture.
    except Exception as error:
        raise RunError(
            f"{path} cannot be shown ({one_line(error)}): restore or delete it"
        ) from error
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    for quality in (85, 60, 40):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if file.tell() <= _MAX_BYTES:
            break
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return figure(f"data:image/jpeg;base64,{content}", about)


def _text(value: float | None) -> str:
    return "no objects" if value is None else f"{value:.4f}"
