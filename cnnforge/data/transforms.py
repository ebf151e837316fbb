"""Affine transforms of images, and of points in them.

A point is (x, y) in pixels, x to the right and y down. The top left corner of an image is (0, 0).
The centre of the pixel in row r and column c is therefore (c + 0.5, r + 0.5). An image of H rows
and W columns covers x from 0 to W and y from 0 to H. A transform is a (2, 3) float32 matrix
`[A | b]`. It moves the point p of the old image to the point `A p + b` of the new image. Example:
`[[-1, 0, W], [0, 1, 0]]` flips an image of W columns left to right.
"""

from __future__ import annotations

import numpy as np


def translations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return transforms that shift images.

    Args:
        x: (N,) distances to the right, in pixels.
        y: (N,) distances down, in pixels.

    Returns:
        (N, 2, 3) float32.
    """
    transforms = np.zeros((len(x), 2, 3), np.float32)
    transforms[:, 0, 0] = transforms[:, 1, 1] = 1.0
    transforms[:, 0, 2], transforms[:, 1, 2] = x, y
    return transforms


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return one transform per image that has the same effect as two transforms in succession.

    Args:
        first: (N, 2, 3) float32, applied first.
        second: (N, 2, 3) float32, applied second.

    Returns:
        (N, 2, 3) float32.
    """
    linear = second[:, :, :2] @ first[:, :, :2]
    offset = second[:, :, :2] @ first[:, :, 2:] + second[:, :, 2:]
    return np.concatenate([linear, offset], axis=2).astype(np.float32)


def transform_points(points: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Apply the transforms of images to points in them.

    Args:
        points: (N, P, 2) float, P points (x, y) in each of N images.
        transforms: (N, 2, 3) float32.

    Returns:
        (N, P, 2) float32.
    """
    moved = points @ transforms[:, :, :2].transpose(0, 2, 1) + transforms[:, np.newaxis, :, 2]
    return moved.astype(np.float32)
