"""Scenes of 128x128 pixels with 1 to 6 emoji on soft spots of colour, among bars and ellipses.

The emoji are those of the dataset `emoji`, and their groups are the classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cnnforge.data import DataOptions, Dataset, stratified_split
from cnnforge_plugins.datasets.emoji import SPLIT_SEED, draw_emoji
from cnnforge_plugins.detection_data._scenes import Sprites, parse_count, scenes_dataset

_NAME = "emoji_in_scenes"
# The pictures are reduced to half of their size, as objects have 18 to 56 pixels.
_SIDE = 64


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Make scenes of emoji: new ones for training in every epoch, 300 for validation.

    80 % of the emoji of each class are in the scenes for training, and the others in those for
    validation and for the test, each in one of them.

    Args:
        argument: Number of training scenes in an epoch; `None` means 8,000.
        options: Options of the dataset. The training scenes depend on `seed`, the others do not.

    Returns:
        The dataset. Its classes are the groups of the emoji.

    Raises:
        UsageError: If the argument is not such a number, or the size of the images is too small.
        DataError: If the font or the list of emoji is not installed.
    """
    count = parse_count(_NAME, argument)
    drawn = draw_emoji(None)
    classes = tuple(dict.fromkeys(each.group for each in drawn.emoji))
    labels = np.array([classes.index(each.group) for each in drawn.emoji], np.int32)
    sprites = _sprites(drawn.pictures, drawn.on_black(), labels)
    train, held_out = stratified_split(labels, 0.2, SPLIT_SEED)
    halves = [held_out[half] for half in stratified_split(labels[held_out], 0.5, SPLIT_SEED)]
    dataset = scenes_dataset(
        _NAME if argument is None else f"{_NAME}:{count}",
        count,
        classes,
        (sprites.some(train), sprites.some(halves[0]), sprites.some(halves[1])),
        options,
    )
    return replace(dataset, skipped=drawn.skipped)


def _sprites(on_white: np.ndarray, on_black: np.ndarray, labels: np.ndarray) -> Sprites:
    """Find opacity and colours from pictures on white and on black, and reduce them."""
    alpha = np.empty((len(labels), _SIDE, _SIDE), np.uint8)
    colors = np.empty((len(labels), _SIDE, _SIDE, 3), np.uint8)
    for number, (white, black) in enumerate(zip(on_white, on_black, strict=True)):
        light, dark = _halved(white), _halved(black)
        opaque = (255 - (light - dark).max(axis=2, keepdims=True)).clip(0, 255)
        # Transparent pixels take the mean colour, so that edges do not get a dark line.
        total = max(float(opaque.sum()), 1.0)
        mean = (dark.sum(axis=(0, 1), keepdims=True) * 255 / total).clip(0, 255)
        own = (dark * 255 / np.maximum(opaque, 1)).clip(0, 255)
        colors[number] = np.where(opaque >= 1, own, mean).round()
        alpha[number] = opaque[..., 0].round()
    return Sprites(alpha, colors, labels)


def _halved(image: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels: float32."""
    rows = image[::2].astype(np.float32) + image[1::2]
    return (rows[:, ::2] + rows[:, 1::2]) / 4
