"""Ratios that a gate judges. A *key* is a benchmark and a pass, ``"gabor.large.full"``."""

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
        best: The ratio of the shortest times of both. If another process takes a core now and
            then, these are of rounds in which it did not.
    """

    median: float
    p20: float
    p80: float
    best: float

    @property
    def upper(self) -> float:
        """The ratio to compare with a threshold: a disturbance makes one of the two too low."""
        return max(self.median, self.best)


def ratio(measured: Pass) -> Ratio | None:
    """The ratio of a pass; `None`: it could not be measured."""
    if measured.ratio is None:
        return None
    return Ratio(*measured.ratio, best=measured.reference.best / measured.ours.best)


def compare_names(keys: Collection[str], thresholds: Collection[str]) -> list[str]:
    """Say which thresholds have no benchmark, and which benchmarks have no threshold.

    Args:
        keys: The keys of all benchmarks, also of those that are not measured this time.
        thresholds: The keys of all thresholds.

    Returns:
        A line for each.
    """
    failures = []
    for title, names, others in (
        ("has a threshold, but there is no such benchmark", thresholds, keys),
        ("is a benchmark without a threshold", keys, thresholds),
    ):
        for key in names:
            if key not in others:
                near = difflib.get_close_matches(key, [it for it in others if it not in names], n=1)
                hint = f" (renamed? there is {near[0]})" if near else ""
                failures.append(f"{key} {title}{hint}")
    return failures


def too_low(key: str, ratio: Ratio, least: float, attempts: int) -> str:
    """The line about a ratio that stayed below its threshold."""
    return (
        f"{key}: {ratio.median:.2f} times as fast as the reference ({ratio.p20:.2f} to "
        f"{ratio.p80:.2f}, {ratio.best:.2f} at its best), at least {least:.2f} are expected; "
        f"measured {attempts} times"
    )
