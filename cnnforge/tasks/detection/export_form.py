"""Define how a detector is exported: from pixels to boxes, and how its boxes are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnforge.tasks.detection.decoding import decode
from cnnforge.tasks.export_form import ExportForm
from cnnforge.utils.structures import flatten

if TYPE_CHECKING:
    import keras


class BoxExportForm(ExportForm):
    """The form of a detector: `boxes`, `confidences` and `classes` of K candidates per image.

    `cnnforge.tasks.detection.exported.with_boxes` describes the outputs.

    Args:
        classes: The C class names.
        image_size: Height and width of the model's images.
        options: The options `confidence`, `overlap` and `max_detections` of the task.
    """

    names = ("boxes", "classes", "confidences")
    units: Mapping[str, str] = {"boxes": "px"}
    quantizable = False

    def __init__(
        self,
        classes: Sequence[str],
        image_size: tuple[int, int],
        options: Mapping[str, int | float],
    ) -> None:
        self._classes, self._image_size = tuple(classes), image_size
        self._options: dict[str, Any] = {
            "confidence": options["confidence"],
            "overlap": options["overlap"],
            "max_detections": int(options["max_detections"]),
        }

    def model(self, model: keras.Model) -> keras.Model:
        """Add the decoding of the maps to a detector."""
        from cnnforge.tasks.detection.exported import with_boxes

        return with_boxes(model, **self._options)

    def outputs(self, outputs: Any) -> dict[str, np.ndarray]:
        """Decode maps with NumPy.

        Args:
            outputs: (N, h, w, C + 4) float32, the map or the list of maps of the detector.

        Returns:
            `boxes`, `confidences` and `classes`, with as many candidates as the image with the
            most objects has. The others have the confidence 0.
        """
        found = decode(flatten(outputs), self._image_size, **self._options)
        shape = len(found), max((len(each.boxes) for each in found), default=0)
        boxes = np.zeros((*shape, 4), np.float32)
        classes, confidences = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for number, each in enumerate(found):
            count = len(each.boxes)
            boxes[number, :count] = each.boxes
            classes[number, :count] = each.labels
            confidences[number, :count] = each.scores
        return {"boxes": boxes, "classes": classes, "confidences": confidences}

    def answers(self, outputs: Mapping[str, np.ndarray]) -> Sequence[str]:
        """Return the number of objects of each class, such as `"2 cat, 1 dog"`, for each image."""
        texts = []
        for classes, confidences in zip(outputs["classes"], outputs["confidences"], strict=True):
            counts = Counter(map(int, classes[confidences > 0]))
            known = [f"{counts[each]} {self._classes[each]}" for each in sorted(counts)]
            texts.append(", ".join(known) or "nothing")
        return texts

    def differences(
        self, expected: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Compare the objects in the images that have the same number of each class in both.

        Each object is compared with the nearest one of its class, because objects with almost the
        same confidence may be in another order.

        Returns:
            The max difference of a coordinate in pixels, and of a confidence.

        Raises:
            ValueError: An output is missing.
        """
        missing = [name for name in self.names if name not in outputs]
        if missing:
            raise ValueError(f"the output {missing[0]} is missing")
        apart = {"boxes": 0.0, "confidences": 0.0}
        pairs = zip(self.answers(expected), self.answers(outputs), strict=True)
        for number, (old, new) in enumerate(pairs):
            if old != new:
                continue
            before, after = (_objects(each, number) for each in (expected, outputs))
            for box, label, confidence in zip(*before, strict=True):
                own = after[1] == label
                distances = np.abs(after[0][own] - box).max(-1)
                nearest = distances.argmin()
                apart["boxes"] = max(apart["boxes"], float(distances[nearest]))
                other = float(abs(after[2][own][nearest] - confidence))
                apart["confidences"] = max(apart["confidences"], other)
        return apart


def _objects(
    outputs: Mapping[str, np.ndarray], number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = outputs["confidences"][number] > 0
    return (
        outputs["boxes"][number][kept],
        outputs["classes"][number][kept],
        outputs["confidences"][number][kept],
    )
