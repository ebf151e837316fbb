"""Write detections in other formats, draw them, and merge those of parts of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from PIL import Image

from cnnforge.tasks.detection.boxes import overlaps
from cnnforge.tasks.detection.drawing import BoxPainter
from cnnforge.tasks.detection.rows import DetectedObject, Detections
from cnnforge.tasks.rows import Row, Source

# A box this close to an inner edge of a part, in pixels, may belong to an object that is cut off.
_EDGE = 2.0


class DetectionOutput:
    """Writes, draws and merges detections, see `cnnforge.tasks.BoxOutput`.

    Args:
        classes: Names of the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._numbers = {name: number for number, name in enumerate(classes)}

    @cached_property
    def _painter(self) -> BoxPainter:
        return BoxPainter(self._classes)

    def draw(self, image: Image.Image, row: Row) -> Image.Image:
        """Draw the boxes of a row with class and confidence into its picture."""
        objects = _objects(row)
        boxes, confidences = _arrays(objects)
        return self._painter.draw(image, boxes, self._labels(objects), confidences)

    def coco(
        self, row: Row, image_id: int | str, class_ids: Mapping[str, int | str]
    ) -> list[dict[str, Any]]:
        """Return the boxes of a row as COCO results.

        A class that has no id in `class_ids` gets one that follows the others. The names of the
        file and the class are added, which COCO ignores.
        """
        last = max([0, *(key for key in class_ids.values() if isinstance(key, int))])
        return [
            {
                "image_id": image_id,
                "category_id": class_ids.get(each.label, last + 1 + self._numbers[each.label]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": each.confidence,
                "file_name": row.name,
                "category_name": each.label,
            }
            for each in _objects(row)
            for x1, y1, x2, y2 in [each.box]
        ]

    def yolo(self, row: Row) -> str:
        """Return a line `class x y width height confidence` for each box.

        The middle and the size are fractions of the width and the height of the picture.
        """
        height, width = cast("Detections", row).size or (1, 1)
        lines = []
        for each in _objects(row):
            x1, y1, x2, y2 = each.box
            place = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
            place += [(x2 - x1) / width, (y2 - y1) / height]
            numbers = " ".join(f"{value:.6f}" for value in [*place, each.confidence])
            lines.append(f"{self._numbers[each.label]} {numbers}\n")
        return "".join(lines)

    def yolo_names(self) -> str:
        """Return the names of the classes, one on a line."""
        return "".join(f"{name}\n" for name in self._classes)

    def merged(
        self,
        parts: Sequence[Row],
        places: Sequence[tuple[int, int, int, int]],
        source: Source,
        options: Mapping[str, Any],
    ) -> Detections:
        """Merge the detections in overlapping parts of an image.

        A box that touches an inner edge of its part is left out, because its object may be cut off.
        Of the others, a box is removed if it overlaps one of its class with a higher confidence.
        """
        height, width = source.size
        objects: list[DetectedObject] = []
        for row, (left, top, right, bottom) in zip(parts, places, strict=True):
            for each in _objects(row):
                x1, y1, x2, y2 = each.box
                x1, y1, x2, y2 = x1 + left, y1 + top, x2 + left, y2 + top
                cut_off = (
                    (left > 0 and x1 < left + _EDGE)
                    or (top > 0 and y1 < top + _EDGE)
                    or (right < width and x2 > right - _EDGE)
                    or (bottom < height and y2 > bottom - _EDGE)
                )
                if not cut_off:
                    objects.append(each._replace(box=(x1, y1, x2, y2)))
        objects.sort(key=lambda each: -each.confidence)
        kept = self._best(objects, options["overlap"])
        return Detections(source.name, source.size, tuple(kept[: options["max_detections"]]))

    def _best(self, objects: Sequence[DetectedObject], overlap: float) -> list[DetectedObject]:
        """Remove objects that overlap a better one of their class."""
        boxes, _ = _arrays(objects)
        labels = self._labels(objects)
        kept: list[int] = []
        for number in range(len(objects)):
            same = [other for other in kept if labels[other] == labels[number]]
            shares = overlaps(boxes[number : number + 1], boxes[same])
            if not (shares >= overlap).any():
                kept.append(number)
        return [objects[number] for number in kept]

    def _labels(self, objects: Sequence[DetectedObject]) -> np.ndarray:
        return np.array([self._numbers[each.label] for each in objects], np.int32)


def _objects(row: Row) -> Sequence[DetectedObject]:
    return cast("Detections", row).objects


def _arrays(objects: Sequence[DetectedObject]) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes, (k, 4) float64, and the confidences, (k,) float64."""
    boxes = np.array([each.box for each in objects], np.float64).reshape(-1, 4)
    return boxes, np.array([each.confidence for each in objects], np.float64)
