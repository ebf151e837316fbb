"""Time a plugin layer and its reference (the stock layer that it replaces) alternately."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from cnnforge.benchmarking.peaks import Peaks
from cnnforge.benchmarking.torch_peer import torch_functions, torch_missing
from cnnforge.benchmarking.work import work
from cnnforge.conversion.workloads import Case, TimedPasses, timed_passes
from cnnforge.plugin import Work
from cnnforge.utils.timing import Timing, interleave, ratio

PassName = Literal["forward", "backward", "full"]
Pair = tuple[float | None, float | None]
PASSES: tuple[PassName, ...] = ("forward", "backward", "full")


@dataclass(frozen=True)
class Pass:
    """The times of one pass of one benchmark case.

    Attributes:
        name: ``forward``, the outputs as in a prediction; ``full``, the outputs and the gradients
            as in training; or ``backward``, the gradients alone, of outputs that are computed
            before. A layer without gradients has no ``backward``.
        ours: Time of the plugin layer.
        reference: Time of the stock layer.
        ratio: Median, 20th and 80th percentile of ``reference / ours`` over the rounds.
        work: Floating-point operations and bytes of the pass; `None` if they are not known.
        torch: Time of PyTorch with the faster memory layout; `None` if PyTorch was not measured.
        torch_ratio: Median, 20th and 80th percentile of ``torch / ours``, like `ratio`.
        torch_layout: The faster memory layout, one of `cnnforge.benchmarking.torch_peer.LAYOUTS`;
            "" if PyTorch was not measured.
    """

    name: PassName
    ours: Timing
    reference: Timing
    ratio: tuple[float, float, float]
    work: Work | None
    torch: Timing | None = None
    torch_ratio: tuple[float, float, float] | None = None
    torch_layout: str = ""


@dataclass(frozen=True)
class Measurement:
    """The result of one case.

    Attributes:
        case: The case.
        passes: The passes that the layer has; empty if the reference was not run.
        first_calls: The result of the function `first_calls`.
        calls: Seconds that a graph call takes on an empty batch, for the plugin layer and for the
            reference. This is the cost of Python and the framework. `None` if a layer refuses an
            empty batch.
        overheads: Seconds that one layer takes inside a graph on an empty batch, for the plugin
            layer and for the reference. Subtract them from the time of the forward pass to get the
            time of the kernel. `None` if a layer refuses an empty batch.
        note: The reason why the case was not measured; "" if it was measured.
    """

    case: Case
    passes: tuple[Pass, ...] = ()
    first_calls: Pair = (None, None)
    calls: Pair = (None, None)
    overheads: Pair = (None, None)
    note: str = ""


def first_calls(case: Case) -> Pair:
    """Time the first calls of a layer in this process.

    Call this function before anything else calls the layer.

    Args:
        case: Any case.

    Returns:
        Two sums of seconds, for the plugin layer and for the reference: the first forward call plus
        the first full call. These calls trace a graph, and compile kernels that are not cached on
        disk. A sum is `None` if a call fails; `cnnforge.conversion.certificate.certify_layer` finds
        the reason. The second sum is also `None` if the reference is unsafe to run.
    """
    workload = case.workload
    kinds = [workload.kind]
    if not workload.reference_is_unsafe:
        kinds.append(workload.reference)
    seconds: list[float | None] = []
    for kind in kinds:
        try:
            timed = timed_passes(workload, kind)
            begun = time.perf_counter()
            timed.forward()
            timed.full()
            seconds.append(time.perf_counter() - begun)
        except Exception:
            seconds.append(None)
    return seconds[0], seconds[-1] if len(seconds) > 1 else None


def measure(
    case: Case,
    *,
    rounds: int = 30,
    limit: float = float("inf"),
    first: Pair = (None, None),
    torch: bool = False,
) -> Measurement:
    """Time a case's layer and its reference alternately.

    Args:
        case: A case that `cnnforge.conversion.certificate.certify_layer` has passed.
        rounds: Number of times that each implementation is timed.
        limit: Seconds after which no further round begins.
        first: The result of `first_calls`.
        torch: Whether to measure PyTorch too, if it is installed and can compute the layer.

    Returns:
        The times of all passes. If the reference is unsafe to run, a note instead of times.
    """
    workload = case.workload
    if workload.reference_is_unsafe:
        return Measurement(
            case, note="TensorFlow corrupts memory in the gradient of strided 1x1 convolutions"
        )
    ours = timed_passes(workload, workload.kind)
    reference = timed_passes(workload, workload.reference)
    # `work` calls a function of the plugin, which may fail. So call it before the long measurement.
    counted = work(workload, reference.layer) or {}
    timed: dict[str, Callable[[], object]] = {
        f"{name} {which}": function
        for which in PASSES
        for name, passes in (("ours", ours), ("reference", reference))
        if (function := getattr(passes, which)) is not None
    }
    layouts = torch_functions(workload) if torch and not torch_missing() else {}
    for layout, functions in layouts.items():
        timed |= {f"{layout} {name}": function for name, function in functions.items()}
    timings, times = interleave(timed, rounds=rounds, limit=limit)
    passes = tuple(
        Pass(
            name,
            timings[f"ours {name}"],
            timings[f"reference {name}"],
            ratio(times[f"reference {name}"], times[f"ours {name}"]),
            counted.get(name),
            *_torch(name, tuple(layouts), timings, times),
        )
        for name in PASSES
        if {f"ours {name}", f"reference {name}"} <= set(timed)
    )
    calls, overheads = _overheads(ours, reference, rounds)
    return Measurement(case, passes, first, calls, overheads)


def _torch(
    name: PassName,
    layouts: tuple[str, ...],
    timings: Mapping[str, Timing],
    times: Mapping[str, np.ndarray],
) -> tuple[Timing | None, tuple[float, float, float] | None, str]:
    """Return the time of a pass with PyTorch's faster memory layout, its ratio, and the layout."""
    if not layouts:
        return None, None, ""
    best = min(layouts, key=lambda layout: timings[f"{layout} {name}"].median)
    key = f"{best} {name}"
    return timings[key], ratio(times[key], times[f"ours {name}"]), best


def kernel_times(measurement: Measurement) -> Pair:
    """Return the time of the forward pass minus its time on an empty batch.

    Args:
        measurement: The result of one case.

    Returns:
        Seconds of the plugin layer and of the reference. `None` if the time is unknown or the
        difference is not positive.
    """
    if not measurement.passes:
        return None, None
    forward = measurement.passes[0]
    medians = (forward.ours.median, forward.reference.median)
    times = [
        None if empty is None or whole <= empty else whole - empty
        for whole, empty in zip(medians, measurement.overheads, strict=True)
    ]
    return times[0], times[1]


def to_json(measurement: Measurement, peaks: Peaks) -> dict[str, Any]:
    """Convert a result to plain values, ready for JSON.

    Args:
        measurement: The result of one case.
        peaks: The peak speeds of this machine.

    Returns:
        A dictionary with the seconds, operations per second and bytes per second of each pass.
    """
    case, workload = measurement.case, measurement.case.workload
    return {
        "name": case.name,
        "layer": workload.spec.qualified_name,
        "reference": workload.reference.__name__,
        "layers": list(case.layers),
        "arguments": {name: _plain(value) for name, value in case.arguments.items()},
        "shape": list(workload.shape),
        "shape_from": case.origin,
        "min_ratio": case.min_ratio,
        "grad_inputs": workload.grad_inputs,
        "note": measurement.note,
        "first_call": _both(measurement.first_calls),
        "call": _both(measurement.calls),
        "overhead": _both(measurement.overheads),
        "kernel": _both(kernel_times(measurement)),
        "passes": {one.name: _pass_json(one, peaks) for one in measurement.passes},
    }


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: the value itself, or its text."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _both(values: Pair) -> dict[str, float | None]:
    return {"ours": values[0], "reference": values[1]}


def _pass_json(one: Pass, peaks: Peaks) -> dict[str, Any]:
    values: dict[str, Any] = {"ratio": _ratio_json(one.ratio)}
    for name, timed in (("ours", one.ours), ("reference", one.reference)):
        values[name] = {
            **{"median": timed.median, "p20": timed.p20, "p80": timed.p80},
            "best": timed.best,
        }
        flops = moved = None
        if one.work is not None:
            flops, moved = one.work.flops / timed.median, one.work.bytes / timed.median
        values[name] |= {
            "flops": flops,
            "bytes": moved,
            "share_of_flops": flops and flops / peaks.flops,
            "share_of_bytes": moved and moved / peaks.bytes,
        }
    values["torch"] = None
    if one.torch is not None:
        values["torch"] = {
            **{"median": one.torch.median, "p20": one.torch.p20, "p80": one.torch.p80},
            "layout": one.torch_layout,
            "ratio": one.torch_ratio and _ratio_json(one.torch_ratio),
        }
    values["rounds"] = one.ours.rounds
    return values


def _ratio_json(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("median", "p20", "p80"), values, strict=True))


def _overheads(ours: TimedPasses, reference: TimedPasses, rounds: int) -> tuple[Pair, Pair]:
    usable: dict[str, Callable[[], object]] = {}
    for name, timed in (("ours", ours), ("reference", reference)):
        try:
            timed.empty()
        except Exception:  # The layer refuses an empty batch.
            continue
        # `interleave` repeats a function until the time is long enough to measure. It repeats the
        # partial by many graph calls, so "call" is the time of a graph call. It repeats the
        # `Repeatable` inside one graph call, so "op" is the time of the layer alone.
        usable[f"{name} call"] = partial(timed.empty.repeat, 1)
        usable[f"{name} op"] = timed.empty
    timings, _ = interleave(usable, rounds=rounds)

    def pair(what: str) -> Pair:
        names = (f"ours {what}", f"reference {what}")
        found = [timings[name].median if name in timings else None for name in names]
        return found[0], found[1]

    return pair("call"), pair("op")
