"""Compose each image of four training images, for the detection of objects: mosaic."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cnnforge.data import Composing, Draws
from cnnforge.data.files import in_parallel
from cnnforge_plugins.augmentations._arguments import THREADED, number

# The point where the four parts meet is drawn from this part of the image.
_LOW, _HIGH = 0.3, 0.7
_PARTNERS = 3


def mosaic(argument: str | None) -> Composing:
    """Make an augmentation that composes an image of windows of four training images.

    It shows objects at smaller sizes and next to other ones (A. Bochkovskiy et al., "YOLOv4", 2020,
    section 3.3).

    Args:
        argument: Probability that an image is composed, from 0 to 1; by default 0.5.

    Returns:
        The augmentation. For each image, it draws the point where the four parts meet, and for each
        part a scale up to 1 and a window.

    Raises:
        ValueError: The argument is not such a probability.
    """
    return _Mosaic(number(argument, 0.5, 0.0, 1.0, "a probability"))


class _Mosaic:
    def __init__(self, probability: float) -> None:
        self._probability = probability

    def partners(self, draws: Draws, count: int) -> np.ndarray:
        """Draw three partners of every image from all training samples."""
        return np.stack([draws.integers(0, count) for _ in range(_PARTNERS)], axis=1)

    def compose(
        self, images: np.ndarray, partners: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Put a window of each image and of its partners into the four quarters of a new image."""
        count, height, width, channels = images.shape
        changed = draws.uniform() < self._probability
        x, y = (np.rint(draws.uniform(_LOW, _HIGH) * size) for size in (width, height))
        x, y = x.clip(1, max(1, width - 1)), y.clip(1, max(1, height - 1))
        zero, right, bottom = np.zeros(count), np.full(count, width), np.full(count, height)
        regions = np.stack(
            [
                np.stack(part, axis=1)
                for part in (
                    (zero, zero, x, y),
                    (x, zero, right, y),
                    (zero, y, x, bottom),
                    (x, y, right, bottom),
                )
            ],
            axis=1,
        )
        sides = regions[..., 2:] - regions[..., :2]
        # A window fills its quarter, and lies inside of its image.
        least = (sides / [width, height]).max(axis=2)
        share = np.stack([draws.uniform() for _ in range(4)], axis=1)
        scales = least + (1.0 - least) * share
        free = [width, height] - sides / scales[..., np.newaxis]
        offsets = free * np.stack(
            [np.stack([draws.uniform(), draws.uniform()], axis=1) for _ in range(4)], axis=1
        )
        transforms = np.zeros((count, 4, 2, 3))
        transforms[..., 0, 0] = transforms[..., 1, 1] = scales
        transforms[..., 2] = regions[..., :2] - offsets * scales[..., np.newaxis]
        result = images.copy()

        def compose_one(index: int) -> None:
            parts = [images[index], *partners[index]]
            for place, part in enumerate(parts):
                left, top, right, bottom = regions[index, place].astype(int)
                if right <= left or bottom <= top:
                    continue
                (x, y), scale = offsets[index, place], scales[index, place]
                size = (right - left, bottom - top)
                window = (x, y, min(width, x + size[0] / scale), min(height, y + size[1] / scale))
                picture = Image.fromarray(part[:, :, 0] if channels == 1 else part)
                picture = picture.resize(size, Image.Resampling.BILINEAR, window)
                pixels = np.asarray(picture).reshape(size[1], size[0], channels)
                result[index, top:bottom, left:right] = pixels

        indices = np.flatnonzero(changed).tolist()
        if count and images[0].size >= THREADED:
            in_parallel(compose_one, indices)
        else:
            for index in indices:
                compose_one(index)
        # An image that is not composed is its only part.
        transforms[~changed, 0] = [[1, 0, 0], [0, 1, 0]]
        regions[~changed] = 0
        regions[~changed, 0] = [0, 0, width, height]
        return result, transforms.astype(np.float32), regions.astype(np.float32)
