"""Compute the random order in which an epoch visits the training samples."""

from __future__ import annotations

import numpy as np


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of the samples in one epoch.

    The order depends on the arguments only. A resumed run therefore visits the samples in the same
    order, and the order need not be stored.

    Args:
        seed: Random seed of the run, 0 or more.
        epoch: Index of the epoch, from 0.
        count: Number of samples.

    Returns:
        A permutation of 0 .. count-1: (count,) int64.

    Raises:
        ValueError: An argument is negative.
    """
    if min(seed, epoch, count) < 0:
        raise ValueError(
            f"seed, epoch and count must be 0 or more, got seed={seed}, epoch={epoch}, "
            f"count={count}"
        )
    # NumPy guarantees that the raw numbers of a bit generator never change, but not the result of
    # Generator.permutation. Sort by raw numbers, to get the same order in every version of NumPy.
    keys = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(count)
    return np.argsort(keys, kind="stable")
