"""Split samples into training and validation, in the same way on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into training and validation samples, every class in the same proportion.

    The result depends only on the arguments. Samples are chosen by the raw numbers of a bit
    generator, which are the same in every version of NumPy. `Generator.permutation` may change in
    newer versions (NEP 19), so it is not used.

    Args:
        labels: (N,) integers from 0 up.
        fraction: Fraction of every class that is kept for validation, between 0 and 1.
        seed: Random seed, a whole number from 0 up.

    Returns:
        Two ascending int64 arrays: the indices of the training samples, and those of the validation
        samples. Every sample is in one of them. A class with two or more samples has at least one
        sample in each. If a class has only one sample, this is a training sample.
    """
    labels = np.asarray(labels)
    kept = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        keys = np.random.PCG64([seed, int(label)]).random_raw(len(rows))
        # Round 0.5 up in all cases. round() would round 0.5 down and 1.5 up.
        count = int(len(rows) * fraction + 0.5)
        count = min(max(count, 1), len(rows) - 1)
        kept.append(rows[np.argsort(keys, kind="stable")[:count]])
    validation = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    chosen = np.zeros(len(labels), bool)
    chosen[validation] = True
    return np.flatnonzero(~chosen), validation.astype(np.int64)


def singleton_classes_note(labels: np.ndarray, classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note for the user with the names of the classes that have a single sample.

    `stratified_split` uses such a sample for training, so validation lacks these classes.

    Args:
        labels: (N,) integers, indices into `classes`.
        classes: The names of the classes.

    Returns:
        A tuple of one note; empty if there is no such class.
    """
    counts = np.bincount(labels, minlength=len(classes))
    single = [repr(name) for name, count in zip(classes, counts, strict=True) if count == 1]
    if not single:
        return ()
    shown = ", ".join(single[:5]) + (f" and {len(single) - 5} more" if len(single) > 5 else "")
    return (f"a single image of the class {shown}: used for training, not for validation",)
