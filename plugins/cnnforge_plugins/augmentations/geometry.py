"""Augmentations that move pixels."""

from __future__ import annotations

import numpy as np

from cnnforge.data import Augment, Draws, translations


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

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        _, height, width, _ = images.shape
        down, right = draws.integers(-most, most + 1), draws.integers(-most, most + 1)
        rows = np.clip(np.arange(height) - down[:, np.newaxis], 0, height - 1)
        columns = np.clip(np.arange(width) - right[:, np.newaxis], 0, width - 1)
        numbers = np.arange(len(images))[:, np.newaxis, np.newaxis]
        moved = images[numbers, rows[:, :, np.newaxis], columns[:, np.newaxis, :]]
        return moved, translations(right, down)

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

    def augment(images: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        mirrored = draws.uniform() < 0.5
        transforms = translations(np.where(mirrored, images.shape[2], 0), np.zeros(len(images)))
        transforms[mirrored, 0, 0] = -1
        mirrored = mirrored[:, np.newaxis, np.newaxis, np.newaxis]
        return np.where(mirrored, images[:, :, ::-1], images), transforms

    return augment
