"""Scenes of 128x128 pixels with 1 to 6 handwritten digits among bars and pieces of digits.

The digits are those of `mnist5k`. Its training digits are in the scenes for training, and its
validation digits in those for validation and for the test, each in one of them.
"""

from __future__ import annotations

import numpy as np

from cnnforge.data import DataOptions, Dataset
from cnnforge_plugins.datasets.mnist5k import load as load_digits
from cnnforge_plugins.detection_data._scenes import Sprites, parse_count, scenes_dataset

_NAME = "digits_in_scenes"


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Make scenes of digits: new ones for training in every epoch, 300 for validation.

    Args:
        argument: Number of training scenes in an epoch; `None` means 8,000.
        options: Options of the dataset. The training scenes depend on `seed`, the others do not.

    Returns:
        The dataset. Its classes are `"0"` to `"9"`.

    Raises:
        UsageError: If the argument is not such a number, or the size of the images is too small.
        DataError: If the file of the digits is missing or damaged.
    """
    count = parse_count(_NAME, argument)
    digits = load_digits(None, DataOptions())
    train, held_out = (_sprites(samples) for samples in (digits.train, digits.validation))
    # The digits are in the order 0, 1, ..., 9, 0, 1, ..., so each class is in both halves.
    rows = np.argsort(held_out.labels, kind="stable").reshape(10, 2, -1)
    halves = [held_out.some(np.sort(rows[:, half].ravel())) for half in (0, 1)]
    return scenes_dataset(
        _NAME if argument is None else f"{_NAME}:{count}",
        count,
        digits.classes,
        (train, halves[0], halves[1]),
        options,
    )


def _sprites(samples) -> Sprites:
    images = samples.images[..., 0]
    return Sprites(images, np.zeros((*images.shape, 0), np.uint8), samples.labels)
