"""Warp images by affine transforms, with bilinear interpolation."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cnnforge.data import translations
from cnnforge.data.files import in_parallel
from cnnforge_plugins.augmentations._arguments import THREADED


def centred(linear: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return transforms that leave the centre of an image where it is.

    Args:
        linear: (N, 2, 2) float64, the linear parts.
        height: Height of the images.
        width: Width of the images.

    Returns:
        (N, 2, 3) float64.
    """
    centre = np.array([width / 2, height / 2])
    return np.concatenate([linear, (centre - linear @ centre)[:, :, np.newaxis]], axis=2)


def warp(images: np.ndarray, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Warp images. What lies outside an image is filled with the nearest pixel of its border.

    Args:
        images: (N, H, W, C) uint8.
        transforms: (N, 2, 3) float64, from the old image to the new one, in the coordinates of
            `cnnforge.data.transforms`. The linear part must be invertible.

    Returns:
        Two values: the warped images, (N, H, W, C) uint8, and the transforms as float32.
    """
    _, height, width, channels = images.shape
    inverse = np.linalg.inv(transforms[:, :, :2])
    offset = -(inverse @ transforms[:, :, 2:])
    # The min and max coordinates of the old image that the corners of the new one come from.
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float).T
    reached = inverse @ corners + offset
    before = np.ceil(np.maximum(-reached.min(axis=2), 0)).astype(int) + 1
    after = reached.max(axis=2) - [width, height]
    after = np.ceil(np.maximum(after, 0)).astype(int) + 1
    moved = (transforms != translations(np.zeros(1), np.zeros(1))).any(axis=(1, 2))
    result = images.copy()

    def warp_one(index: int) -> None:
        # Pillow fills what lies outside with one value, so the border is repeated first.
        (left, top), (right, bottom) = before[index], after[index]
        padded = images[index].take(np.arange(-top, height + bottom), 0, mode="clip")
        padded = padded.take(np.arange(-left, width + right), 1, mode="clip")
        (a, b), (d, e) = inverse[index]
        c, f = offset[index, :, 0] + (left, top)
        picture = Image.fromarray(padded[:, :, 0] if channels == 1 else padded)
        picture = picture.transform(
            (width, height),
            Image.Transform.AFFINE,
            (a, b, c, d, e, f),
            Image.Resampling.BILINEAR,
        )
        result[index] = np.asarray(picture).reshape(height, width, channels)

    indices = np.flatnonzero(moved).tolist()
    if images[0].size >= THREADED:
        in_parallel(warp_one, indices)
    else:
        for index in indices:
            warp_one(index)
    return result, transforms.astype(np.float32)
