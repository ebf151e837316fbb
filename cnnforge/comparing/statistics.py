"""Tests whether two models, or two groups of models, differ by more than chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.05
"""A difference counts if chance alone makes one as large with a smaller probability."""
# Up to this number of pairs, McNemar's test is computed exactly.
_MAX_EXACT = 1000
_DRAWS = 9999
_TOGETHER = 4_000_000


@dataclass(frozen=True, slots=True)
class SignificanceTest:
    """The result of a statistical test.

    Attributes:
        name: Name of the test in a sentence.
        p: Probability that chance alone makes a difference at least as large, 0 to 1.
    """

    name: str
    p: float

    @property
    def differs(self) -> bool:
        """Whether the difference is larger than chance explains, at the level of 5 %."""
        return self.p < LEVEL

    def as_dict(self) -> dict[str, Any]:
        """Return the test as plain values, ready for JSON."""
        return {"name": self.name, "p": self.p}


def mcnemar(only_first: int, only_second: int) -> SignificanceTest:
    """Test whether two models are right equally often, from paired answers.

    Only the samples count on which one model is right and the other is wrong (Q. McNemar, "Note on
    the sampling error of the difference between correlated proportions or percentages", 1947). The
    test is exact for up to 1,000 of them, and then uses the normal distribution with Yates'
    correction.

    Args:
        only_first: Number of samples on which only the first model is right.
        only_second: Number of samples on which only the second model is right.
    """
    total = only_first + only_second
    if total > _MAX_EXACT:
        distance = max(0, abs(only_first - only_second) - 1)
        p = math.erfc(distance / math.sqrt(2 * total))
        return SignificanceTest("McNemar's test", p)
    tail = sum(math.comb(total, count) for count in range(min(only_first, only_second) + 1))
    return SignificanceTest("McNemar's exact test", min(1.0, 2 * tail / 2**total))


def sign_flips(differences: np.ndarray) -> SignificanceTest:
    """Test whether the mean of paired differences is zero.

    Without a difference between the models, each sign is positive or negative with equal
    probability. So signs are drawn 9,999 times, always the same ones.

    Args:
        differences: (N,) float64, the value of the second model minus that of the first for each
            sample.
    """
    known = differences[differences != 0]
    if not len(known):
        return SignificanceTest("paired sign-flip test", 1.0)
    random, seen = np.random.default_rng(0), abs(known.sum()) * (1 - 1e-12)
    rows = max(1, _TOGETHER // len(known))
    beyond, left = 0, _DRAWS
    while left:
        signs = random.integers(0, 2, (min(rows, left), len(known)), np.int8) * 2 - 1
        beyond += int(np.count_nonzero(np.abs(signs @ known) >= seen))
        left -= len(signs)
    return SignificanceTest("paired sign-flip test", (1 + beyond) / (1 + _DRAWS))


def spread_test(first: Sequence[float], second: Sequence[float]) -> SignificanceTest | None:
    """Test whether the means of two groups of runs differ: Student's t-test with equal variances.

    Args:
        first: The value of each run of the first group.
        second: The value of each run of the second group.

    Returns:
        The test; `None` for one run in each group, which have no spread.
    """
    freedom = len(first) + len(second) - 2
    if freedom < 1:
        return None
    means = statistics.fmean(first), statistics.fmean(second)
    squares = sum(
        (value - mean) ** 2
        for group, mean in zip((first, second), means, strict=True)
        for value in group
    )
    error = math.sqrt(squares / freedom * (1 / len(first) + 1 / len(second)))
    distance = abs(means[0] - means[1])
    if error == 0:
        p = 1.0 if distance == 0 else 0.0
    else:
        t = distance / error
        p = _beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)
    return SignificanceTest("t-test over the runs", p)


def with_fluctuation(
    difference: tuple[float, float, float], first: float | None, second: float | None
) -> SignificanceTest | None:
    """Test a difference between two runs, with an estimate of what the seed changes.

    Args:
        difference: The difference and the ends of its 95 % interval, which holds for other samples.
        first: The fluctuation of the first run, a standard deviation; `None` if it is unknown. Then
            that of the second run is used.
        second: The same for the second run.

    Returns:
        The test; `None` if both are unknown.
    """
    known = [each for each in (first, second) if each is not None]
    if not known:
        return None
    mean, low, high = difference
    variance = ((high - low) / (2 * 1.96)) ** 2
    variance += 2 * statistics.fmean(each**2 for each in known)
    p = 1.0 if mean == 0 else 0.0
    if variance > 0:
        p = math.erfc(abs(mean) / math.sqrt(2 * variance))
    return SignificanceTest("with the fluctuation of the last epochs", p)


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % interval.

    Args:
        differences: (N,) float64, N at least 1.

    Returns:
        The mean, the lower and the upper end.
    """
    mean = float(differences.mean())
    half = 1.96 * float(differences.std()) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def shown_p(p: float) -> str:
    """Return a probability of a test as a short text, such as `"p = 0.74"`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def _beta_share(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function, by its continued fraction."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    scale = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # Evaluated from the end. The terms shrink fast for an x below the mean of the distribution.
    value = 1.0
    for m in range(200, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        value = 1 + odd / (1 + even / value)
    return scale / (a * value)
