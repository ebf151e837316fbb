"""Augment training images when they are read. Runs with the same seed get the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cnnforge.data.augmentation.draws import Draws
from cnnforge.data.augmentation.kinds import Augmentation, Composing, Mixing
from cnnforge.data.dataset import Samples
from cnnforge.data.transforms import compose
from cnnforge.errors import CnnforgeError, PluginError, one_line

# Images and their targets.
_Read = tuple[np.ndarray, Mapping[str, np.ndarray]]


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

    def composed(
        self, parts: Sequence[Mapping[str, np.ndarray]], regions: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Compose the targets of several samples, as `cnnforge.tasks.Task.composed`."""
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

    def composed(
        self, parts: Sequence[Mapping[str, np.ndarray]], regions: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        return parts[0]


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
        augmentations: Sequence[tuple[str, Augmentation]],
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
            if isinstance(augment, Mixing | Composing):
                targets = targets if moved is None else task.transformed(targets, moved)
                moved = None
                chosen = _called(name, augment.partners, draws, len(self.samples))
                _check_partners(name, augment, chosen, len(images), len(self.samples))
                own, others = (images, targets), self._after(number, chosen.ravel(), task)
                if isinstance(augment, Mixing):
                    changed, targets = _mixed(name, augment, own, others, draws, task)
                else:
                    changed, targets = _composed(name, augment, own, others, draws, task)
            else:
                changed = _called(name, augment, images, draws)
                if _is_tuple(changed, 2):
                    changed, transforms = changed
                    _check(
                        name, transforms, f"float32 of shape {(len(images), 2, 3)}", "transforms"
                    )
                    moved = transforms if moved is None else compose(moved, transforms)
            _check(name, changed, _kind(images), "as many images of the same shape")
            images = changed
        return images, targets if moved is None else task.transformed(targets, moved)


def _mixed(
    name: str, augment: Mixing, own: _Read, others: _Read, draws: Draws, task: TargetFunctions
) -> _Read:
    """Mix images and targets with those of their partners."""
    (images, targets), (partners, their_targets) = own, others
    mixed = _called(name, augment.mix, images, partners, draws)
    changed, weights = mixed if _is_tuple(mixed, 2) else (mixed, np.empty(0))
    _check(name, weights, f"float32 of shape {(len(images),)}", "shares of the images")
    return changed, task.mixed(targets, their_targets, weights)


def _composed(
    name: str, augment: Composing, own: _Read, others: _Read, draws: Draws, task: TargetFunctions
) -> _Read:
    """Compose images and targets of their own and those of K partners each."""
    (images, targets), (partners, their_targets) = own, others
    count, more = len(images), len(partners) // max(1, len(images))
    made = _called(
        name, augment.compose, images, partners.reshape(count, more, *images.shape[1:]), draws
    )
    nothing = np.empty(0)
    changed, transforms, regions = made if _is_tuple(made, 3) else (made, nothing, nothing)
    _check(name, transforms, f"float32 of shape {(count, more + 1, 2, 3)}", "transforms of parts")
    _check(name, regions, f"float32 of shape {(count, more + 1, 4)}", "rectangles of parts")
    # The partners of an image are consecutive.
    parts = [targets]
    parts += [
        {key: array[number::more] for key, array in their_targets.items()} for number in range(more)
    ]
    moved = [task.transformed(part, transforms[:, number]) for number, part in enumerate(parts)]
    return changed, task.composed(moved, regions)


def _called(name: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of an augmentation; convert its exceptions to a `PluginError`."""
    try:
        return function(*arguments)
    except CnnforgeError:
        raise
    except Exception as error:
        raise PluginError(f"the augmentation {name!r} failed: {one_line(error)}") from error


def _is_tuple(value: Any, size: int) -> bool:
    return isinstance(value, tuple) and len(value) == size


def _check_partners(
    name: str, augment: Mixing | Composing, partners: object, images: int, count: int
) -> None:
    shape = str((images,))
    if isinstance(augment, Composing):
        many = partners.shape[1:] if isinstance(partners, np.ndarray) else ()
        shape = str((images, *many)) if len(many) == 1 else f"({images}, K)"
    _check(name, partners, f"int64 of shape {shape}", "indices of partners")
    assert isinstance(partners, np.ndarray)
    if partners.size and not (partners.min() >= 0 and partners.max() < count):
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
