"""Measuring cases: parity first, then the two implementations in turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from cnnforge._timing import Timing, interleave, timing
from cnnforge._workloads import Functions, functions
from cnnforge.benchmarking.cases import Case
from cnnforge.benchmarking.peaks import Peaks
from cnnforge.benchmarking.work import Work, work
from cnnforge.certificate import LayerCheck, certify
from cnnforge.plugin import LayerSpec
from cnnforge.registry import Registry

PassName = Literal["forward", "backward", "full"]
PASSES: tuple[PassName, ...] = ("forward", "backward", "full")
# The certificate computes its reference in float64 several times over; more images would check
# nothing more, as every image is computed alike.
_CHECKED_IMAGES = 8


@dataclass(frozen=True)
class Pass:
    """One pass of one case.

    Attributes:
        name: ``forward``; ``full``, which is forward and backward; or ``backward``, the difference
            between the two, taken round by round.
        ours: The plugin layer's time.
        reference: The stock layer's.
        ratio: ``reference / ours`` over the rounds: median, 20th and 80th percentile; `None` where
            a difference of times drowns in the noise.
        work: What the pass has to do; `None` where that is not known.
    """

    name: PassName
    ours: Timing
    reference: Timing
    ratio: tuple[float, float, float] | None
    work: Work | None


@dataclass(frozen=True)
class Measurement:
    """One case.

    Attributes:
        case: What was measured.
        passes: In the order of `PASSES`; empty where the reference was not run.
        first_calls: Seconds of the first forward and the first full call together, of ours and of
            the reference: tracing a graph, and compiling what no cache on the disk holds.
        overheads: Seconds of a forward call on no images, of ours and of the reference; `None`
            where a layer refuses an empty batch.
        note: Why the case was not measured; "" where it was.
    """

    case: Case
    passes: tuple[Pass, ...] = ()
    first_calls: tuple[float, float] = (0.0, 0.0)
    overheads: tuple[float | None, float | None] = (None, None)
    note: str = ""


def check(case: Case) -> list[LayerCheck]:
    """Compare a case's layer with its reference in float64, outputs and gradients.

    Args:
        case: Of its images at most eight are computed.

    Returns:
        One result; no time of a case is worth anything unless it has passed.
    """
    workload = case.workload
    only: Registry[LayerSpec] = Registry(LayerSpec)
    only.add(workload.spec.plugin or "plugin", [workload.spec])
    layer = workload.kind.from_config(dict(workload.config))
    model = keras.Sequential([keras.Input(workload.shape[1:]), layer])
    return certify(model, layers=only, batch=min(workload.shape[0], _CHECKED_IMAGES))


def measure(case: Case, *, rounds: int = 30, limit: float = float("inf")) -> Measurement:
    """Time a case's layer and its reference in turn.

    Args:
        case: A case that has passed its `check`.
        rounds: How often each is timed.
        limit: Seconds after which no further round begins.

    Returns:
        The times.
    """
    workload = case.workload
    if workload.crashes:
        return Measurement(
            case, note="TensorFlow corrupts memory in the gradient of strided 1x1 convolutions"
        )
    ours = functions(workload, workload.kind)
    reference = functions(workload, workload.reference)
    first_calls = (_first(ours), _first(reference))
    timings, times = interleave(
        {
            "ours forward": ours.forward,
            "reference forward": reference.forward,
            "ours full": ours.full,
            "reference full": reference.full,
        },
        rounds=rounds,
        limit=limit,
    )
    for name in ("ours", "reference"):
        times[f"{name} backward"] = times[f"{name} full"] - times[f"{name} forward"]
        timings[f"{name} backward"] = timing(times[f"{name} backward"])
    counted = work(reference.layer, workload.shape, grad_inputs=workload.grad_inputs) or {}
    passes = tuple(
        Pass(
            name,
            timings[f"ours {name}"],
            timings[f"reference {name}"],
            _ratio(times[f"reference {name}"], times[f"ours {name}"]),
            counted.get(name),
        )
        for name in PASSES
    )
    return Measurement(case, passes, first_calls, _overheads(ours, reference, rounds))


def to_json(measurement: Measurement, peaks: Peaks) -> dict[str, Any]:
    """Plain values, ready for JSON: seconds, operations and bytes per second.

    Args:
        measurement: Of one case.
        peaks: Of this machine.
    """
    case, workload = measurement.case, measurement.case.workload
    return {
        "name": case.name,
        "layer": workload.spec.qualified_name,
        "reference": workload.reference.__name__,
        "layers": list(case.layers),
        "shape": list(workload.shape),
        "grad_inputs": workload.grad_inputs,
        "note": measurement.note,
        "first_call": dict(zip(("ours", "reference"), measurement.first_calls, strict=True)),
        "overhead": dict(zip(("ours", "reference"), measurement.overheads, strict=True)),
        "passes": {it.name: _pass_json(it, peaks) for it in measurement.passes},
    }


def _pass_json(it: Pass, peaks: Peaks) -> dict[str, Any]:
    values: dict[str, Any] = {"ratio": None}
    if it.ratio is not None:
        values["ratio"] = dict(zip(("median", "p20", "p80"), it.ratio, strict=True))
    for name, timed in (("ours", it.ours), ("reference", it.reference)):
        values[name] = {"median": timed.median, "p20": timed.p20, "p80": timed.p80}
        flops = moved = None
        if it.work is not None and timed.median > 0:
            flops, moved = it.work.flops / timed.median, it.work.bytes / timed.median
        values[name] |= {
            "flops": flops,
            "bytes": moved,
            "share_of_flops": flops and flops / peaks.flops,
            "share_of_bytes": moved and moved / peaks.bytes,
        }
    values["rounds"] = it.ours.rounds
    return values


def _first(timed: Functions) -> float:
    begun = time.perf_counter()
    timed.forward()
    timed.full()
    return time.perf_counter() - begun


def _ratio(reference: np.ndarray, ours: np.ndarray) -> tuple[float, float, float] | None:
    sensible = (reference > 0) & (ours > 0)
    # A difference that is below zero in one round of five says nothing.
    if np.count_nonzero(sensible) < 0.8 * len(ours):
        return None
    p20, median, p80 = np.percentile(reference[sensible] / ours[sensible], (20, 50, 80))
    return float(median), float(p20), float(p80)


def _overheads(
    ours: Functions, reference: Functions, rounds: int
) -> tuple[float | None, float | None]:
    usable: dict[str, Callable[[], object]] = {}
    for name, timed in (("ours", ours), ("reference", reference)):
        try:
            timed.empty()
            usable[name] = timed.empty
        except Exception:  # A layer that cannot do without images has no such cost to tell.
            continue
    timings, _ = interleave(usable, rounds=rounds)
    ours_, reference_ = (
        timings[name].median if name in timings else None for name in ("ours", "reference")
    )
    return ours_, reference_
