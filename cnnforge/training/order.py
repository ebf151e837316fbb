"""The order in which an epoch visits the samples."""

from __future__ import annotations

import numpy as np


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of the samples in one epoch: a pure function of its arguments.

    A resumed run therefore sees what the interrupted one would have seen, with nothing to store.

    Args:
        seed: The seed of the run, 0 or more.
        epoch: The epoch, from 0.
        count: How many samples there are.

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
    # Philox over (seed, epoch): NumPy promises the stream of a bit generator, not the result of
    # Generator.permutation; sorting raw 64-bit keys keeps the order the same in every NumPy.
    keys = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(count)
    return np.argsort(keys, kind="stable")
