"""Measure one row (a benchmark case): check our result, and time our kernels and PyTorch."""

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
# Minimum duration of one measurement and maximum duration of all rounds of a row, in seconds. A
# slow row has fewer rounds.
_MEASUREMENT, _LIMIT = 0.004, 3.0
# Maximum relative distance between our results and those of PyTorch, by precision. Above it, the
# row is wrong. Smaller differences are expected: PyTorch sums in another order (FFT, Winograd),
# rounds operands to tf32, or rounds results to bfloat16.
_MAX_DISTANCE = {"float32": 1e-3, "tf32": 4e-3, "bfloat16": 2e-2}


@dataclass
class Measured:
    """Result of a row. A value that was not measured is ``None`` or empty.

    Attributes:
        key: Key of the row, such as ``"seed1.block.forward"``.
        verdict: ``"right"``, or a description of the error. Unless it is ``"right"``, there are no
            times.
        ours: Our time in seconds: median, 20th and 80th percentile.
        peer: Time of the fastest variant of PyTorch in seconds: median, 20th and 80th percentile.
        peer_name: Name of that variant.
        ratio: Time of that variant divided by ours in the same round: median, 20th and 80th
            percentile.
        floor: Minimum time in seconds that the peak rates of the device allow.
        bound: Limit that determines the minimum time: ``"bytes"`` or ``"flops"``.
        flops: Minimum number of operations of the row.
        bytes: Minimum number of bytes that the row reads and writes.
        distance: Relative distance between our results and the results of PyTorch.
        sets: Number of copies of the row's arrays that the measurement uses one after the other.
        rounds: Number of rounds.
        tuned: Configurations that the tuner chose for the kernels, by problem (op and shapes).
        note: Notes, such as the error of a variant of PyTorch that failed.
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
        """Return the attributes as a dict that can be written as JSON."""
        return asdict(self)


def from_json(values: dict[str, Any]) -> Measured:
    """Return the result whose attributes are in a dict, which comes from ``to_json`` or a file."""
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
        alone: Whether to time only our kernels and not PyTorch.
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
    """Return a CUDA graph of the functions.

    If the capture fails, add a note to ``made``, and return an object that calls the functions one
    by one.
    """
    try:
        return device.repeated(functions)
    except Exception as error:  # Errors of PyTorch and cuda.core have no other common base.
        said = " ".join(str(error).split())[:200]
        made.note += f"{name} is not captured into a graph: {type(error).__name__}: {said}. "
        return device.called(functions)


def _three(seconds: Any) -> tuple[float, float, float]:
    taken = timing(seconds)
    return taken.median, taken.p20, taken.p80


def _peers(
    device: Any, row: Row, every: Sequence[dict[str, Any]], made: Measured
) -> dict[str, Any]:
    """Return a CUDA graph for each variant of PyTorch (torch_peer.py), by name.

    A graph computes the row once for each copy of the arrays in ``every``. This function also
    compares PyTorch's results with ours, and changes the verdict in ``made`` if they differ.
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
