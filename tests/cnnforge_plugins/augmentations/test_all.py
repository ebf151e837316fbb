"""Every built-in augmentation: what it depends on, strength zero, its arguments."""

from importlib import import_module

import numpy as np
import pytest

from cnnforge.data import ArraySamples, AugmentedSamples
from cnnforge_plugins.manifest import cnnforge_augmentations

SPECS = {spec.name: spec for spec in cnnforge_augmentations()}
# Arguments for which an image stays as it is.
IDENTITY = {
    "shift": "0.0",
    "crop": "1",
    "rotate": "0",
    "zoom": "0",
    "brightness": "0",
    "contrast": "0",
    "saturation": "0",
    "hue": "0",
    "erasing": "0",
    "randaugment": "0",
}
COUNT = 40


def made(name: str, argument: str | None = None):
    module, _, function = SPECS[name].target.partition(":")
    return getattr(import_module(module), function)(argument)


def images(channels: int, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    return (
        np.random.default_rng(channels).integers(0, 256, (COUNT, *size, channels)).astype(np.uint8)
    )


def read(stored: np.ndarray, augment, indices=None, seed=0, epoch=0) -> np.ndarray:
    count = len(stored)
    samples = ArraySamples(stored, np.zeros(count, np.int32), list(map(str, range(count))))
    augmented = AugmentedSamples(samples, [("it", augment)], seed, epoch)
    return augmented.fetch(np.arange(count) if indices is None else np.array(indices))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SPECS)
def test_an_image_depends_on_seed_epoch_and_sample_only(name, channels):
    stored, augment = images(channels), made(name)
    before = stored.copy()
    whole = read(stored, augment)
    np.testing.assert_array_equal(stored, before)
    for part in ([3], [7, 3, 0], list(range(5, 20)), [39, 38]):
        np.testing.assert_array_equal(read(stored, augment, part), whole[part])
    if channels == 1 and name in ("saturation", "hue"):
        np.testing.assert_array_equal(whole, stored)
        return
    assert (whole != stored).any(axis=(1, 2, 3)).mean() > 0.05
    for other in (read(stored, augment, seed=1), read(stored, augment, epoch=1)):
        assert (other != whole).any(axis=(1, 2, 3)).mean() > 0.05


@pytest.mark.parametrize("name", ["crop", "contrast", "hue", "randaugment"])
def test_large_images_too(name):
    stored, augment = images(3, (70, 80))[:6], made(name)
    whole = read(stored, augment)
    np.testing.assert_array_equal(read(stored, augment, [4, 1]), whole[[4, 1]])
    assert whole.dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", IDENTITY)
def test_strength_zero_leaves_images_as_they_are(name, channels):
    stored = images(channels)
    np.testing.assert_array_equal(read(stored, made(name, IDENTITY[name])), stored)


@pytest.mark.parametrize("name", sorted(SPECS.keys() - {"shift", "flip"}))
def test_the_summary_gives_an_argument_that_works(name):
    (example,) = (
        word.strip(",").partition(":")[2]
        for word in SPECS[name].summary.split()
        if word.startswith(f"{name}:")
    )
    # It is the default.
    stored = images(3)
    np.testing.assert_array_equal(read(stored, made(name, example)), read(stored, made(name)))


@pytest.mark.parametrize("name", SPECS)
def test_a_wrong_argument_is_refused(name):
    with pytest.raises(ValueError, match="got 'a lot'"):
        made(name, "a lot")
