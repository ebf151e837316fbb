"""Check the augmentations that a plugin declares."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from cnnforge.data import (
    AugmentedSamples,
    Composing,
    DataOptions,
    Draws,
    Mixing,
    Samples,
    dataset_from_arrays,
)
from cnnforge.data.transforms import transform_points
from cnnforge.errors import CnnforgeError
from cnnforge.plugin import AugmentationSpec
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.testing.cases import Check
from cnnforge.testing.declared.making import make

_SHAPES = ((24, 24, 1), (17, 30, 3))
_COUNT = 24
# The max distance in pixels between the place where a transform moves a spot and the place where
# the spot is found in the augmented image. Rounding and interpolation move it by less.
_MAX_DISTANCE = 1.0
_SPOT_RADIUS = 1.5


def augmentation_checks(
    augmentation: str | AugmentationSpec,
    plugins: Plugins | None = None,
    *,
    argument: str | None = None,
) -> list[Check]:
    """List the checks of an augmentation.

    Args:
        augmentation: The name of a declared augmentation, qualified or short; or its spec.
        plugins: Plugins that declare the augmentation; by default the installed ones.
        argument: Text for the argument of `make`, as after the colon in `--augment NAME:ARGUMENT`.

    Returns:
        The checks.

    Raises:
        UnknownNameError: No plugin declares such an augmentation.
        AmbiguousNameError: Several plugins declare such an augmentation.
    """
    plugins = plugins or discover()
    spec = plugins.augmentations[augmentation] if isinstance(augmentation, str) else augmentation
    targets = Check("targets", "", partial(_targets, spec, argument))
    checks = [targets]
    for shape in _SHAPES:
        case, before = "x".join(map(str, shape)), targets
        # Each check depends on the one before it, so that a mistake is reported once.
        for run in (_shapes, _pure, _transforms):
            check = partial(run, spec, argument, shape)
            before = Check(run.__name__.strip("_"), case, check, (before,))
            checks.append(before)
    return checks


def _make(spec: AugmentationSpec, argument: str | None) -> Any:
    return make(
        spec,
        argument,
        lambda made: callable(made) or isinstance(made, Mixing | Composing),
        "a function of images and draws, or an object with the methods `partners` and `mix`, or "
        "`partners` and `compose`",
    )


def _targets(spec: AugmentationSpec, argument: str | None) -> str:
    """Require that `make` returns a function, or an object of the other kinds."""
    made = _make(spec, argument)
    return made if isinstance(made, str) else ""


def _images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (_COUNT, *shape)).astype(np.uint8)


def _samples(images: np.ndarray) -> Samples:
    options = DataOptions(purpose="prediction")
    labels = np.zeros(len(images), np.int32)
    names = [f"image {number}" for number in range(len(images))]
    return dataset_from_arrays(
        "images", images, labels, names=names, classes=("a",), options=options
    ).train


def _augmented(made: Any, spec: AugmentationSpec, images: np.ndarray, epoch: int) -> Any:
    return AugmentedSamples(_samples(images), [(spec.name, made)], seed=1, epoch=epoch)


def _fetch(samples: Any, indices: np.ndarray) -> np.ndarray:
    try:
        return samples.fetch(indices)
    except CnnforgeError as error:
        raise AssertionError(str(error)) from error


def _shapes(spec: AugmentationSpec, argument: str | None, shape: tuple[int, ...]) -> str:
    """Require results of the right dtype and shape, and that the inputs are not changed.

    One image is a batch too.
    """
    made = _make(spec, argument)
    if isinstance(made, str):
        return "not run"
    images = _images(shape)
    for count in (_COUNT, 1):
        for epoch in range(4):
            _fetch(_augmented(made, spec, images, epoch), np.arange(count))
    if not isinstance(made, Mixing | Composing):
        given = images.copy()
        made(given, Draws(1, np.arange(_COUNT)))
        if not np.array_equal(given, images):
            raise AssertionError(
                "the augmentation changes the images that it gets: change a copy, and return it"
            )
    return ""


def _pure(spec: AugmentationSpec, argument: str | None, shape: tuple[int, ...]) -> str:
    """Require that an image depends only on the seed, the epoch and the sample.

    It must be the same in another batch, in another order, and in a second object of the
    augmentation, with another state of NumPy's own random numbers.
    """
    made = _make(spec, argument)
    if isinstance(made, str):
        return "not run"
    images = _images(shape)
    order = np.random.default_rng(1).permutation(_COUNT)
    for epoch in range(4):
        together = _fetch(_augmented(made, spec, images, epoch), np.arange(_COUNT))
        again = np.empty_like(together)
        samples = _augmented(_make(spec, argument), spec, images, epoch)
        # An augmentation that uses these numbers gives other images now.
        np.random.seed(epoch)
        for part in np.array_split(order, 5):
            again[part] = _fetch(samples, part)
        different = np.flatnonzero((together != again).reshape(_COUNT, -1).any(axis=1))
        if len(different):
            raise AssertionError(
                f"{len(different)} of {_COUNT} images differ if they are augmented again in other "
                "batches: draw all random numbers from `draws`, one for each image in every call, "
                "and keep nothing between calls"
            )
    return ""


def _transforms(spec: AugmentationSpec, argument: str | None, shape: tuple[int, ...]) -> str:
    """Require that a spot in an image is found where the transform of the image moves it."""
    made = _make(spec, argument)
    if isinstance(made, str):
        return "not run"
    if isinstance(made, Mixing | Composing):
        return "it moves no single images"
    height, width, channels = shape
    centre = np.array([0.45 * width, 0.55 * height])
    y, x = np.mgrid[:height, :width] + 0.5
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    spot = 255 * np.exp(-distance / (2 * _SPOT_RADIUS**2))
    images = np.repeat(spot[None, ..., None], channels, 3).repeat(_COUNT, 0).astype(np.uint8)
    result = made(images, Draws(7, np.arange(_COUNT)))
    if not isinstance(result, tuple):
        return "it moves no pixels"
    changed, transforms = result
    moved = transform_points(np.tile(centre, (_COUNT, 1, 1)), transforms)[:, 0]
    compared = 0
    for image, (right, down) in zip(changed, moved, strict=True):
        border = 4 * _SPOT_RADIUS
        if not (border < right < width - border and border < down < height - border):
            continue
        weight = image.astype(np.float64).sum(axis=2)
        weight = np.where(weight > 0.3 * weight.max(), weight, 0)
        found = np.array([(weight * x).sum(), (weight * y).sum()]) / max(weight.sum(), 1e-9)
        compared += 1
        if not np.hypot(*(found - (right, down))) <= _MAX_DISTANCE:
            raise AssertionError(
                f"a transform moves the point ({centre[0]:.1f}, {centre[1]:.1f}) to ({right:.1f}, "
                f"{down:.1f}), but the augmentation moved the pixels to ({found[0]:.1f}, "
                f"{found[1]:.1f}): return the transforms from old points (x, y) to new ones"
            )
    return f"{compared} transforms"
