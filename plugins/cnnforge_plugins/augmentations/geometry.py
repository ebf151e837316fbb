"""Augmentations that move pixels."""

from __future__ import annotations

import numpy as np

from cnnforge.data import Augment, Draws


def shift(argument: str | None) -> Augment:
    """Make a function that moves images by whole pixels; what comes in repeats the border.

    Args:
        argument: By how many pixels at the most, in each direction; 2 without.

    Returns:
        The function.

    Raises:
        ValueError: The argument is no such number.
    """
    if argument is not None and not (argument.isascii() and argument.isdigit() and int(argument)):
        raise ValueError(f"expected a number of pixels, 1 or more, got {argument!r}")
    most = 2 if argument is None else int(argument)

    def augment(images: np.ndarray, draws: Draws) -> np.ndarray:
        _, height, width, _ = images.shape
        down, right = draws.integers(-most, most + 1), draws.integers(-most, most + 1)
        rows = np.clip(np.arange(height) - down[:, np.newaxis], 0, height - 1)
        columns = np.clip(np.arange(width) - right[:, np.newaxis], 0, width - 1)
        numbers = np.arange(len(images))[:, np.newaxis, np.newaxis]
        return images[numbers, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]

    return augment


def flip(argument: str | None) -> Augment:
    """Make a function that mirrors every other image, by chance, left to right.

    Args:
        argument: None is taken.

    Returns:
        The function.

    Raises:
        ValueError: There is an argument.
    """
    if argument is not None:
        raise ValueError(f"it takes no argument, got {argument!r}")

    def augment(images: np.ndarray, draws: Draws) -> np.ndarray:
        mirrored = draws.uniform() < 0.5
        return np.where(mirrored[:, np.newaxis, np.newaxis, np.newaxis], images[:, :, ::-1], images)

    return augment
