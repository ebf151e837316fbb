"""One row: is it right, what does it take, what does the peer take, in turn."""

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
# Seconds: of one measurement, and of all rounds of a row.
_MEASUREMENT, _LIMIT = 0.004, 3.0
# How far PyTorch's results may be as a whole: float32 of another order of sums (FFT, Winograd),
# operands rounded to tf32, results rounded to bfloat16.
_DISTANCE = {"float32": 1e-3, "tf32": 4e-3, "bfloat16": 2e-2}


@dataclass
class Measured:
    """What a row of the table says. Seconds; ``None`` or empty where there is nothing to say.

    Attributes:
        key: of the row.
        verdict: ``"right"``, or what is wrong; then there are no times.
        ours: seconds: median, 20th and 80th percentile.
        peer: the same of the fastest peer.
        peer_name: which one.
        ratio: the peer's time by ours, taken round by round.
        floor: the least time that the device allows.
        bound: by what: ``"bytes"`` or ``"flops"``.
        flops: that the row asks for; so are ``bytes``.
        distance: of PyTorch's results from ours, as a whole.
        sets: of buffers that were rotated through.
        rounds: how often it was measured.
        tuned: the configurations that the tuner has chosen, by problem.
        note: what else there is to say: a peer that failed.
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
        """Plain values."""
        return asdict(self)


def from_json(values: dict[str, Any]) -> Measured:
    """What ``to_json`` gave, or the same read from a file."""
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
        row: what.
        device: a ``TorchDevice`` or a ``DryDevice``.
        ceilings: of the device.
        rounds: how often.
        alone: without peers.
    """
    needed, least = work(row), floor(row, ceilings)
    made = Measured(
        row.key,
        floor=least.seconds,
        bound=least.bound,
        flops=needed.flops,
        bytes=needed.bytes,
    )
    before = tuning.used()
    try:
        arrays = parity.check(device, row)
    except parity.WrongResultError as error:
        made.verdict = f"WRONG: {error}"
        return made
    made.tuned = {name: it for name, it in tuning.used().items() if before.get(name) != it}
    size = sum(array.nbytes for array in arrays.values())
    made.sets = device.sets(row, size)
    every = [arrays]
    for _ in range(made.sets - 1):
        every.append({name: device.copy(array) for name, array in arrays.items()})
    for one in every:
        device.run(prepare(row, one))
    functions = {_OURS: _repeated(device, _OURS, [_ours(device, row, it) for it in every], made)}
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
    """Functions in one graph; where they cannot be captured, called one by one, with a note."""
    try:
        return device.repeated(functions)
    except Exception as error:  # The driver's, PyTorch's and cuda.core's have no common base.
        said = " ".join(str(error).split())[:200]
        made.note += f"{name} is not captured into a graph: {type(error).__name__}: {said}. "
        return device.called(functions)


def _three(seconds: Any) -> tuple[float, float, float]:
    it = timing(seconds)
    return it.median, it.p20, it.p80


def _peers(
    device: Any, row: Row, every: Sequence[dict[str, Any]], made: Measured
) -> dict[str, Any]:
    """The peers, each with all sets of buffers in one graph; compared with ours on the first."""
    found = {}
    for variant in device.variants(row):
        try:
            ready = [variant.make(device.tensors(arrays)) for arrays in every]
            if variant.comparable:
                apart = variant.distance(ready[0], device.tensors(every[0]), results(row))
                made.distance = max(made.distance or 0.0, apart)
            runs = [it.run for it in ready]
            found[variant.name] = _repeated(device, variant.name, runs, made)
        except Exception as error:  # PyTorch's compiler raises whatever it likes.
            said = " ".join(str(error).split())[:200]
            made.note += f"{variant.name} failed: {type(error).__name__}: {said}. "
    allowed = _DISTANCE[row.precision]
    if made.distance is not None and not made.distance <= allowed:
        made.verdict = (
            f"WRONG: |ours - PyTorch| / |PyTorch| is {made.distance:.2g}, expected at most "
            f"{allowed:.2g}"
        )
    return found
