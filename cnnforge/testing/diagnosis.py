"""Find a probable cause of the difference between a wrong array and the expected array."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

# A guess explains a wrong result if the root mean square of their difference is at most this share
# of the root mean square of the guess.
_FITS = 1e-3


def diagnose(got: Any, expected: Any) -> str:
    """Describe how a result differs from its reference.

    Args:
        got: The result, any shape.
        expected: The reference.

    Returns:
        A phrase such as `"has the opposite sign"` or `"is shifted by one along axis 2"`. It is ""
        if no simple mistake explains the difference.
    """
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape:
        if sorted(got.shape) == sorted(expected.shape):
            return f"has the shape {got.shape} instead of {expected.shape}: transposed"
        return f"has the shape {got.shape} instead of {expected.shape}"
    if not got.size or not np.isfinite(got).all() or not np.isfinite(expected).all():
        return ""
    if not got.any():
        return "is zero everywhere"
    if not expected.any():
        return "is not zero, as it should be everywhere"
    for guess, phrase in variants(expected):
        if fits(got, guess):
            return f"{phrase[0]} {phrase[1]}"
    scale = float((got * expected).sum() / (expected**2).sum())
    if fits(got, scale * expected) and not fits(got, expected):
        return f"is {scale:.4g} times what it should be"
    offset = float((got - expected).mean())
    if fits(got - expected, np.full(got.shape, offset)) and not fits(got, expected):
        return f"is {offset:.4g} more than it should be, everywhere"
    return _shifted(got, expected) or _where(got, expected)


def fits(got: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether the rms of the difference is at most a thousandth of the rms of `expected`."""
    if got.shape != expected.shape:
        return False
    return _size(got - expected) <= _FITS * _size(expected)


def variants(array: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[str, str]]]:
    """Change an array by one usual mistake at a time, and yield the result and a description.

    Args:
        array: Any shape.

    Yields:
        Two values: the changed array, of the same shape, and a verb with its object, such as
        `("has", "the opposite sign")`.
    """
    yield -array, ("has", "the opposite sign")
    for one, other in combinations(range(array.ndim), 2):
        if array.shape[one] == array.shape[other] > 1:
            yield np.swapaxes(array, one, other), ("is", f"transposed (axes {one} and {other})")
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            yield np.flip(array, axis), ("is", f"reversed along axis {axis}")
    for axes in combinations(range(array.ndim), 2):
        if all(array.shape[axis] > 1 for axis in axes):
            yield np.flip(array, axes), ("is", f"reversed along axes {axes[0]} and {axes[1]}")


def _shifted(got: np.ndarray, expected: np.ndarray) -> str:
    """Return a phrase if `got` is `expected` shifted by one along an axis, otherwise ""."""
    for axis in range(got.ndim):
        length = got.shape[axis]
        if length < 4:
            continue
        for step in (1, -1):
            here = [slice(None)] * got.ndim
            there = list(here)
            here[axis] = slice(1, length - 1)
            there[axis] = slice(1 - step, length - 1 - step)
            inner = expected[tuple(there)]
            if inner.any() and fits(got[tuple(here)], inner):
                towards = "higher" if step > 0 else "lower"
                return f"is shifted by one along axis {axis}, towards {towards} indices"
    return ""


def _where(got: np.ndarray, expected: np.ndarray) -> str:
    """Describe the position of the elements that differ; "" if all elements differ."""
    wrong = np.abs(got - expected) > _FITS * _size(expected)
    count = int(wrong.sum())
    if not count or count == wrong.size:
        return ""
    for axis in range(got.ndim):
        length = got.shape[axis]
        indices = set(np.unique(np.nonzero(wrong)[axis]).tolist())
        if length > 2 and indices <= {0, length - 1}:
            edge = "both edges" if len(indices) == 2 else f"the edge, index {indices.pop()},"
            return f"is wrong only at {edge} along axis {axis}"
        if length > 1 and len(indices) == 1:
            return f"is wrong only at index {indices.pop()} along axis {axis}"
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"is wrong in {count} of {wrong.size} elements, first at {first}"


def _size(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(array**2))) if array.size else 0.0
