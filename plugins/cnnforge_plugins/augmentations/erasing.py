"""Replace a rectangle in images by noise."""

from __future__ import annotations

import numpy as np

from cnnforge.data import Augment, Draws
from cnnforge_plugins.augmentations._arguments import number

_AREA = (0.02, 0.33)


def erasing(argument: str | None) -> Augment:
    """Make an augmentation that replaces a rectangle by noise, as Keras' `RandomErasing`.

    Args:
        argument: Probability P that an image is changed, from 0 to 1; by default 0.25. It is Keras'
            `RandomErasing((P, P))`.

    Returns:
        The augmentation. The height and the width of the rectangle are the image size times the
        square roots of two numbers, each drawn uniformly from 0.02 to 0.33. Every value in it is
        drawn uniformly from 0 to 255.

    Raises:
        ValueError: The argument is not a probability.
    """
    probability = number(argument, 0.25, 0.0, 1.0, "a probability")

    def augment(images: np.ndarray, draws: Draws) -> np.ndarray:
        _, height, width, _ = images.shape
        chosen = draws.uniform() < probability
        first_row, last_row = span(np.sqrt(draws.uniform(*_AREA)), height, draws)
        first_column, last_column = span(np.sqrt(draws.uniform(*_AREA)), width, draws)
        keys = draws.integers(0, 2**53)
        result = images.copy()
        for index in np.flatnonzero(chosen):
            rows = slice(first_row[index], last_row[index])
            columns = slice(first_column[index], last_column[index])
            shape = result[index, rows, columns].shape
            noise = Draws(int(keys[index]), np.arange(np.prod(shape, dtype=int)))
            result[index, rows, columns] = noise.integers(0, 256).reshape(shape)
        return result

    return augment


def span(fractions: np.ndarray, size: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Draw the place of a stretch of pixels in an axis of each image.

    Args:
        fractions: (N,) lengths as fractions of the axis.
        size: Number of pixels of the axis.
        draws: The random numbers of the images.

    Returns:
        Two (N,) int64 arrays: the first pixel, and the one after the last.
    """
    # A pixel belongs to the stretch if its centre is inside.
    lengths = fractions * size
    starts = draws.uniform() * (size - lengths) - 0.5
    return np.ceil(starts).astype(np.int64), np.ceil(starts + lengths).astype(np.int64)
