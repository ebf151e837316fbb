"""Measurement of one row: check it, then time our kernels and the peers alternately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cnnforge.utils.timing import interleave, ratio, timing
from cnnforge_kernels.cuda.runtime import tuning
from gpu import parity
from gpu.ceilings import Ceilings, floor
from gpu.problem import calls, prepare, results
from gpu.rows import Row, work

ROUNDS = 31
_OURS = "ours"
# Min duration of one measurement, and time limit of all rounds of a row, in seconds.
_MEASUREMENT, _LIMIT = 0.004, 3.0
# Maximum distance from PyTorch's results. They differ from ours because PyTorch sums in another
# order (FFT, Winograd), rounds operands to tf32, or rounds results to bfloat16.
_MAX_DISTANCE = {"float32": 1e-3, "tf32": 4e-3, "bfloat16": 2e-2}


@dataclass
class Measured:
    """Result of a row. A value that was not measured is ``None`` or empty.

    Attributes:
        key: Key of the row.
        verdict: ``"right"``, or a description of the error. A wrong row has no times.
        ours: Our time in seconds: median, 20th and 80th percentile.
        peer: Time of the fastest variant of PyTorch in seconds: median, 20th and 80th percentile.
        peer_name: Name of that variant.
        ratio: Time of the peer divided by ours in the same round: median, 20th and 80th percentile.
        floor: Minimum time in seconds that the peak rates of the device allow.
        bound: Cause of the floor: ``"bytes"`` or ``"flops"``.
        flops: Number of operations of the row.
        bytes: Number of bytes that the row moves.
        distance: Distance of PyTorch's results from ours.
        sets: Number of copies of the row's arrays that the measurement uses one after the other.
        rounds: Number of rounds.
        tuned: Configurations that the tuner chose, by problem.
        note: Notes, such as a peer that failed.
    """

    key: str
    verdict: str = "right"
    ours: tuple[float, float, float] | None = None
    peer: tuple[float, float, float] | None = None
    peer_name: str = ""
    ratio: tuple[float, float, float] | None = None
    floor: float | None = None
    bound: str = ""
    flops: int = 0
    bytes: int = 0
    distance: float | None = None
    sets: int = 0
    rounds: int = 0
    tuned: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Convert the result to plain values."""
        return asdict(self)


def from_json(values: dict[str, Any]) -> Measured:
    """Convert the values of ``to_json``, or of a file, to a result."""
    pairs = {
        name: tuple(values[name]) if values.get(name) is not None else None
        for name in ("ours", "peer", "ratio")
    }
    return Measured(**{**values, **pairs})


def measure(
    row: Row, device: Any, ceilings: Ceilings, rounds: int = ROUNDS, alone: bool = False
) -> Measured:
    """Measure a row.

    Args:
        row: The row.
        device: A ``TorchDevice`` or a ``DryRunDevice``.
        ceilings: Peak rates of the device.
        rounds: Number of rounds.
        alone: Whether to leave out PyTorch.
    """
    needed, minimum = work(row), floor(row, ceilings)
    made = Measured(
        row.key,
        floor=minimum.seconds,
        bound=minimum.bound,
        flops=needed.flops,
        bytes=needed.bytes,
    )
    before = tuning.used()
    try:
        arrays = parity.check(device, row)
    except parity.WrongResultError as error:
        made.verdict = f"WRONG: {error}"
        return made
    used = tuning.used().items()
    made.tuned = {name: choice for name, choice in used if before.get(name) != choice}
    size = sum(array.nbytes for array in arrays.values())
    made.sets = device.sets(row, size)
    every = [arrays]
    for _ in range(made.sets - 1):
        every.append({name: device.copy(array) for name, array in arrays.items()})
    for one in every:
        device.run(prepare(row, one))
    functions = {_OURS: _repeated(device, _OURS, [_ours(device, row, one) for one in every], made)}
    functions |= {} if alone else _peers(device, row, every, made)
    if made.verdict != "right":
        return made
    _, times = interleave(
        functions, rounds=rounds, seconds=_MEASUREMENT, limit=_LIMIT, measure=device.seconds
    )
    each = {name: seconds / made.sets for name, seconds in times.items()}
    made.rounds = len(each[_OURS])
    made.ours = _three(each[_OURS])
    if others := [name for name in each if name != _OURS]:
        made.peer_name = min(others, key=lambda name: _three(each[name])[0])
        made.peer = _three(each[made.peer_name])
        made.ratio = ratio(each[made.peer_name], each[_OURS])
    return made


def _ours(device: Any, row: Row, arrays: dict[str, Any]) -> Callable[[], None]:
    made = calls(row, arrays)
    return lambda: device.run(made)


def _repeated(
    device: Any, name: str, functions: Sequence[Callable[[], Any]], made: Measured
) -> Any:
    """Return the functions captured into one CUDA graph.

    If that fails, add a note to the result, and return an object that calls them one by one.
    """
    try:
        return device.repeated(functions)
    except Exception as error:  # Errors of PyTorch and cuda.core have no common base.
        said = " ".join(str(error).split())[:200]
        made.note += f"{name} is not captured into a graph: {type(error).__name__}: {said}. "
        return device.called(functions)


def _three(seconds: Any) -> tuple[float, float, float]:
    taken = timing(seconds)
    return taken.median, taken.p20, taken.p80


def _peers(
    device: Any, row: Row, every: Sequence[dict[str, Any]], made: Measured
) -> dict[str, Any]:
    """Return the variants of PyTorch by name, each captured into one graph over all the arrays.

    Also compare their results with ours.
    """
    found = {}
    for variant in device.variants(row):
        try:
            ready = [variant.make(device.tensors(arrays)) for arrays in every]
            if variant.comparable:
                apart = variant.distance(ready[0], device.tensors(every[0]), results(row))
                made.distance = max(made.distance or 0.0, apart)
            runs = [one.run for one in ready]
            found[variant.name] = _repeated(device, variant.name, runs, made)
        except Exception as error:  # PyTorch's compiler may raise any exception.
            said = " ".join(str(error).split())[:200]
            made.note += f"{variant.name} failed: {type(error).__name__}: {said}. "
    allowed = _MAX_DISTANCE[row.precision]
    if made.distance is not None and not made.distance <= allowed:
        made.verdict = (
            f"WRONG: |ours - PyTorch| / |PyTorch| is {made.distance:.2g}, expected at most "
            f"{allowed:.2g}"
        )
    return found
