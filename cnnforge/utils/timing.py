"""Time functions alternately, in one process, and compute the ratios of their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

_LONG = 0.05


@dataclass(frozen=True)
class Timing:
    """The time of one function, over several measurements.

    Attributes:
        median: Median, in seconds.
        p20: The 20th percentile, in seconds.
        p80: The 80th percentile, in seconds.
        rounds: Number of measurements.
        best: Minimum, in seconds.
        seconds: All measurements, in the order of the rounds.
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
    """Time functions alternately, so that a busy machine slows all of them alike.

    In each round every function is measured once. Every second round measures the functions in
    reverse order. One measurement repeats a short function, so that it lasts about ``seconds``.

    Args:
        functions: Functions by name. A function must not return before its result is computed. If
            it has a method ``repeat(count)``, this method is called to repeat it.
        rounds: Number of measurements of each function.
        warm_up: Number of calls of each function before the first measurement.
        seconds: Min duration of a measurement, in seconds.
        limit: Seconds after which no further round begins. The first three rounds always run.
        enough: Function that returns whether the rounds so far are enough. Its argument is a dict
            from each name to an array (rounds,) of seconds. It is first called after three rounds.
        measure: Function of a function and a number `count`. It returns how many seconds `count`
            calls take. By default it reads the clock of this process; a device may have its own.

    Returns:
        Two dicts by name: the `Timing` of each function, and an array (rounds,) of its seconds per
        call. To compare two functions, divide their seconds of the same round (`ratio`).
    """
    repeats = {}
    clock = measure or _seconds
    for function in functions.values():
        for _ in range(warm_up):
            function()
    for name, function in functions.items():
        repeats[name] = 1
        while (once := _shortest(clock, function, repeats[name])) < seconds / 2:
            # The time of a few calls is not accurate enough to compute the final number of repeats.
            # So increase the number at most tenfold, and measure again.
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


def _shortest(
    clock: Callable[[Callable[[], object], int], float], function: Callable[[], object], count: int
) -> float:
    """Measure `count` calls twice, and return the min in seconds.

    A long measurement is accurate enough, so it is made only once.
    """
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
    """Return the median, percentiles and min of the measurements of one function.

    Args:
        values: (rounds,) seconds.
    """
    p20, median, p80 = np.percentile(values, (20, 50, 80))
    seconds = tuple(map(float, values))
    return Timing(float(median), float(p20), float(p80), len(values), min(seconds), seconds)


def ratio(reference: np.ndarray, ours: np.ndarray) -> tuple[float, float, float]:
    """Return the median, 20th and 80th percentile of ``reference / ours`` over the rounds.

    Args:
        reference: (rounds,) seconds of the reference.
        ours: (rounds,) seconds of our layer in the same rounds.
    """
    p20, median, p80 = np.percentile(reference / ours, (20, 50, 80))
    return float(median), float(p20), float(p80)
