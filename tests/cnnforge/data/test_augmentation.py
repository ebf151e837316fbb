"""Chance that depends on the seed, the epoch and the sample, and on nothing else."""

import numpy as np
import pytest

from cnnforge.data import ArraySamples, AugmentedSamples, Draws
from cnnforge.errors import PluginError, UsageError

IMAGES = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2, 1)
SAMPLES = ArraySamples(IMAGES, np.zeros(20, np.int32), [str(number) for number in range(20)])


def add(images, draws):
    return images + draws.integers(
        0,
        100,
    )[:, None, None, None].astype(np.uint8)


def augmented(*augmentations, seed=0, epoch=0):
    return AugmentedSamples(SAMPLES, [("acme/it", it) for it in augmentations], seed, epoch)


def test_a_sample_gets_the_same_whatever_is_read_with_it():
    whole = augmented(add, add).fetch(np.arange(20))
    for part in ([3], [7, 3, 0], [19, 18], list(range(5, 20))):
        np.testing.assert_array_equal(augmented(add, add).fetch(np.array(part)), whole[part])


def test_seed_epoch_sample_and_place_count():
    first = augmented(add).fetch(np.arange(20)) - IMAGES
    assert len(np.unique(first[:, 0, 0, 0])) > 10
    for other in (augmented(add, seed=1), augmented(add, epoch=1)):
        assert ((other.fetch(np.arange(20)) - IMAGES) != first).mean() > 0.9
    second = augmented(lambda images, draws: images, add).fetch(np.arange(20)) - IMAGES
    assert (second != first).mean() > 0.9


def test_it_is_the_samples_otherwise():
    it = augmented(add)
    assert len(it) == 20
    assert it.samples is SAMPLES
    assert it.names is SAMPLES.names
    assert IMAGES[3, 0, 0, 0] == 12


def test_draws_are_uniform_and_independent():
    draws = Draws(2**64 - 1, np.arange(50_000))
    first, second = draws.uniform(), draws.uniform()
    for values in (first, second):
        assert 0 <= values.min() < values.max() < 1
        counts = np.histogram(values, 50, (0, 1))[0]
        assert abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02
    numbers = Draws(5, np.arange(5_000)).integers(-2, 3)
    assert numbers.dtype == np.int64
    assert np.unique(numbers).tolist() == [-2, -1, 0, 1, 2]
    assert np.ptp(Draws(5, np.arange(9)).uniform(2, 2)) == 0


def refuse(images, draws):
    raise UsageError("as it is")


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (lambda images, draws: 1 / 0, PluginError, "'acme/it' failed: ZeroDivisionError"),
        (lambda images, draws: None, PluginError, "returned a NoneType, expected uint8 of shape"),
        (lambda images, draws: images[:1], PluginError, r"\(1, 2, 2, 1\), expected uint8 of .*\(3"),
        (lambda images, draws: images / 2, PluginError, "returned float64"),
        (refuse, UsageError, "as it is"),
    ],
    ids=["raises", "none", "fewer", "floats", "message"],
)
def test_an_augmentation_that_fails_is_named(augment, error, message):
    with pytest.raises(error, match=message):
        augmented(augment).fetch(np.arange(3))
