"""Compare the speed of plugin layers with thresholds, for pytest's option `--cnnforge-gate`.

The speed is a ratio: the time of the reference (the stock layer) divided by the time of the plugin
layer. The *key* of a ratio and of its threshold consists of the names of the benchmark and the
pass, such as ``"gabor.large.full"``.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from cnnforge.benchmarking.measure import Pass

PASSES = ("forward", "full")


@dataclass(frozen=True)
class Ratio:
    """Time of the reference divided by the time of the plugin layer, in several statistics.

    Attributes:
        median: The median over the rounds.
        p20: The 20th percentile over the rounds.
        p80: The 80th percentile over the rounds.
        best: Min time of the reference divided by the min time of the plugin layer. If another
            process takes CPU time in some rounds, the min times come from the undisturbed rounds.
    """

    median: float
    p20: float
    p80: float
    best: float

    @property
    def upper(self) -> float:
        """The larger of `median` and `best`. It is compared with the threshold.

        Another process may lower one of the two, so one that is large enough suffices.
        """
        return max(self.median, self.best)


def ratio(measured: Pass) -> Ratio:
    """Return the statistics of a pass's ratio."""
    return Ratio(*measured.ratio, best=measured.reference.best / measured.ours.best)


def compare_names(keys: Collection[str], thresholds: Collection[str]) -> list[str]:
    """List thresholds without a benchmark, and benchmarks without a threshold.

    Args:
        keys: The keys of all benchmarks, including those that this run does not measure.
        thresholds: The keys of all thresholds, and of the benchmarks with a `min_ratio`.

    Returns:
        A message for each such threshold and each such benchmark.
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
    """Return the message for a ratio that was below its threshold in all measurements."""
    return (
        f"{key}: {ratio.median:.2f} times as fast as the reference ({ratio.p20:.2f} to "
        f"{ratio.p80:.2f}, {ratio.best:.2f} at its best), at least {least:.2f} are expected; "
        f"measured {attempts} times"
    )
