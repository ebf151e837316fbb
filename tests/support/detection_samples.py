"""Make samples with boxes for the tests of detection."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from cnnforge.tasks.detection.coco import Truth
from cnnforge.tasks.detection.decoding import Found


def samples(
    images: int, classes: int = 3, size: tuple[int, int] = (32, 48), seed: int = 0, most: int = 5
) -> Any:
    """Return samples with up to `most` objects each; all originals have the model's size."""
    random = np.random.default_rng(seed)
    height, width = size
    boxes, labels, crowd = [], [], []
    for _ in range(images):
        count = int(random.integers(0, most + 1))
        low = random.uniform(0, 0.7, (count, 2)) * [width, height]
        high = low + 2 + random.uniform(0, 1, (count, 2)) * ([width - 2, height - 2] - low)
        boxes.append(np.concatenate([low, high], axis=1))
        labels.append(random.integers(0, classes, count).astype(np.int32))
        crowd.append(random.random(count) < 0.1)
    return Samples(boxes, labels, crowd, np.tile(np.array(size), (images, 1)))


class Samples(SimpleNamespace):
    """Samples with objects, whose images are gray."""

    def __init__(self, boxes: Any, labels: Any, crowd: Any, sizes: np.ndarray) -> None:
        names = [str(number) for number in range(len(boxes))]
        super().__init__(boxes=boxes, labels=labels, crowd=crowd, sizes=sizes, names=names)

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        return np.full((len(indices), *self.sizes[0], 1), 90, np.uint8)


def one(
    *boxes: tuple[float, ...], labels: Any = 0, crowd: Any = False, size: Any = (32, 48)
) -> Any:
    """Return one sample with these boxes."""
    count = len(boxes)
    return Samples(
        [np.array(boxes, np.float64).reshape(-1, 4)],
        [np.broadcast_to(np.array(labels, np.int32), (count,))],
        [np.broadcast_to(np.array(crowd), (count,))],
        np.array([size]),
    )


def judged(
    seed: int, images: int = 8, classes: int = 4
) -> tuple[list[Truth], list[Found], np.ndarray, int]:
    """Return true objects and detections near them, with ties, crowds and empty images."""
    random = np.random.default_rng(seed)
    truth, found, sizes = [], [], []
    for _ in range(images):
        height, width = (int(side) for side in random.integers(20, 400, 2))
        count = int(random.integers(0, 9))
        low = random.uniform(0, 1, (count, 2)) * [width, height]
        extent = random.uniform(0, 1, (count, 2)) ** 2 * [width, height] + 1
        boxes = np.concatenate([low, low + extent], axis=1)
        labels = random.integers(0, classes, count).astype(np.int32)
        truth.append(Truth(boxes, labels, random.random(count) < 0.15))
        chosen = random.integers(0, max(count, 1), random.integers(0, 15) if count else 0)
        near = boxes[chosen] + random.normal(0, 3, (len(chosen), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.5)
        same = random.random(len(chosen)) < 0.8
        guessed = np.where(same, labels[chosen], random.integers(0, classes, len(chosen)))
        scores = np.round(random.random(len(chosen)), 1).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        found.append(Found(near[order], guessed[order].astype(np.int32), scores[order]))
        sizes.append((height, width))
    return truth, found, np.array(sizes), classes
