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
# The pictures are reduced to this size, from which objects of 18 to 56 pixels are drawn.
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
    count, side = len(labels), on_white.shape[1]
    white, black = (each.astype(np.float32) for each in (on_white, on_black))
    alpha = 255 - (white - black).max(axis=3, keepdims=True).clip(0, 255)
    # The mean of a few pixels, with the colours weighted by their opacity.
    step = side // _SIDE
    shape = (count, _SIDE, step, _SIDE, step, -1)
    black, alpha = (each.reshape(shape).mean(axis=(2, 4)) for each in (black, alpha))
    colors = (black * 255 / np.maximum(alpha, 1)).clip(0, 255)
    # Transparent pixels take the mean colour, so that edges do not get a dark line.
    opaque = np.maximum(alpha.sum(axis=(1, 2), keepdims=True), 1)
    mean = (black.sum(axis=(1, 2), keepdims=True) * 255 / opaque).clip(0, 255)
    colors = np.where(alpha >= 1, colors, mean)
    return Sprites(
        np.ascontiguousarray(alpha[..., 0].round().astype(np.uint8)),
        np.ascontiguousarray(colors.round().astype(np.uint8)),
        labels,
    )
