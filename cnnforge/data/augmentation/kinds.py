"""The kinds of augmentations: they change single images, mix two, or compose several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from cnnforge.data.augmentation.draws import Draws

Augment = Callable[[np.ndarray, Draws], np.ndarray | tuple[np.ndarray, np.ndarray]]
"""A function of images and `Draws` that returns the changed images. If it moves pixels, it returns
a pair: the changed images and their transforms."""


@runtime_checkable
class Mixing(Protocol):
    """An augmentation that mixes each image with another training image, its partner.

    The targets are mixed by `cnnforge.tasks.Task.mixed`, with the same weights. The partner has had
    the augmentations before this one, with its own random numbers.
    """

    def partners(self, draws: Draws, count: int) -> np.ndarray:
        """Choose the partner of every image.

        Args:
            draws: The random numbers of the N images.
            count: Number of training samples.

        Returns:
            (N,) int64, indices of training samples.
        """
        ...

    def mix(
        self, images: np.ndarray, partners: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mix images with their partners.

        Args:
            images: (N, H, W, C) uint8. The method must not change it.
            partners: (N, H, W, C) uint8, the partner of each image.
            draws: The random numbers of the images, after those that `partners` has drawn.

        Returns:
            Two values: the mixed images, (N, H, W, C) uint8, and the share of the own image in each
            of them, (N,) float32 from 0 to 1.
        """
        ...


@runtime_checkable
class Composing(Protocol):
    """An augmentation that composes each image of several training images, for instance a mosaic.

    An image and its K partners are the parts of the new image. Each part is transformed, and is
    visible in one rectangle. `cnnforge.tasks.Task.transformed` and `cnnforge.tasks.Task.composed`
    do the same with the targets. The partners have had the augmentations before this one, with
    their own random numbers.
    """

    def partners(self, draws: Draws, count: int) -> np.ndarray:
        """Choose the K partners of every image.

        Args:
            draws: The random numbers of the N images.
            count: Number of training samples.

        Returns:
            (N, K) int64, indices of training samples.
        """
        ...

    def compose(
        self, images: np.ndarray, partners: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compose images and their partners.

        Args:
            images: (N, H, W, C) uint8. The method must not change it.
            partners: (N, K, H, W, C) uint8, the partners of each image.
            draws: The random numbers of the images, after those that `partners` has drawn.

        Returns:
            Three values: the composed images, (N, H, W, C) uint8; the transform of each part, first
            of the image, then of its partners, (N, K + 1, 2, 3) float32; and the rectangle in which
            each part is visible, (N, K + 1, 4) float32: left, top, right and bottom in pixels.
        """
        ...


Augmentation = Augment | Mixing | Composing
"""An augmentation of one of the three kinds."""
