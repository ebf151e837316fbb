"""Run a function of an op many times, with one thread and with several, and compare the results.

The order of a sum may depend on the number of threads, so results of one and of several threads
need not have the same bits. With the same number of threads they must.
"""

from __future__ import annotations

import time

import numba
import numpy as np

from cnnforge.ops.audit.intercept import Call, Values
from cnnforge.utils.tolerance import error_bounds

_MAX_RUNS, _SECONDS = 24, 0.4
_RUNS = 3


def run(call: Call) -> tuple[list[Values], list[str]]:
    """Run a function, and return what it writes, and at most one sentence about a difference."""
    step, threads = call.program.step, numba.get_num_threads()
    # A kernel may have threads of its own, of which Numba knows nothing.
    parallel = call.program.is_compiled and bool(step.function.targetoptions.get("parallel"))
    first = call.run()
    begin, runs = time.perf_counter(), 1
    limit = _MAX_RUNS if parallel else _RUNS
    while runs < limit and (runs < _RUNS or time.perf_counter() - begin < _SECONDS):
        again = call.run()
        runs += 1
        for item, one, other in zip(step.writes, first, again, strict=True):
            if one.tobytes() != other.tobytes():
                many = f" with {threads} threads" if parallel and threads > 1 else ""
                return first, [
                    f"{step.label} is not deterministic: run {runs}{many} on the same arrays gives "
                    f"other bits than run 1 in {_differing(one, other)} of {one.size} elements of "
                    f"{item.name!r}" + ("; look for a race between threads" if many else "")
                ]
    if parallel and threads > 1:
        numba.set_num_threads(1)
        try:
            single = call.run()
        finally:
            numba.set_num_threads(threads)
        terms = max((array.size for array in call.arrays), default=1)
        for item, one, other in zip(step.writes, single, first, strict=True):
            if item.is_float and _differ(other, one, terms):
                return first, [
                    f"{step.label} gives one result with 1 thread and another with {threads}: "
                    f"{_differing(one, other)} of {one.size} elements of {item.name!r} differ; "
                    "look for a race between threads, and for code that depends on the thread"
                ]
    return first, []


def _differ(got: Values, expected: Values, terms: int) -> bool:
    if not np.isfinite(expected).all():
        return False
    wide = expected.astype(np.float64)
    _, bound = error_bounds(wide[wide != 0], max(1, terms))
    return not np.abs(got - wide).max(initial=0.0) <= max(bound, 1e-30)


def _differing(one: Values, other: Values) -> int:
    return int((one != other).sum()) or 1
