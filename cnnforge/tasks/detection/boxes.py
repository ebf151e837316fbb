"""Compute with boxes `x1 y1 x2 y2` in pixels; x2 and y2 are exclusive ends.

The coordinates are those of `cnnforge.data.transforms`: the left edge of the first pixel is 0.
"""

from __future__ import annotations

import numpy as np

from cnnforge.data import transform_points

# The corners of a box as indices into `x1 y1 x2 y2`.
_CORNERS = [[0, 1], [2, 1], [0, 3], [2, 3]]


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of boxes.

    Args:
        boxes: (..., 4) float.

    Returns:
        (...) float of the same dtype; 0 for a box with a negative width or height.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    return sides[..., 0] * sides[..., 1]


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union (IoU) of each of the first boxes with each of the others.

    Args:
        first: (..., n, 4) float.
        second: (..., m, 4) float.

    Returns:
        (..., n, m) float; 0 for two boxes without area.
    """
    a, b = first[..., :, np.newaxis, :], second[..., np.newaxis, :, :]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    common = width.clip(0) * height.clip(0)
    union = areas(a) + areas(b) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def clipped(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Return the parts of boxes that are in a region.

    Args:
        boxes: (..., 4) float.
        regions: (..., 4) float, the regions as boxes.

    Returns:
        (..., 4) float. A box that is outside has no area.
    """
    low, high = regions[..., :2], regions[..., 2:]
    return np.concatenate([boxes[..., :2].clip(low, high), boxes[..., 2:].clip(low, high)], axis=-1)


def transformed(boxes: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Return the smallest boxes that contain the transformed corners of boxes.

    Args:
        boxes: (n, K, 4) float, K boxes in each of n images.
        transforms: (n, 2, 3) float32, see `cnnforge.data.transforms`.

    Returns:
        (n, K, 4) float32.
    """
    count, objects = boxes.shape[:2]
    corners = transform_points(boxes[..., _CORNERS].reshape(count, -1, 2), transforms)
    corners = corners.reshape(count, objects, 4, 2)
    return np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1)
