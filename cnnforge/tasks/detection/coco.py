"""Compute COCO's numbers with hotcoco, which gives those of pycocotools bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import hotcoco
import numpy as np

from cnnforge.tasks.detection.decoding import Found

SIZES = ("small", "medium", "large")
"""The sizes of objects: areas below 32 x 32 pixels, below 96 x 96, and above."""
ERRORS = {
    "Cls": "wrong class",
    "Loc": "wrong place",
    "Both": "wrong class and place",
    "Dupe": "found twice",
    "Bkg": "background",
    "Miss": "missed",
}
"""The kinds of errors of TIDE (D. Bolya et al., "TIDE: A General Toolbox for Identifying Object
Detection Errors", 2020), and their names."""

# Axes of hotcoco's arrays: areas are all, small, medium, large; max detections are 1, 10, 100.
_ALL, _MAX_100 = 0, 2
_AT_50, _AT_75 = 0, 5


class Truth(NamedTuple):
    """The true objects in an image.

    Attributes:
        boxes: (k, 4) float64, `x1 y1 x2 y2` in pixels of the original image.
        labels: (k,) int32, indices of the classes.
        crowd: (k,) bool, whether the box contains many objects. A detection in it is not an error.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class Matches(NamedTuple):
    """The detections of all images, matched with the true objects at IoU 0.5.

    Detections in crowd regions are left out.

    Attributes:
        labels: (k,) int64, the class of each detection.
        scores: (k,) float64, its confidence.
        right: (k,) bool, whether it is matched with an object.
        objects: (C,) int64, the number of true objects of each class.
    """

    labels: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    objects: np.ndarray


class Difference(NamedTuple):
    """The difference between the AP of two detectors.

    Attributes:
        mean: AP of the second detector minus that of the first.
        low: Lower end of its 95 % interval.
        high: Upper end of it.
        p: Probability that chance alone makes a difference at least as large.
    """

    mean: float
    low: float
    high: float
    p: float


class CocoNumbers:
    """The numbers of COCO for the detections in some images.

    Args:
        truth: The true objects in each of N images.
        found: The detections in each image, in pixels of the original image.
        sizes: (N, 2) int, height and width of the original images.
        classes: Number of classes C.
    """

    def __init__(
        self, truth: Sequence[Truth], found: Sequence[Found], sizes: np.ndarray, classes: int
    ) -> None:
        self._classes, self._images = classes, len(sizes)
        images = [
            {"id": number, "height": int(height), "width": int(width)}
            for number, (height, width) in enumerate(sizes, 1)
        ]
        categories = [{"id": number + 1, "name": str(number)} for number in range(classes)]
        boxes = _joined([each.boxes for each in truth], (0, 4))
        extents = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        self._truth = hotcoco.COCO.from_arrays(
            images,
            categories,
            _image_ids([len(each.labels) for each in truth]),
            _joined([each.labels for each in truth], (0,)).astype(np.int64) + 1,
            extents,
            # From 1: pycocotools takes the id 0 for no match.
            ids=np.arange(1, len(boxes) + 1),
            area=extents[:, 2] * extents[:, 3],
            iscrowd=_joined([each.crowd for each in truth], (0,)).astype(np.int64),
        )
        boxes = _joined([each.boxes for each in found], (0, 4))
        rows = np.empty((len(boxes), 7))
        rows[:, 0] = _image_ids([len(each.labels) for each in found])
        rows[:, 1:3], rows[:, 3:5] = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        rows[:, 5] = _joined([each.scores for each in found], (0,))
        rows[:, 6] = _joined([each.labels for each in found], (0,)) + 1
        self._found = self._truth.load_res(rows)
        self._result = hotcoco.COCOeval(self._truth, self._found, "bbox")
        self._result.evaluate()
        self._result.accumulate()
        arrays: Any = self._result.eval
        # (10 IoUs, 101 recalls, C, 4 areas, 3 max detections) and (10, C, 4, 3); -1: no objects.
        self._precision, self._recall = arrays["precision"], arrays["recall"]
        self._scores = arrays["scores"]

    @property
    def stats(self) -> np.ndarray:
        """The twelve numbers of COCO in their order, (12,) float64; -1 if there are no objects.

        AP at IoU 0.50:0.95, 0.50 and 0.75; AP of small, medium and large objects; AR with at most
        1, 10 and 100 detections; AR of small, medium and large objects.
        """
        precision, recall = self._precision[..., _MAX_100], self._recall
        return np.array(
            [
                _mean(precision[:, :, :, _ALL]),
                _mean(precision[_AT_50, :, :, _ALL]),
                _mean(precision[_AT_75, :, :, _ALL]),
                *(_mean(precision[:, :, :, area]) for area in (1, 2, 3)),
                *(_mean(recall[:, :, _ALL, count]) for count in (0, 1, 2)),
                *(_mean(recall[:, :, area, _MAX_100]) for area in (1, 2, 3)),
            ]
        )

    def of_class(self, label: int) -> tuple[float, float, float]:
        """Return AP at IoU 0.50:0.95, AP at 0.50 and AR of a class; NaN without objects."""
        precision = self._precision[:, :, label, _ALL, _MAX_100]
        recall = self._recall[:, label, _ALL, _MAX_100]
        values = _mean(precision), _mean(precision[_AT_50]), _mean(recall)
        return tuple(np.nan if value < 0 else value for value in values)  # pyright: ignore

    def curve(self, label: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the curve of precision over recall of a class at IoU 0.5.

        Returns:
            Precision and confidence at the recalls 0, 0.01, ..., 1, both (101,) float64; `None` if
            there are no objects of the class.
        """
        place = _AT_50, slice(None), label, _ALL, _MAX_100
        if self._precision[place].min() < 0:
            return None
        return self._precision[place], self._scores[place]

    @cached_property
    def matches(self) -> Matches:
        """The detections, matched with the objects."""
        labels, scores, right = [], [], []
        objects = np.zeros(self._classes, np.int64)
        for each in self._matched_images:
            label = each["category_id"] - 1
            objects[label] += len(each["gtIgnore"]) - sum(each["gtIgnore"])
            counted = ~np.array(each["dtIgnore"][0], bool)
            scores.append(np.array(each["dtScores"], np.float64)[counted])
            right.append(np.array(each["dtMatched"][0], bool)[counted])
            labels.append(np.full(int(counted.sum()), label))
        return Matches(
            _joined(labels, (0,)).astype(np.int64),
            _joined(scores, (0,)),
            _joined(right, (0,)).astype(bool),
            objects,
        )

    @property
    def faults(self) -> np.ndarray:
        """The number of missed objects and wrong detections in each image: (N,) int64."""
        faults = np.zeros(self._images, np.int64)
        for each in self._matched_images:
            objects = len(each["gtIgnore"]) - sum(each["gtIgnore"])
            counted = ~np.array(each["dtIgnore"][0], bool)
            right = int(np.array(each["dtMatched"][0], bool)[counted].sum())
            faults[each["image_id"] - 1] += int(counted.sum()) + objects - 2 * right
        return faults

    @cached_property
    def _matched_images(self) -> list[dict[str, Any]]:
        """The detections of each class in each image, matched with the objects at IoU 0.5."""
        single = hotcoco.COCOeval(self._truth, self._found, "bbox")
        single.params.iou_thrs = [0.5]
        single.params.area_rng = [[0.0, 1e10]]
        single.params.area_rng_lbl = ["all"]
        single.params.max_dets = [100]
        single.evaluate()
        return [each for each in single.eval_imgs if each is not None]

    def difference(self, other: CocoNumbers, draws: int) -> Difference:
        """Compare the AP at IoU 0.50:0.95 with that of another detector on the same images.

        The images are drawn again with repetition, the same ones for both detectors, always with
        the same random numbers (a paired bootstrap).

        Args:
            other: The numbers of the other detector.
            draws: Number of times that the images are drawn.
        """
        found = hotcoco.compare(self._result, other._result, n_bootstrap=draws, seed=0)
        bounds = found["ci"]["AP"]
        positive = bounds["prob_positive"]
        p = 2 * min(positive, 1 - positive)
        if bounds["lower"] <= 0 <= bounds["upper"]:
            # Draws without a difference do not count as positive.
            p = max(p, 0.05)
        if not bounds["std_err"]:
            p = 1.0
        return Difference(
            found["deltas"]["AP"], bounds["lower"], bounds["upper"], max(p, 1 / draws)
        )

    def confusion(self, confidence: float) -> np.ndarray:
        """Return the confusion matrix of the detections with at least some confidence.

        A detection belongs to the object that it overlaps by an IoU of at least 0.5.

        Args:
            confidence: Min confidence.

        Returns:
            (C + 1, C + 1) int64 counts; rows are true classes, columns found ones. The last row and
            the last column are the background.
        """
        return self._result.confusion_matrix(0.5, min_score=confidence)["matrix"].astype(np.int64)

    @cached_property
    def errors(self) -> dict[str, tuple[int, float]]:
        """The number of errors of each of `ERRORS`, and the AP at IoU 0.5 that they cost."""
        found = self._result.tide_errors()
        return {
            kind: (int(found["counts"][kind]), float(found["delta_ap"][kind])) for kind in ERRORS
        }


def _joined(parts: Sequence[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.empty(empty), *parts]).astype(np.float64)


def _image_ids(counts: Sequence[int]) -> np.ndarray:
    return np.repeat(np.arange(1, len(counts) + 1), counts)


def _mean(values: np.ndarray) -> float:
    # As in pycocotools, to the bit.
    known = values[values > -1]
    return float(np.mean(known)) if len(known) else -1.0
