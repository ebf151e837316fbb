"""Compute the metrics of a detector, for all objects together and for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from cnnforge.data import Dataset, Samples, letterbox
from cnnforge.tasks.detection.boxes import areas, clipped
from cnnforge.tasks.detection.coco import ERRORS, SIZES, CocoNumbers, Matches, Truth
from cnnforge.tasks.detection.decoding import MIN_CONFIDENCE, Found, decode
from cnnforge.tasks.detection.losses import NUMPY, level_losses, total
from cnnforge.tasks.detection.objects import objects_of
from cnnforge.tasks.detection.targets import levels_of, target_maps
from cnnforge.tasks.metric import LOSS, Evaluation, Metric
from cnnforge.utils.structures import flatten

HEAT_LOSS = Metric("heat_loss", "heat loss", "heat", "min", sum="heat_loss")
BOX_LOSS = Metric("box_loss", "box loss", "box", "min", sum="box_loss")
MAP50 = Metric("map50", "mAP50", "mAP50")
MAP = Metric("map", "mAP50-95", "mAP50-95")

CONFIDENCE = 0.25
"""The confidence for predictions if no better one is known."""

# The names of the twelve numbers of COCO in `evaluation.json`.
_STATS = (
    *("map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


class Quality(NamedTuple):
    """Precision, recall and F1 at one confidence, at IoU 0.5.

    Attributes:
        precision: Fraction of right detections among the detections; 0 without detections.
        recall: Fraction of objects that are found; 0 without objects.
        f1: Harmonic mean of precision and recall.
    """

    precision: float
    recall: float
    f1: float


def quality(matches: Matches, confidence: float, label: int | None = None) -> Quality:
    """Return precision, recall and F1 of the detections with at least some confidence.

    Args:
        matches: The detections.
        confidence: Min confidence.
        label: Class; `None` for all objects together.
    """
    chosen = matches.scores >= confidence
    objects = matches.objects.sum()
    if label is not None:
        chosen, objects = chosen & (matches.labels == label), matches.objects[label]
    right, count = int(matches.right[chosen].sum()), int(chosen.sum())
    return Quality(
        right / count if count else 0.0,
        right / int(objects) if objects else 0.0,
        2 * right / (count + int(objects)) if right else 0.0,
    )


def best_confidence(matches: Matches) -> float:
    """Return the confidence at which F1 of all objects together is the highest.

    It is the middle of the range of confidences that give this F1. If no detection is right, it is
    `CONFIDENCE`.
    """
    order = np.argsort(-matches.scores, kind="stable")
    scores, right = matches.scores[order], np.cumsum(matches.right[order])
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + matches.objects.sum())
    below = np.append(scores[1:], MIN_CONFIDENCE)
    # Detections with the same confidence cannot be separated.
    f1 = np.where(scores > below, f1, 0.0)
    if not f1.any():
        return CONFIDENCE
    best = int(f1.argmax())
    return float((scores[best] + below[best]) / 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionEvaluation(Evaluation):
    """The metrics of a detector on N images.

    Attributes:
        classes: The C class names.
        truth: The true objects in each image, in pixels of the original images.
        found: The detections in each image, in the same pixels, with a confidence of at least 0.01.
        sizes: (N, 2) int64, height and width of the original images.
        confidence: Confidence that was chosen before, for instance on the validation images;
            `None`: the one with the highest F1 on these images.
        dataset: The dataset.
        inputs: The samples of the dataset, and the N indices of those that were evaluated.
    """

    classes: tuple[str, ...]
    truth: Sequence[Truth] = field(repr=False)
    found: Sequence[Found] = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    numbers: CocoNumbers = field(repr=False)
    confidence: float | None
    dataset: Dataset = field(repr=False)
    inputs: tuple[Samples, np.ndarray] = field(repr=False)

    @cached_property
    def threshold(self) -> float:
        """The confidence at which precision, recall and confusions are computed."""
        if self.confidence is not None:
            return self.confidence
        return best_confidence(self.numbers.matches)

    @property
    def overall(self) -> Quality:
        """Precision, recall and F1 of all objects together, at `threshold`."""
        return quality(self.numbers.matches, self.threshold)

    def of_class(self, label: int) -> dict[str, Any]:
        """Return the numbers of a class by name; AP and AR are `None` without objects."""
        names = ("map", "map50", "ar100")
        values = self.numbers.of_class(label)
        return {
            "objects": int(self.numbers.matches.objects[label]),
            **{n: None if np.isnan(v) else v for n, v in zip(names, values, strict=True)},
            **quality(self.numbers.matches, self.threshold, label)._asdict(),
        }

    @property
    def by_size(self) -> dict[str, dict[str, Any]]:
        """The number of objects of each size, their AP and their AR; `None` without objects."""
        stats = self.numbers.stats
        counts = np.zeros(3, int)
        for each in self.truth:
            sizes = np.searchsorted([32**2, 96**2], areas(each.boxes[~each.crowd]), side="right")
            counts += np.bincount(sizes, minlength=3)
        return {
            name: {
                "objects": int(counts[place]),
                "map": _known(stats[3 + place]),
                "ar": _known(stats[9 + place]),
            }
            for place, name in enumerate(SIZES)
        }

    @cached_property
    def errors(self) -> dict[str, tuple[int, float]]:
        """The kinds of errors by name: their number at `threshold`, and the mAP50 that they cost.

        Detections below the threshold count for the mAP, so they are used for its loss.
        """
        shown = [each.at_least(self.threshold) for each in self.found]
        counted = CocoNumbers(self.truth, shown, self.sizes, len(self.classes)).errors
        return {
            name: (counted[kind][0], self.numbers.errors[kind][1]) for kind, name in ERRORS.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as plain values, ready for JSON."""
        return {
            **super().as_dict(),
            "objects": int(self.numbers.matches.objects.sum()),
            "confidence": self.threshold,
            **self.overall._asdict(),
            "coco": {
                name: _known(value) for name, value in zip(_STATS, self.numbers.stats, strict=True)
            },
            "by_size": self.by_size,
            "errors": {
                name: {"count": count, "lost_map50": lost}
                for name, (count, lost) in self.errors.items()
            },
            "classes": {name: self.of_class(label) for label, name in enumerate(self.classes)},
            "confusion_matrix": self.numbers.confusion(self.threshold).tolist(),
        }


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)


class DetectionEvaluator:
    """Compares the maps of a detector with the true objects, batch by batch.

    Args:
        dataset: The dataset.
        samples: Samples of the dataset, see `cnnforge.tasks.detection.objects.objects_of`.
        indices: (N,) int64, the samples in the order in which the outputs are added.
        classes: The C class names of the model.
        labels: (classes of the dataset,) int32, the index of each of them in `classes`.
        image_size: Height and width of the model's images.
        overlap: Min overlap with which a box is removed.
        confidence: See `DetectionEvaluation.confidence`.
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: Samples,
        indices: np.ndarray,
        *,
        classes: Sequence[str],
        labels: np.ndarray,
        image_size: tuple[int, int],
        overlap: float,
        confidence: float | None,
    ) -> None:
        self._dataset, self._samples, self._indices = dataset, samples, indices
        self._classes, self._labels, self._image_size = tuple(classes), labels, image_size
        self._overlap, self._confidence = overlap, confidence
        self._found: list[Found] = []
        # Keep one value per image, and average at the end. A mean of the means of batches would
        # depend on the batch sizes.
        self._losses: list[tuple[float, float]] = []

    def add(self, outputs: Any) -> None:
        """Add the maps of the next images, (n, h, w, C + 4) float32 for each stride.

        Raises:
            ValueError: There are more images than samples.
        """
        maps = flatten(outputs)
        start, count = len(self._found), len(maps[0])
        if start + count > len(self._indices):
            raise ValueError(f"expected maps of {len(self._indices)} images, got more")
        found = decode(
            maps,
            self._image_size,
            confidence=MIN_CONFIDENCE,
            overlap=self._overlap,
            max_detections=100,
        )
        for row, index in enumerate(self._indices[start : start + count]):
            size: Any = self._samples.sizes[index]  # pyright: ignore[reportAttributeAccessIssue]
            self._found.append(to_original(found[row], (size[0], size[1]), self._image_size))
            self._losses.append(self._loss([each[row : row + 1] for each in maps], index))

    def _loss(self, maps: Sequence[np.ndarray], index: int) -> tuple[float, float]:
        """Return the heat loss and the box loss of one image."""
        classes = len(self._classes)
        objects = dict(objects_of(self._samples, np.array([index]), self._image_size))
        there = objects["labels"] >= 0
        objects["labels"] = np.where(there, self._labels[objects["labels"]], np.int32(-1))
        levels = levels_of([each.shape for each in maps], self._image_size)
        targets = target_maps(objects, levels, classes)
        heat, boxes = total(
            NUMPY,
            [
                level_losses(NUMPY, targets[level.name], each, classes)
                for level, each in zip(levels, maps, strict=True)
            ],
        )
        return float(heat[0]), float(boxes[0])

    def result(self) -> DetectionEvaluation:
        """Return the evaluation.

        Raises:
            ValueError: There are fewer images than samples.
        """
        if len(self._found) < len(self._indices):
            raise ValueError(
                f"expected maps of {len(self._indices)} images, got those of {len(self._found)}"
            )
        samples: Any = self._samples
        truth = [
            Truth(samples.boxes[i], self._labels[samples.labels[i]], samples.crowd[i])
            for i in self._indices
        ]
        sizes = np.asarray(samples.sizes)[self._indices]
        numbers = CocoNumbers(truth, self._found, sizes, len(self._classes))
        heat, boxes = np.mean(self._losses, axis=0)
        return DetectionEvaluation(
            samples=len(self._indices),
            metrics={
                LOSS.name: float(heat + boxes),
                HEAT_LOSS.name: float(heat),
                BOX_LOSS.name: float(boxes),
                MAP50.name: float(numbers.stats[1]),
                MAP.name: float(numbers.stats[0]),
            },
            classes=self._classes,
            truth=truth,
            found=tuple(self._found),
            sizes=sizes,
            numbers=numbers,
            confidence=self._confidence,
            dataset=self._dataset,
            inputs=(self._samples, self._indices),
        )


def to_original(found: Found, size: tuple[int, int], image_size: tuple[int, int]) -> Found:
    """Convert detections in the model's image to detections in the original image.

    Args:
        found: Detections in pixels of the model's image.
        size: Height and width of the original image.
        image_size: Height and width of the model's images.

    Returns:
        The detections in pixels of the original image, clipped to it. Those in the border of the
        model's image are left out.
    """
    height, width = size
    boxes = letterbox(size, image_size).to_original(found.boxes.astype(np.float64))
    boxes = clipped(boxes, np.array([0.0, 0.0, width, height]))
    inside = areas(boxes) > 0
    return Found(boxes[inside], found.labels[inside], found.scores[inside])
