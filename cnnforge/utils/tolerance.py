"""The only tolerance: the bound of the difference between a result and its reference.

A sum of K products in a precision of machine epsilon eps has a rounding error that grows like
sqrt(K) * eps times the size of the sum (Higham, "Accuracy and Stability of Numerical Algorithms",
2002, section 4.2, for random errors). The errors are compared with the root mean square of the
whole reference. Element-wise relative errors are the wrong measure, since the products of one
element may cancel to zero. The reference is first rounded to the precision of the result, because
no result can be nearer to it than that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def error_bounds(reference: Any, terms: int, dtype: Any = np.float32) -> tuple[float, float]:
    """Return the max allowed root mean square error and the max allowed single error.

    Args:
        reference: The reference, any shape.
        terms: K, the number of products (or summands) in one element.
        dtype: The precision of the result that is tested.

    Returns:
        ``sqrt(K) * eps * rms(reference)`` and 4 times that.
    """
    values = np.asarray(reference, np.float64)
    size = math.sqrt(float(np.mean(values**2))) if values.size else 0.0
    bound = math.sqrt(max(terms, 1)) * float(np.finfo(dtype).eps) * size
    return bound, 4 * bound


def assert_close(actual: Any, reference: Any, terms: int, dtype: Any = np.float32) -> None:
    """Require that a result equals its reference up to rounding.

    Args:
        actual: The result, any shape.
        reference: The reference, the same shape.
        terms: K, the number of products (or summands) in one element.
        dtype: The precision of ``actual``.

    Raises:
        AssertionError: Another shape, a value that is not finite, or an error above the bound. The
            message quotes the formula and the position of the largest error.
    """
    got = np.asarray(actual, np.float64)
    expected = np.asarray(reference).astype(dtype).astype(np.float64)
    if got.shape != expected.shape:
        raise AssertionError(f"shape {got.shape}, expected {expected.shape}")
    if not got.size:
        return
    if not np.isfinite(got).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(got))[0])
        count = int((~np.isfinite(got)).sum())
        raise AssertionError(f"{count} of {got.size} values are not finite, the first at {where}")
    errors = np.abs(got - expected)
    largest, root = float(errors.max()), math.sqrt(float(np.mean(errors**2)))
    root_bound, bound = error_bounds(expected, terms, dtype)
    if largest > bound or root > root_bound:
        where = tuple(int(i) for i in np.unravel_index(int(errors.argmax()), errors.shape))
        raise AssertionError(
            f"max|error| {largest:.3g} (allowed 4*sqrt(K)*eps*rms = {bound:.3g}), rms(error) "
            f"{root:.3g} (allowed sqrt(K)*eps*rms = {root_bound:.3g}), K = {terms}; the largest "
            f"error is at {where}: {got[where]:.6g}, expected {expected[where]:.6g}"
        )
