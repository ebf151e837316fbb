"""Augment training images when they are read. Runs with the same seed get the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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

    def beta(self, alpha: float, beta: float) -> np.ndarray:
        """Draw a number from a beta distribution for every sample; each call gives new numbers.

        Args:
            alpha: First parameter of the distribution, more than 0.
            beta: Second parameter of the distribution, more than 0.

        Returns:
            (N,) float64, from 0 to 1.
        """
        first, second = self._log_gamma(alpha), self._log_gamma(beta)
        return 1.0 / (1.0 + np.exp(np.clip(second - first, -700.0, 700.0)))

    def _log_gamma(self, shape: float) -> np.ndarray:
        """Draw the logarithm of a number from a gamma distribution with scale 1, (N,) float64.

        The method is that of G. Marsaglia and W. Tsang, "A Simple Method for Generating Gamma
        Variables", 2000.
        """
        self._words = self._words + _STEP
        # The method draws until a number is accepted. A sample that is accepted early must not draw
        # as often as the others of its batch, so each call draws from a stream of its own.
        own = Draws.__new__(Draws)
        own._words = _mix(self._words)
        small = shape < 1.0
        d = shape + small - 1.0 / 3.0
        c = 1.0 / np.sqrt(9.0 * d)
        # For shape < 1, a number for shape + 1 is multiplied by U ** (1 / shape).
        boost = np.log(1.0 - own.uniform()) / shape if small else 0.0
        result = np.full(len(own._words), np.nan)
        while (left := np.isnan(result)).any():
            radius = np.sqrt(-2.0 * np.log(1.0 - own.uniform()))
            normal = radius * np.cos(2.0 * np.pi * own.uniform())
            root = np.maximum(1.0 + c * normal, 1e-100)
            v, log_v = root**3, 3.0 * np.log(root)
            bound = 0.5 * normal**2 + d * (1.0 - v + log_v)
            accepted = left & (np.log(1.0 - own.uniform()) < bound)
            result[accepted] = (np.log(d) + log_v)[accepted]
        return result + boost


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


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


class TargetFunctions(Protocol):
    """The functions of a task that make targets follow the augmentations of their images."""

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the targets of samples, as `cnnforge.tasks.Task.targets`."""
        ...

    def transformed(
        self, targets: Mapping[str, np.ndarray], transforms: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Transform targets, as `cnnforge.tasks.Task.transformed`."""
        ...

    def mixed(
        self,
        targets: Mapping[str, np.ndarray],
        partners: Mapping[str, np.ndarray],
        weights: np.ndarray,
    ) -> Mapping[str, np.ndarray]:
        """Mix targets with those of other samples, as `cnnforge.tasks.Task.mixed`."""
        ...


class _NoTargets:
    """Functions of targets for images that are read without targets."""

    def targets(self, samples: Samples, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        return {}

    def transformed(
        self, targets: Mapping[str, np.ndarray], transforms: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        return targets

    def mixed(
        self,
        targets: Mapping[str, np.ndarray],
        partners: Mapping[str, np.ndarray],
        weights: np.ndarray,
    ) -> Mapping[str, np.ndarray]:
        return targets


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
        self,
        samples: Samples,
        augmentations: Sequence[tuple[str, Augment | Mixing]],
        seed: int,
        epoch: int,
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
        return self.read(indices, _NoTargets())[0]

    def read(
        self, indices: np.ndarray, task: TargetFunctions
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Read images with their targets, and apply the augmentations to both.

        Args:
            indices: (n,) int64, indices into the stored samples.
            task: The task, which makes the targets follow the images.

        Returns:
            The augmented images, (n, H, W, C) uint8, and their targets, arrays (n, ...) by name.

        Raises:
            PluginError: An augmentation failed, or returned something of another shape or dtype.
        """
        return self._after(len(self._augmentations), indices, task)

    def _after(
        self, count: int, indices: np.ndarray, task: TargetFunctions
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Read images and targets, and apply the first `count` augmentations."""
        images, targets = self.samples.fetch(indices), task.targets(self.samples, indices)
        # The transforms since the targets were last changed. They are applied together: the result
        # of two transforms in succession may be less exact, for instance for boxes.
        moved = None
        for number, (name, augment) in enumerate(self._augmentations[:count]):
            entropy = np.random.SeedSequence([self._seed, self._epoch, number])
            draws = Draws(int(entropy.generate_state(1, np.uint64)[0]), indices)
            if isinstance(augment, Mixing):
                targets = targets if moved is None else task.transformed(targets, moved)
                moved = None
                chosen = _called(name, augment.partners, draws, len(self.samples))
                _check_partners(name, chosen, len(images), len(self.samples))
                partners, their_targets = self._after(number, chosen, task)
                mixed = _called(name, augment.mix, images, partners, draws)
                changed, weights = mixed if _is_pair(mixed) else (mixed, np.empty(0))
                _check(name, weights, f"float32 of shape {(len(images),)}", "shares of the images")
                targets = task.mixed(targets, their_targets, weights)
            else:
                changed = _called(name, augment, images, draws)
                if _is_pair(changed):
                    changed, transforms = changed
                    _check(
                        name, transforms, f"float32 of shape {(len(images), 2, 3)}", "transforms"
                    )
                    moved = transforms if moved is None else compose(moved, transforms)
            _check(name, changed, _kind(images), "as many images of the same shape")
            images = changed
        return images, targets if moved is None else task.transformed(targets, moved)


def _called(name: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of an augmentation; convert its exceptions to a `PluginError`."""
    try:
        return function(*arguments)
    except CnnforgeError:
        raise
    except Exception as error:
        raise PluginError(f"the augmentation {name!r} failed: {one_line(error)}") from error


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _check_partners(name: str, partners: object, images: int, count: int) -> None:
    _check(name, partners, f"int64 of shape {(images,)}", "indices of partners")
    assert isinstance(partners, np.ndarray)
    if images and not (partners.min() >= 0 and partners.max() < count):
        raise PluginError(
            f"the augmentation {name!r} chose the partners {partners.min()}..{partners.max()}, "
            f"expected 0..{count - 1}: its plugin must return indices of training samples"
        )


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
