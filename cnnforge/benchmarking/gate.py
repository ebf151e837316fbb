"""Compare ratios with thresholds. A *key* is a benchmark and a pass, ``"gabor.large.full"``."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from cnnforge.benchmarking.measure import Pass

PASSES = ("forward", "full")


@dataclass(frozen=True)
class Ratio:
    """``reference / ours``.

    Attributes:
        median: The median of the rounds' ratios.
        p20: Their 20th percentile.
        p80: Their 80th percentile.
        best: The ratio of the min times of both. If another process takes a core now and then,
            these are from undisturbed rounds.
    """

    median: float
    p20: float
    p80: float
    best: float

    @property
    def upper(self) -> float:
        """The ratio to compare with a threshold; a disturbance lowers the median or the best."""
        return max(self.median, self.best)


def ratio(measured: Pass) -> Ratio | None:
    """Return the ratio of a pass; `None` if it could not be measured."""
    if measured.ratio is None:
        return None
    return Ratio(*measured.ratio, best=measured.reference.best / measured.ours.best)


def compare_names(keys: Collection[str], thresholds: Collection[str]) -> list[str]:
    """List thresholds without a benchmark, and benchmarks without a threshold.

    Args:
        keys: The keys of all benchmarks, also of those that are not measured this time.
        thresholds: The keys of all thresholds.

    Returns:
        A line for each of them.
    """
    failures = []
    for title, names, others in (
        ("has a threshold, but there is no such benchmark", thresholds, keys),
        ("is a benchmark without a threshold", keys, thresholds),
    ):
        for key in names:
            if key not in others:
                near = difflib.get_close_matches(
                    key, [other for other in others if other not in names], n=1
                )
                hint = f" (renamed? there is {near[0]})" if near else ""
                failures.append(f"{key} {title}{hint}")
    return failures


def too_low(key: str, ratio: Ratio, least: float, attempts: int) -> str:
    """Return the line about a ratio that stayed below its threshold."""
    return (
        f"{key}: {ratio.median:.2f} times as fast as the reference ({ratio.p20:.2f} to "
        f"{ratio.p80:.2f}, {ratio.best:.2f} at its best), at least {least:.2f} are expected; "
        f"measured {attempts} times"
    )
