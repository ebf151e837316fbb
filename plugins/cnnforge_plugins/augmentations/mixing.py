"""Mix images of a batch with other training images: mixup and cutmix."""

from __future__ import annotations

import numpy as np

from cnnforge.data import Draws, Mixing
from cnnforge_plugins.augmentations._arguments import number, per_image, to_uint8
from cnnforge_plugins.augmentations.erasing import span


def mixup(argument: str | None) -> Mixing:
    """Make an augmentation that averages each image with another one, as Keras' `MixUp`.

    H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.

    Args:
        argument: Parameter alpha of the weights, which are drawn from the distribution
            Beta(alpha, alpha), from 0.01 to 100; by default 0.2.

    Raises:
        ValueError: The argument is not such a number.
    """
    return _MixUp(number(argument, 0.2, 0.01, 100.0, "a number"))


def cutmix(argument: str | None) -> Mixing:
    """Make an augmentation that pastes a rectangle of another image, as Keras' `CutMix`.

    S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features", 2019.

    Args:
        argument: Parameter alpha. The share of the own image is drawn from the distribution
            Beta(alpha, alpha), from 0.01 to 100; by default 1, the uniform distribution.

    Raises:
        ValueError: The argument is not such a number.
    """
    return _CutMix(number(argument, 1.0, 0.01, 100.0, "a number"))


class _Mixing:
    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def partners(self, draws: Draws, count: int) -> np.ndarray:
        """Draw the partner of every image from all training samples."""
        return draws.integers(0, count)


class _MixUp(_Mixing):
    def mix(
        self, images: np.ndarray, partners: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray]:
        """Average images and partners."""
        weights = draws.beta(self._alpha, self._alpha).astype(np.float32)
        weight = per_image(weights)
        return to_uint8(images * weight + partners * (1 - weight)), weights


class _CutMix(_Mixing):
    def mix(
        self, images: np.ndarray, partners: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paste a rectangle of each partner."""
        _, height, width, _ = images.shape
        fractions = np.sqrt(1.0 - draws.beta(self._alpha, self._alpha))
        first_column, last_column = span(fractions, width, draws)
        first_row, last_row = span(fractions, height, draws)
        result = images.copy()
        for index, place in enumerate(
            zip(first_row, last_row, first_column, last_column, strict=True)
        ):
            top, bottom, left, right = place
            result[index, top:bottom, left:right] = partners[index, top:bottom, left:right]
        pasted = (last_row - first_row) * (last_column - first_column)
        return result, (1.0 - pasted / (height * width)).astype(np.float32)
