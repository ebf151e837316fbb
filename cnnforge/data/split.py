"""Which samples are kept for validation: the same ones on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split every class in the same proportion.

    A pure function of its arguments. The order is drawn from a bit generator's raw output, whose
    stream NumPy never changes; that of `Generator.permutation` it may (NEP 19).

    Args:
        labels: (N,) integers from 0 up.
        fraction: Which part of every class is kept for validation, between 0 and 1.
        seed: A whole number from 0 up; another one gives another split.

    Returns:
        The rows for training and those for validation: two ascending int64 arrays that share no
        row and together hold them all. A class of two or more has at least one sample on each
        side; a class of one is in training only.
    """
    labels = np.asarray(labels)
    kept = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        keys = np.random.PCG64([seed, int(label)]).random_raw(len(rows))
        # Rounded half up: round() rounds half to even, so that 5 and 15 would differ in direction.
        count = int(len(rows) * fraction + 0.5)
        count = min(max(count, 1), len(rows) - 1)
        kept.append(rows[np.argsort(keys, kind="stable")[:count]])
    validation = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    chosen = np.zeros(len(labels), bool)
    chosen[validation] = True
    return np.flatnonzero(~chosen), validation.astype(np.int64)


def lonely_classes_note(labels: np.ndarray, classes: Sequence[str]) -> tuple[str, ...]:
    """Say which classes have a single sample, and are therefore in training only.

    Args:
        labels: (N,) integers, indices into `classes`.
        classes: The names of the classes.

    Returns:
        One note, or none where every class has more.
    """
    counts = np.bincount(labels, minlength=len(classes))
    lonely = [repr(name) for name, count in zip(classes, counts, strict=True) if count == 1]
    if not lonely:
        return ()
    shown = ", ".join(lonely[:5]) + (f" and {len(lonely) - 5} more" if len(lonely) > 5 else "")
    return (f"a single image of the class {shown}: it is trained on, and not validated",)
