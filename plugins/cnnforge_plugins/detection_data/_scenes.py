"""Samples that are scenes, made when they are needed, and datasets of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cnnforge.data import (
    DataOptions,
    Dataset,
    DetectionArrays,
    dataset_from_box_arrays,
    printable,
)
from cnnforge.errors import UsageError
from cnnforge_plugins.detection_data._scene_kernel import MAX_OBJECTS, make_scenes

SCENES = 8000
"""Number of training scenes in an epoch, if the reference gives none."""
HELD_OUT = 300
"""Number of scenes for validation, and for the test."""
SIDE = 128
"""Height and width of a scene in pixels."""

# Streams of random numbers, and their names.
_WORDS = ("training", "validation", "test")
_TRAIN, _VALIDATION, _TEST = 0, 1, 2
_MIN_SIDE, _MAX_SIDE, _MAX_SCENES = 64, 4096, 1_000_000
# A scene of 128 pixels has objects of 18 to 56 pixels, before their borders are cut off.
_MIN_OBJECT, _MAX_OBJECT = 18, 0.44
# Changes if the scenes change, so that a run of an older version is not resumed with other scenes.
_VERSION = 1


class Sprites(NamedTuple):
    """Pictures of objects.

    Attributes:
        alpha: (M, S, S) uint8: their opacity.
        colors: (M, S, S, C) uint8: their colours; (M, S, S, 0) if each has one brightness.
        labels: (M,) int32: indices of their classes.
    """

    alpha: np.ndarray
    colors: np.ndarray
    labels: np.ndarray

    def some(self, rows: np.ndarray) -> Sprites:
        """Return some of the pictures.

        Args:
            rows: (n,) indices.
        """
        return Sprites(*(np.ascontiguousarray(each[rows]) for each in self))


class Scenes:
    """Samples with boxes that are made from objects: new ones for each epoch.

    A scene depends on the seed, the stream, the epoch and its index. `fetch` makes the scenes that
    it returns, and none is kept. The attributes `boxes`, `labels`, `crowd` and `sizes` are those of
    `cnnforge.data.Objects`.

    Args:
        name: Name of the dataset, for the names of the samples.
        sprites: The pictures of the objects.
        count: Number of scenes.
        shape: (H, W, C) of a scene; C is 1 or 3.
        seed: Random seed.
        stream: Number that differs for training, validation and test.
        epoch: Index of the epoch.
    """

    def __init__(
        self,
        name: str,
        sprites: Sprites,
        count: int,
        shape: tuple[int, int, int],
        seed: int,
        stream: int,
        epoch: int = 0,
    ) -> None:
        self._name, self._sprites, self._shape = name, sprites, shape
        self._numbers = (seed, stream, epoch)
        self.names: Sequence[str] = [f"{name} {_WORDS[stream]} scene {row}" for row in range(count)]
        self.sizes = np.full((count, 2), shape[:2], np.int64)

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.names)

    def at_epoch(self, epoch: int) -> Scenes:
        """Return the scenes of an epoch.

        Args:
            epoch: Index of the epoch, from 0.
        """
        seed, stream, _ = self._numbers
        return Scenes(self._name, self._sprites, len(self), self._shape, seed, stream, epoch)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Make scenes.

        Args:
            indices: (B,) integers in 0..N-1, in any order; they may repeat.

        Returns:
            (B, H, W, C) uint8.
        """
        return self._make(np.asarray(indices, np.int64), with_pixels=True)[0]

    @property
    def boxes(self) -> list[np.ndarray]:
        """The boxes in each scene: N arrays (k, 4) float64."""
        return self._objects[0]

    @property
    def labels(self) -> list[np.ndarray]:
        """The classes of the objects in each scene: N arrays (k,) int32."""
        return self._objects[1]

    @cached_property
    def crowd(self) -> list[np.ndarray]:
        """Whether an object is a crowd, which none is: N arrays (k,) bool."""
        return [np.zeros(len(each), bool) for each in self.labels]

    @cached_property
    def _objects(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # All boxes of an epoch take as much time as the pixels of some batches, and little memory.
        _, boxes, labels, counts = self._make(np.arange(len(self)), with_pixels=False)
        ends = counts.tolist()
        return (
            [own[:end] for own, end in zip(boxes, ends, strict=True)],
            [own[:end] for own, end in zip(labels, ends, strict=True)],
        )

    def _make(
        self, rows: np.ndarray, *, with_pixels: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        height, width, channels = self._shape
        own = 3 if self._sprites.colors.shape[3] else 1
        pixels = np.empty((len(rows) if with_pixels else 0, height, width, own), np.uint8)
        boxes = np.zeros((len(rows), MAX_OBJECTS, 4), np.float64)
        labels = np.zeros((len(rows), MAX_OBJECTS), np.int32)
        counts = np.zeros(len(rows), np.int64)
        largest = max(_MIN_OBJECT, int(min(height, width) * _MAX_OBJECT))
        make_scenes(
            np.array(self._numbers, np.int64),
            rows,
            self._sprites.alpha,
            self._sprites.colors,
            self._sprites.labels,
            np.array([_MIN_OBJECT, largest, height, width], np.int64),
            own == 3,
            pixels,
            boxes,
            labels,
            counts,
        )
        if own < channels:
            pixels = np.repeat(pixels, channels, axis=3)
        elif own > channels:
            # The luma of ITU-R 601, which is the one for image files.
            gray = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
            pixels = gray.round().astype(np.uint8)[..., None]
        return pixels, boxes, labels, counts


def parse_count(name: str, argument: str | None) -> int:
    """Return the number of training scenes in an epoch that an argument gives.

    Args:
        name: Name of the dataset, for messages.
        argument: The argument; `None` means `SCENES`.

    Raises:
        UsageError: If it is not a whole number, or too small or too large.
    """
    if argument is None:
        return SCENES
    if (
        not argument.isascii()
        or not argument.isdigit()
        or not (int(argument[:9]) >= 2 and int(argument[:9]) <= _MAX_SCENES and len(argument) < 9)
    ):
        raise UsageError(
            f"{name} takes the number of training scenes in an epoch, from 2 to {_MAX_SCENES:,}, "
            f"got {printable(argument)!r}: write {name} or {name}:{SCENES}"
        )
    return int(argument)


def scenes_dataset(
    name: str,
    count: int,
    classes: Sequence[str],
    parts: tuple[Sprites, Sprites, Sprites],
    options: DataOptions,
) -> Dataset:
    """Make a dataset of scenes.

    The scenes for validation and for the test do not depend on `options.seed`, so that runs with
    different seeds are compared on the same scenes.

    Args:
        name: Name of the dataset.
        count: Number of training scenes in an epoch.
        classes: The names of the classes.
        parts: The objects in the scenes for training, for validation and for the test.
        options: Options of the dataset. Scenes have the size `options.image_size`, by default
            128x128.

    Returns:
        The dataset. If training is the purpose, `train` differs in every epoch. For inspection it
        has all scenes of the first epoch and those for validation and test, and for other purposes
        the scenes for validation.

    Raises:
        UsageError: If a scene of this size is too small for objects, or too large.
    """
    height, width = options.image_size or (SIDE, SIDE)
    if min(height, width) < _MIN_SIDE or max(height, width) > _MAX_SIDE:
        raise UsageError(
            f"scenes of {height}x{width} pixels have no room for objects or are too large: give "
            f"{_MIN_SIDE} to {_MAX_SIDE} pixels, such as --image-size {SIDE}x{SIDE}"
        )
    has_color = parts[0].colors.shape[3] > 0
    color = {"auto": has_color, "rgb": True, "grayscale": False}[options.color]
    shape = (height, width, 3 if color else 1)
    short = name.partition(":")[0]
    train = Scenes(short, parts[0], count, shape, options.seed, _TRAIN)
    held_out = [
        Scenes(short, part, HELD_OUT, shape, 0, stream)
        for part, stream in ((parts[1], _VALIDATION), (parts[2], _TEST))
    ]
    validation, test = map(_in_memory, held_out)
    identity = repr((_VERSION, short, count, options.seed, shape, tuple(classes))).encode()
    identity += b"".join(
        np.ascontiguousarray(values).tobytes() for part in parts for values in part
    )
    dataset = Dataset(
        name=name,
        classes=tuple(classes),
        train=train,
        validation=validation,
        fingerprint=hashlib.sha256(identity).hexdigest(),
        notes=(f"{count:,} new training scenes in every epoch, from seed {options.seed}",),
        task="detection",
        test=test,
    )
    if options.for_training:
        return dataset
    if options.purpose == "inspection":
        images = [_in_memory(train), validation, test]
        splits = ["train"] * count + ["validation"] * HELD_OUT + ["test"] * HELD_OUT
        return dataset_from_box_arrays(name, _joined(images), classes, options, splits=splits)
    empty = DetectionArrays(validation.images[:0], (), (), ())
    return replace(dataset, train=validation, validation=empty, notes=())


def _in_memory(scenes: Scenes) -> DetectionArrays:
    images = scenes.fetch(np.arange(len(scenes)))
    return DetectionArrays(images, scenes.boxes, scenes.labels, scenes.names)


def _joined(parts: Sequence[DetectionArrays]) -> DetectionArrays:
    return DetectionArrays(
        np.concatenate([part.images for part in parts]),
        [own for part in parts for own in part.boxes],
        [own for part in parts for own in part.labels],
        [own for part in parts for own in part.names],
    )
