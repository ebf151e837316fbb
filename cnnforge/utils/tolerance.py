"""Compare a result with its reference. The project uses no other tolerance than this one.

The rounding error of a sum of K products, computed with the machine epsilon eps, grows like
sqrt(K) * eps times the size of the sum (Higham, "Accuracy and Stability of Numerical Algorithms",
2002, section 4.2, for random errors). The size is the root mean square (rms) of the whole
reference. The products in an element may cancel, and then the element is close to zero. So relative
errors of single elements are the wrong measure. Storing a result rounds it, even if the sum is
exact. So the reference is rounded to the precision of the result before the comparison.
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
        Two numbers: ``sqrt(K) * eps * rms(reference)``, and 4 times this number.
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
        AssertionError: The shapes differ, a value is not finite, or an error is above its bound.
            For an error above its bound, the message contains the formula and the position of the
            largest error.
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
