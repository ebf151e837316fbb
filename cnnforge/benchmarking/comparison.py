"""An earlier result beside a new one: the same machine or none, and what is more than noise."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnforge.errors import UsageError

FORMAT = "cnnforge-bench-1"
_MACHINE = ("model", "target", "features", "cores", "usable_cores")
# What a machine can do at most is measured to a few per cent; beyond this something else runs.
_PEAK_TOLERANCE = 0.2
_LEAST_NOISE = 0.02


@dataclass(frozen=True)
class Change:
    """How one pass of one case has changed.

    Attributes:
        case: Its name.
        name: The pass.
        before: ``reference / ours`` then.
        now: ``reference / ours`` now.
        change: ``now / before - 1``: above zero, ours has gained on the reference.
        noise: What two runs of the same code may differ by, from the spread of the rounds of both.
    """

    case: str
    name: str
    before: float
    now: float
    change: float
    noise: float

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, or ``same`` within the noise."""
        if abs(self.change) <= self.noise:
            return "same"
        return "faster" if self.change > 0 else "slower"


def read_result(path: Path) -> dict[str, Any]:
    """Read what ``cnnforge bench --json`` printed.

    Args:
        path: The file.

    Returns:
        The object in it.

    Raises:
        UsageError: There is no such file, or it holds something else.
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
            f"{path} holds no result of this version of `cnnforge bench --json`; make one with "
            f"cnnforge bench --json > {path}"
        )
    return result


def require_same_machine(before: Mapping[str, Any], machine: Mapping[str, Any], path: Path) -> None:
    """Refuse to compare times of two machines.

    Args:
        before: An earlier result.
        machine: What `cnnforge.utils.environment.environment` says of this one.
        path: Where the earlier result is from.

    Raises:
        UsageError: They are not of the same processor, number of cores, backend and graphics card.
    """
    then, now = _identity(before["machine"]), _identity(machine)
    different = [f"{key} {then[key]} then, {now[key]} now" for key in now if then[key] != now[key]]
    if different:
        raise UsageError(
            f"NOT COMPARABLE: {path} is of another machine ({'; '.join(different)}); measure both "
            "versions on one machine"
        )


def remarks(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what else differs between two results of the same machine.

    Args:
        before: An earlier result.
        now: The new one.

    Returns:
        A line each: packages of other versions, a peak that is off, cases in one of the two only.
    """
    lines = []
    old, new = (it["machine"].get("packages", {}) for it in (before, now))
    changed = [
        f"{name} {old.get(name, 'missing')} -> {new.get(name, 'missing')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if changed:
        lines.append(f"packages differ: {', '.join(changed)}")
    for what in ("flops", "bytes"):
        then, today = (it.get("peaks", {}).get(what) for it in (before, now))
        if then and today and abs(math.log(today / then)) > _PEAK_TOLERANCE:
            lines.append(
                f"the machine's peak ({what}) is {today / then:.2f} times what it was: something "
                "else runs, ran then, or this is another machine of the same kind"
            )
    for title, one, other in (("only then", before, now), ("only now", now, before)):
        names = {it["name"] for it in other["cases"]}
        missing = [it["name"] for it in one["cases"] if it["name"] not in names]
        if missing:
            lines.append(f"cases measured {title}: {', '.join(missing)}")
    return lines


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Compare the ratios of two results of the same machine, case by case.

    Ratios to the reference of the same run, because the speed of the machine in that minute drops
    out of them.

    Args:
        before: An earlier result.
        now: The new one.

    Returns:
        One for each pass that both have.
    """
    known = {it["name"]: it["passes"] for it in before["cases"]}
    changes = []
    for case in now["cases"]:
        for name, it in case["passes"].items():
            old = known.get(case["name"], {}).get(name, {}).get("ratio")
            new = it["ratio"]
            if old and new:
                change = new["median"] / old["median"] - 1
                noise = math.hypot(_spread(old), _spread(new))
                changes.append(
                    Change(case["name"], name, old["median"], new["median"], change, noise)
                )
    return changes


def _spread(ratio: Mapping[str, float]) -> float:
    # The whole width, and never nothing: two runs differ by more than the rounds of one.
    return max(_LEAST_NOISE, (ratio["p80"] - ratio["p20"]) / ratio["median"])


def _identity(machine: Mapping[str, Any]) -> dict[str, Any]:
    cpu, backend = machine.get("cpu", {}), machine.get("backend", {})
    found: dict[str, Any] = {name: cpu.get(name) for name in _MACHINE}
    # Hundreds of instruction sets would make a message of a page.
    features = json.dumps(found["features"])
    found["features"] = hashlib.sha256(features.encode()).hexdigest()[:8]
    return {**found, "backend": backend.get("name"), "gpu": machine.get("gpu")}


def _sound(result: Mapping[str, Any]) -> bool:
    cases = result.get("cases")
    return isinstance(cases, list) and all(
        isinstance(it, dict) and isinstance(it.get("name"), str) and "passes" in it for it in cases
    )
