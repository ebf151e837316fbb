"""The order of the samples."""

import hashlib

import numpy as np
import pytest

from cnnforge.training import order


def test_it_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    first = order(0, 0, 100)
    assert sorted(first) == list(range(100))
    np.random.default_rng(5).random(10)
    np.testing.assert_array_equal(order(0, 0, 100), first)
    for seed, epoch in ((0, 1), (1, 0)):
        assert order(seed, epoch, 100).tolist() != first.tolist()


def test_it_is_the_same_on_every_machine_and_with_every_numpy() -> None:
    found = order(7, 3, 1000).astype("<i8").tobytes()
    assert hashlib.sha256(found).hexdigest()[:16] == "158cd891ddfebf4b"


def test_each_place_is_as_likely_as_another() -> None:
    places = np.array([order(0, epoch, 8) for epoch in range(4000)])
    counts = np.array([np.bincount(column, minlength=8) for column in places.T])
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


def test_small_counts() -> None:
    assert order(0, 0, 0).tolist() == []
    assert order(0, 0, 1).tolist() == [0]


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (0, -1, 1), (0, 0, -1)])
def test_negative_numbers_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        order(*arguments)
