"""Augment training images when they are read. Runs with the same seed get the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cnnforge.data.dataset import Samples
from cnnforge.data.transforms import compose
from cnnforge.errors import CnnforgeError, PluginError, one_line

_STEP = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """Draws random numbers for each of some samples.

    The numbers for a sample depend only on a key and on the index of the sample. They are therefore
    the same for all batch sizes, and after an interruption of training. Key and index are combined
    and hashed with the mixing function of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable
    Pseudorandom Number Generators", 2014).

    Args:
        key: One number for all samples, such as a hash of the seed and the epoch.
        indices: (N,) indices of the samples in the dataset.
    """

    def __init__(self, key: int, indices: np.ndarray) -> None:
        self._words = _mix(np.asarray(indices).astype(np.uint64) * _STEP ^ np.uint64(key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Draw a real number for every sample; each call gives new numbers.

        Args:
            low: Lower bound, inclusive.
            high: Upper bound, exclusive.

        Returns:
            (N,) float64.
        """
        self._words = self._words + _STEP
        return low + (high - low) * (_mix(self._words) >> np.uint64(11)) * 2.0**-53

    def integers(self, low: int, high: int) -> np.ndarray:
        """Draw a whole number for every sample; each call gives new numbers.

        Args:
            low: Lower bound, inclusive.
            high: Upper bound, exclusive.

        Returns:
            (N,) int64.
        """
        return low + np.floor(self.uniform(0.0, high - low)).astype(np.int64)


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


Augment = Callable[[np.ndarray, Draws], np.ndarray | tuple[np.ndarray, np.ndarray]]
"""A function of images and `Draws` that returns the changed images. If it moves pixels, it returns
a pair: the changed images and their transforms."""


class AugmentedSamples:
    """Training samples to which the augmentations of one epoch are applied when they are read.

    Args:
        samples: The stored samples.
        augmentations: Name and function of each augmentation, in the order of application.
        seed: The seed of the run.
        epoch: Index of the epoch, from 0.

    Attributes:
        samples: The stored samples.
        names: Names of the samples.
    """

    def __init__(
        self, samples: Samples, augmentations: Sequence[tuple[str, Augment]], seed: int, epoch: int
    ) -> None:
        self.samples, self.names = samples, samples.names
        self._augmentations = tuple(augmentations)
        self._seed, self._epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.samples)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Read images and apply the augmentations.

        Args:
            indices: (n,) int64, indices into the stored samples.

        Returns:
            (n, H, W, C) uint8.

        Raises:
            PluginError: An augmentation failed, or returned something of another shape or dtype.
        """
        return self.augmented(indices)[0]

    def augmented(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Read images and apply the augmentations. Return two values: images and transforms.

        Args:
            indices: (n,) int64, indices into the stored samples.

        Returns:
            Two values. The augmented images: (n, H, W, C) uint8. The affine transforms from the
            stored to the augmented images (see `cnnforge.data.transforms`): (n, 2, 3) float32, or
            `None` if no augmentation moved pixels.

        Raises:
            PluginError: An augmentation failed, or returned something of another shape or dtype.
        """
        images, moved = self.samples.fetch(indices), None
        for number, (name, augment) in enumerate(self._augmentations):
            entropy = np.random.SeedSequence([self._seed, self._epoch, number])
            draws = Draws(int(entropy.generate_state(1, np.uint64)[0]), indices)
            try:
                changed = augment(images, draws)
            except CnnforgeError:
                raise
            except Exception as error:
                raise PluginError(f"the augmentation {name!r} failed: {one_line(error)}") from error
            if isinstance(changed, tuple) and len(changed) == 2:
                changed, transforms = changed
                _check(name, transforms, f"float32 of shape {(len(images), 2, 3)}", "transforms")
                moved = transforms if moved is None else compose(moved, transforms)
            _check(name, changed, _kind(images), "as many images of the same shape")
            images = changed
        return images, moved


def _check(name: str, returned: object, expected: str, what: str) -> None:
    if _kind(returned) != expected:
        raise PluginError(
            f"the augmentation {name!r} returned {_kind(returned)}, expected {expected}: its "
            f"plugin must return {what}"
        )


def _kind(images: object) -> str:
    if isinstance(images, np.ndarray):
        return f"{images.dtype} of shape {images.shape}"
    return f"a {type(images).__name__}"
