"""Compare two results of `cnnforge bench` on one machine, and tell changes of speed from noise."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnforge.errors import UsageError

FORMAT = "cnnforge-bench-2"
# Fewer rounds cannot tell a faster layer from a slower one: the percentiles of three rounds are
# about their min and max.
MIN_ROUNDS = 10
_MACHINE = ("model", "target", "features", "cores", "usable_cores")
# Two measurements of a machine's peak speed differ by a few per cent. `remarks` reports a
# difference above 20 %, because then another process probably took CPU time.
_PEAK_TOLERANCE = 0.2
_MIN_NOISE = 0.02


@dataclass(frozen=True)
class Change:
    """The change of one pass of one case.

    Attributes:
        case: Name of the case.
        name: Name of the pass.
        before: Time of the reference divided by the time of the plugin layer, in the earlier
            result.
        now: The same ratio in the new result.
        change: ``now / before - 1``; positive if the plugin layer has become faster.
        noise: Max change that is expected between two runs of the same code. It is computed from
            the percentiles of the ratio in both results.
        rounds: Number of rounds of the result that has fewer.
    """

    case: str
    name: str
    before: float
    now: float
    change: float
    noise: float
    rounds: int

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, or ``same`` if the change is not larger than the noise.

        It is ``unknown`` if there are fewer than `MIN_ROUNDS` rounds.
        """
        if self.rounds < MIN_ROUNDS:
            return "unknown"
        if abs(self.change) <= self.noise:
            return "same"
        return "faster" if self.change > 0 else "slower"


def read_result(path: Path) -> dict[str, Any]:
    """Read a file with the output of ``cnnforge bench --json``.

    Args:
        path: The file.

    Returns:
        The JSON object in the file.

    Raises:
        UsageError: The file cannot be read, or it is not an output of this version of the command.
    """
    result: Any = None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the result {path} cannot be read: {error.strerror}; expected a file that "
            "`cnnforge bench --json` has written"
        ) from None
    except ValueError:
        pass
    usable = isinstance(result, dict) and result.get("format") == FORMAT
    if not usable or not isinstance(result.get("machine"), dict) or not _sound(result):
        raise UsageError(
            f"{path} does not hold a result of this version of `cnnforge bench --json`; make one "
            f"with cnnforge bench --json > {path}"
        )
    return result


def require_same_machine(before: Mapping[str, Any], machine: Mapping[str, Any], path: Path) -> None:
    """Raise an error if an earlier result was measured on another machine.

    Args:
        before: An earlier result.
        machine: Description of this machine by `cnnforge.utils.environment.environment`.
        path: The file of the earlier result, which the error message names.

    Raises:
        UsageError: The processor, the number of cores, the backend or the graphics card differs.
    """
    then, now = _identity(before["machine"]), _identity(machine)
    different = [f"{key} {then[key]} then, {now[key]} now" for key in now if then[key] != now[key]]
    if different:
        raise UsageError(
            f"NOT COMPARABLE: {path} is of another machine ({'; '.join(different)}); measure both "
            "versions on one machine"
        )


def remarks(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two results of one machine, except changes of a ratio.

    Args:
        before: An earlier result.
        now: The new one.

    Returns:
        Up to five lines: packages of other versions, a different peak speed of the machine in
        operations or in bytes, and cases that only one of the two results contains.
    """
    lines = []
    old, new = (result["machine"].get("packages", {}) for result in (before, now))
    changed = [
        f"{name} {old.get(name, 'missing')} -> {new.get(name, 'missing')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if changed:
        lines.append(f"packages differ: {', '.join(changed)}")
    for what in ("flops", "bytes"):
        then, today = (result.get("peaks", {}).get(what) for result in (before, now))
        if then and today and abs(math.log(today / then)) > _PEAK_TOLERANCE:
            lines.append(
                f"the machine's peak ({what}) is {today / then:.2f} times the earlier one: another "
                "process runs or ran, or this is another machine of the same kind"
            )
    for title, one, other in (("only then", before, now), ("only now", now, before)):
        names = {case["name"] for case in other["cases"]}
        missing = [case["name"] for case in one["cases"] if case["name"] not in names]
        if missing:
            lines.append(f"cases measured {title}: {', '.join(missing)}")
    return lines


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Compare the ratios ``reference / ours`` in two results of one machine.

    The times themselves are not compared, because the speed of a machine differs from one run to
    the next. This difference affects a layer and its reference alike, so it does not affect ratios.

    Args:
        before: An earlier result.
        now: The new one.

    Returns:
        One change for each pass of a case that both results contain.
    """
    known = {case["name"]: case["passes"] for case in before["cases"]}
    changes = []
    for case in now["cases"]:
        for name, times in case["passes"].items():
            earlier = known.get(case["name"], {}).get(name)
            if earlier is not None:
                old, new = earlier["ratio"], times["ratio"]
                change = new["median"] / old["median"] - 1
                noise = math.hypot(_spread(old), _spread(new))
                rounds = min(earlier["rounds"], times["rounds"])
                changes.append(
                    Change(case["name"], name, old["median"], new["median"], change, noise, rounds)
                )
    return changes


def _spread(ratio: Mapping[str, float]) -> float:
    # The results of two runs differ by more than the rounds of one run do. So the noise of a run is
    # the whole distance between the 20th and the 80th percentile, and at least 2 %.
    return max(_MIN_NOISE, (ratio["p80"] - ratio["p20"]) / ratio["median"])


def _identity(machine: Mapping[str, Any]) -> dict[str, Any]:
    cpu, backend = machine.get("cpu", {}), machine.get("backend", {})
    found: dict[str, Any] = {name: cpu.get(name) for name in _MACHINE}
    # An error message shows these values. So a short digest replaces the list of up to a hundred
    # instruction sets.
    features = json.dumps(found["features"])
    found["features"] = hashlib.sha256(features.encode()).hexdigest()[:8]
    return {**found, "backend": backend.get("name"), "gpu": machine.get("gpu")}


def _sound(result: Mapping[str, Any]) -> bool:
    cases = result.get("cases")
    return isinstance(cases, list) and all(
        isinstance(case, dict) and isinstance(case.get("name"), str) and "passes" in case
        for case in cases
    )
