"""Find the boxes of objects in the maps of a detector, with NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cnnforge.tasks.detection.boxes import overlaps
from cnnforge.tasks.detection.losses import MAX_LOG
from cnnforge.tasks.detection.targets import levels_of

CANDIDATES = 100
"""Number of peaks per image, the highest ones, from which overlapping boxes are removed. It is more
if the caller asks for more detections."""
MIN_CONFIDENCE = 0.01
"""Confidence from which detections count in an evaluation."""


class Found(NamedTuple):
    """The objects that were found in an image, those with the highest confidence first.

    Attributes:
        boxes: (k, 4) float, `x1 y1 x2 y2` in pixels.
        labels: (k,) int32, indices of the classes.
        scores: (k,) float32, confidences from 0 to 1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def at_least(self, confidence: float) -> Found:
        """Return the objects with at least this confidence.

        The result is that of `decode` with this confidence: a box is removed only because of one
        with a higher confidence.
        """
        count = int(np.count_nonzero(self.scores >= confidence))
        return Found(self.boxes[:count], self.labels[:count], self.scores[:count])


def decode(
    outputs: Sequence[np.ndarray],
    image_size: tuple[int, int],
    *,
    confidence: float,
    overlap: float,
    max_detections: int,
) -> list[Found]:
    """Find the objects in n images.

    A cell has an object of a class if its confidence is the maximum of the 3 x 3 cells around it.
    Of these peaks, the `CANDIDATES` highest of all maps are kept. Then a box is removed if it
    overlaps one of the same class with a higher confidence.

    Args:
        outputs: (n, h, w, C + 4) float32, the maps of the model by increasing stride.
        image_size: Height and width of the model's images.
        confidence: Min confidence of an object.
        overlap: Min overlap (IoU) with which a box is removed.
        max_detections: Max number of objects per image.

    Returns:
        The objects of each image. Boxes are in pixels of the model's image, and clipped to it.
    """
    found = decode_with_cells(
        outputs,
        image_size,
        confidence=confidence,
        overlap=overlap,
        max_detections=max_detections,
    )
    return [objects for objects, _ in found]


def decode_with_cells(
    outputs: Sequence[np.ndarray],
    image_size: tuple[int, int],
    *,
    confidence: float,
    overlap: float,
    max_detections: int,
) -> list[tuple[Found, np.ndarray]]:
    """Find the objects in n images as `decode` does, and the cells of the maps that have them.

    Args:
        outputs: See `decode`.
        image_size: See `decode`.
        confidence: See `decode`.
        overlap: See `decode`.
        max_detections: See `decode`.

    Returns:
        For each image the objects, and the cell of each: (k, 3) int64, the index of the map, the
        row and the column.
    """
    height, width = image_size
    parts = []
    levels = levels_of([output.shape for output in outputs], image_size)
    for number, (output, level) in enumerate(zip(outputs, levels, strict=True)):
        images, cells, boxes, labels, scores = _peaks(output, confidence)
        cells = np.insert(cells, 0, number, axis=1)
        parts.append((images, cells, boxes * np.float32(level.stride), labels, scores))
    images, cells, boxes, labels, scores = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )
    count = len(outputs[0])
    order = np.lexsort((-scores, images))
    images, cells, boxes = images[order], cells[order], boxes[order]
    labels, scores = labels[order], scores[order]
    # The rank of each peak in its image.
    starts = np.searchsorted(images, np.arange(count))
    rank = np.arange(len(images)) - starts[images]
    best = rank < max(CANDIDATES, max_detections)
    images, rank, cells = images[best], rank[best], cells[best]
    boxes, labels, scores = boxes[best], labels[best], scores[best]
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    kept = np.flatnonzero(_kept(count, images, rank, boxes, labels, overlap))
    borders = np.searchsorted(images[kept], np.arange(count + 1))
    return [
        (Found(boxes[own], labels[own], scores[own]), cells[own])
        for own in (
            kept[first : min(last, first + max_detections)] for first, last in pairwise(borders)
        )
    ]


def _peaks(
    output: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the peaks of a map.

    Args:
        output: (n, h, w, C + 4) float32.
        confidence: Min confidence.

    Returns:
        For each of k peaks: the index of the image, (k,) int64; the row and the column, (k, 2)
        int64; the box in cells, (k, 4) float32; the class, (k,) int32; and the confidence, (k,)
        float32.
    """
    count, height, width, channels = output.shape
    classes = channels - 4
    logits = output[..., :classes]
    # Logits of slightly lower confidences pass, too. The confidence itself is compared below.
    least = np.clip(confidence, 1e-7, 1 - 1e-7)
    images, y, x, labels = np.nonzero(logits >= np.float32(np.log(least / (1 - least)) - 1e-3))
    scores = _sigmoid(logits[images, y, x, labels])
    passed = scores >= np.float32(confidence)
    images, y, x, labels, scores = (it[passed] for it in (images, y, x, labels, scores))
    # Compare each of these cells with its neighbours, in a map with a border.
    bordered = np.full((count, height + 2, width + 2, classes), -np.inf, np.float32)
    bordered[:, 1:-1, 1:-1] = logits
    flat, row = bordered.reshape(-1), (width + 2) * classes
    place = ((images * (height + 2) + y + 1) * (width + 2) + x + 1) * classes + labels
    own, peak = flat[place], np.ones(len(place), bool)
    for down in (-row, 0, row):
        for right in (-classes, 0, classes):
            peak &= own >= flat[place + down + right]
    images, y, x, labels, scores = (it[peak] for it in (images, y, x, labels, scores))
    distances = np.exp(output[images, y, x, classes:].clip(-MAX_LOG, MAX_LOG))
    middle = np.stack([x, y], axis=1).astype(np.float32) + np.float32(0.5)
    boxes = np.concatenate([middle - distances[:, :2], middle + distances[:, 2:]], axis=1)
    return images, np.stack([y, x], axis=1), boxes, labels.astype(np.int32), scores


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.clip(-80, 80)))


def _kept(
    count: int,
    images: np.ndarray,
    rank: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    overlap: float,
) -> np.ndarray:
    """Remove boxes that overlap one of the same class and image with a higher confidence.

    Args:
        count: Number of images.
        images: (k,) index of the image of each box.
        rank: (k,) rank of the confidence in the image, from 0.
        boxes: (k, 4) float.
        labels: (k,) classes.
        overlap: Min overlap with which a box is removed.

    Returns:
        (k,) bool, whether each box is kept.
    """
    if not len(images):
        return np.zeros(0, bool)
    places = int(rank.max()) + 1
    table = np.zeros((count, places, 4), boxes.dtype)
    table[images, rank] = boxes
    classes = np.full((count, places), -1)
    classes[images, rank] = labels
    close = overlaps(table, table) >= overlap
    close &= classes[:, :, np.newaxis] == classes[:, np.newaxis, :]
    kept = classes >= 0
    for place in range(places - 1):
        # A box that is removed does not remove others.
        removing = close[:, place, place + 1 :] & kept[:, place, np.newaxis]
        kept[:, place + 1 :] &= ~removing
    return kept[images, rank]
