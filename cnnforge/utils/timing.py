"""Timing that can be believed: interleaved, in one process, as ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

_LONG = 0.05


@dataclass(frozen=True)
class Timing:
    """How long one thing took.

    Attributes:
        median: Seconds.
        p20: The 20th percentile, seconds.
        p80: The 80th percentile, seconds.
        rounds: How many times it was measured.
        best: The shortest, seconds.
        seconds: All of them, in the order of the rounds.
    """

    median: float
    p20: float
    p80: float
    rounds: int
    best: float
    seconds: tuple[float, ...] = field(default=(), repr=False)


def interleave(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warm_up: int = 3,
    seconds: float = 0.01,
    limit: float = float("inf"),
    enough: Callable[[Mapping[str, np.ndarray]], bool] = lambda _: False,
    measure: Callable[[Callable[[], object], int], float] | None = None,
) -> tuple[dict[str, Timing], dict[str, np.ndarray]]:
    """Time functions in turn, so that whatever slows the machine slows all of them.

    In each round every function is measured once; the order alternates. A short function is
    repeated within a measurement until that lasts ``seconds``.

    Args:
        functions: Name to function; its result must be there when it returns. One that has a
            method ``repeat(count)`` is asked to repeat itself.
        rounds: Measurements of each.
        warm_up: Calls of each that are not measured.
        seconds: The shortest measurement.
        limit: Seconds after which no further round begins, once there were three.
        enough: Told the seconds of the rounds so far, once there were three: whether they will do.
        measure: The seconds of so many calls of a function; by default those of this process'
            clock. A device that computes on its own has a clock of its own.

    Returns:
        The timings, and for each name the (rounds,) seconds themselves: a ratio of two is best
        taken round by round.
    """
    repeats = {}
    clock = measure or _seconds
    for function in functions.values():
        for _ in range(warm_up):
            function()
    for name, function in functions.items():
        repeats[name] = 1
        while (once := _least(clock, function, repeats[name])) < seconds / 2:
            # What a first call costs besides is not part of what ten more cost.
            wanted = repeats[name] * seconds / max(once, 1e-9)
            repeats[name] = int(min(np.ceil(wanted), 10 * repeats[name]))
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    begun_all = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and (
            time.perf_counter() - begun_all > limit
            or enough({name: np.array(values) for name, values in times.items()})
        ):
            break
        for name in names if number % 2 == 0 else reversed(names):
            function, count = functions[name], repeats[name]
            times[name].append(clock(function, count) / count)
    arrays = {name: np.array(values) for name, values in times.items()}
    return {name: timing(values) for name, values in arrays.items()}, arrays


def _least(
    clock: Callable[[Callable[[], object], int], float], function: Callable[[], object], count: int
) -> float:
    """The lesser of two measurements; of one that takes longer than any interruption, that."""
    once = clock(function, count)
    return once if once > _LONG else min(once, clock(function, count))


def _seconds(function: Callable[[], object], count: int) -> float:
    repeat = getattr(function, "repeat", None) or partial(_repeat, function)
    begun = time.perf_counter()
    repeat(count)
    return time.perf_counter() - begun


def _repeat(function: Callable[[], object], count: int) -> None:
    for _ in range(count):
        function()


def timing(values: np.ndarray) -> Timing:
    """Summarize measurements.

    Args:
        values: (rounds,) seconds.
    """
    p20, median, p80 = np.percentile(values, (20, 50, 80))
    seconds = tuple(map(float, values))
    return Timing(float(median), float(p20), float(p80), len(values), min(seconds), seconds)


def ratio(reference: np.ndarray, ours: np.ndarray) -> tuple[float, float, float]:
    """How many times as fast as the reference: median, 20th and 80th percentile over the rounds.

    Args:
        reference: (rounds,) seconds of the reference.
        ours: (rounds,) seconds, of the same rounds.
    """
    p20, median, p80 = np.percentile(reference / ours, (20, 50, 80))
    return float(median), float(p20), float(p80)
