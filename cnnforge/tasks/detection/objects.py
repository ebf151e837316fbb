"""The objects in the images of a batch, which follow the augmentations of the images.

They are arrays by name, with K places for each of n images, so that one call transforms all:

* `boxes`, (n, K, 4) float32: `x1 y1 x2 y2` in pixels of the model's image.
* `labels`, (n, K) int32: index of the class; -1 in a place without an object.
* `crowd`, (n, K) bool: whether the box contains many objects of the class.
* `visible`, (n, K) float32: the share of the object that is visible, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnforge.data import letterbox
from cnnforge.tasks.detection.boxes import areas, clipped, transformed

Objects = Mapping[str, np.ndarray]

_MIN_VISIBLE = 0.25
_MIN_SIDE = 1.0


def objects_of(samples: Any, indices: np.ndarray, image_size: tuple[int, int]) -> Objects:
    """Return the objects in some samples.

    Args:
        samples: Samples with the attributes `boxes`, `labels`, `crowd` and `sizes`.
        indices: (n,) int64, indices into `samples`.
        image_size: Height and width of the model's images.

    Returns:
        The objects; K is the max number in these samples, at least 1.
    """
    counts = [len(samples.labels[index]) for index in indices]
    places = len(indices), max([1, *counts])
    boxes = np.zeros((*places, 4), np.float32)
    labels = np.full(places, -1, np.int32)
    crowd = np.zeros(places, bool)
    for row, (index, count) in enumerate(zip(indices, counts, strict=True)):
        if count:
            size = samples.sizes[index]
            placement = letterbox((size[0], size[1]), image_size)
            boxes[row, :count] = placement.to_model(samples.boxes[index])
            labels[row, :count] = samples.labels[index]
            crowd[row, :count] = samples.crowd[index]
    return {
        "boxes": boxes,
        "labels": labels,
        "crowd": crowd,
        "visible": np.ones(places, np.float32),
    }


def moved(objects: Objects, transforms: np.ndarray, image_size: tuple[int, int]) -> Objects:
    """Transform objects with their images, and clip them to the images.

    An object is dropped if less than a quarter of it is visible, or if a side of its box becomes
    shorter than one pixel.

    Args:
        objects: The objects.
        transforms: (n, 2, 3) float32, the transforms of the images.
        image_size: Height and width of the model's images.
    """
    height, width = image_size
    image = np.array([0, 0, width, height], np.float32)
    return _cut({**objects, "boxes": transformed(objects["boxes"], transforms)}, image)


def composed(parts: Sequence[Objects], regions: np.ndarray) -> Objects:
    """Put the objects in the parts of images together. Objects are dropped as by `moved`.

    Args:
        parts: The objects in each part, transformed.
        regions: (n, parts, 4) float32, the rectangle in which each part is visible.
    """
    cut = [_cut(part, regions[:, number, np.newaxis]) for number, part in enumerate(parts)]
    joined = {name: np.concatenate([part[name] for part in cut], axis=1) for name in cut[0]}
    # Move the places without objects to the end, and remove those that no image needs.
    there = joined["labels"] >= 0
    order = np.argsort(~there, axis=1, kind="stable")[:, : max(1, there.sum(axis=1).max(initial=1))]
    return {
        name: np.take_along_axis(
            array, order if array.ndim == 2 else order[..., np.newaxis], axis=1
        )
        for name, array in joined.items()
    }


def _cut(objects: Objects, regions: np.ndarray) -> Objects:
    """Clip objects to regions, and drop those of which too little is left."""
    boxes = clipped(objects["boxes"], regions)
    whole = areas(objects["boxes"])
    share = np.divide(areas(boxes), whole, out=np.zeros_like(whole), where=whole > 0)
    visible = objects["visible"] * share
    there = (visible >= _MIN_VISIBLE) & (
        (boxes[..., 2:] - boxes[..., :2]).min(axis=-1) >= _MIN_SIDE
    )
    return {
        "boxes": boxes,
        "labels": np.where(there, objects["labels"], np.int32(-1)),
        "crowd": objects["crowd"],
        "visible": visible,
    }
