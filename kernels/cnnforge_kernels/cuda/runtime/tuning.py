"""Which configuration of a plan is the fastest on this device: measured once, kept on disk.

Off unless asked for, by ``CNNFORGE_TUNE=1`` in the environment or by ``enable()``: then the first
call of a shape runs every configuration that its plan offers, on the arrays of that call, and the
fastest is kept. Every later call takes it, in this process and in others. Without a choice, and
while a stream is captured into a CUDA graph, the plan's first configuration runs.

A configuration sums in an order of its own: what is chosen decides the last bits of a result, and
the same choice gives the same bits every time.

The file lies in the folder of compiled kernels (``XDG_CACHE_HOME``). Its name is a digest of the
kernels' sources, the compilers, the device, its compute capability and its driver: what was
measured elsewhere, or of other code, is not read. A file that cannot be read counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from cnnforge_kernels.cuda.runtime import compiler
from cnnforge_kernels.cuda.runtime.plans import Plan

_VARIABLE = "CNNFORGE_TUNE"
# Of two configurations that are so near, the one that stands first is taken: not the noise decides.
_TIE = 0.03

_asked: bool | None = None
_lock = threading.RLock()
# By device and its driver: problem to configuration, as the file has it.
_choices: dict[str, dict[str, str]] = {}
_plans: dict[tuple[str, str], Plan] = {}


def enable(on: bool = True) -> None:
    """Choose configurations by their time from now on, or no longer."""
    global _asked
    _asked = on


def enabled() -> bool:
    """Whether configurations are chosen by their time."""
    if _asked is None:
        return os.environ.get(_VARIABLE, "0") not in ("", "0")
    return _asked


def used() -> dict[str, str]:
    """The choices that this process has followed: problem to configuration."""
    return {problem: _choices[identity][problem] for identity, problem in _plans}


def forget() -> None:
    """Forget what this process knows; the file stays."""
    with _lock:
        _choices.clear()
        _plans.clear()


def chosen(plan: Plan, identity: str, seconds: Callable[[Plan], float] | None) -> Plan:
    """The configuration of a plan to run.

    Args:
        plan: with the configurations that it offers.
        identity: the device, its compute capability and its driver.
        seconds: runs a plan and says what it takes; ``None`` while nothing can be measured.

    Returns:
        The plan of the configuration that is known or measured to be the fastest; ``plan`` itself
        where nothing is known and nothing can be measured.
    """
    key = identity, plan.problem
    found = _plans.get(key)
    if found is not None:
        return found
    with _lock:
        if identity not in _choices:
            _choices[identity] = _read(_path(identity))
        name = _choices[identity].get(plan.problem)
        if name not in plan.options:
            if seconds is None:
                return plan
            name = fastest(plan.options, seconds)
            if name is None:
                return plan
            _choices[identity][plan.problem] = name
            _keep(identity)
        _plans[key] = plan.options[name]()
        return _plans[key]


def fastest(
    options: Mapping[str, Callable[[], Plan]], seconds: Callable[[Plan], float]
) -> str | None:
    """The name of the fastest configuration: the first within 3 % of the least time.

    One that fails, because it is too large for the device or does not compile, is passed over.

    Args:
        options: name to what makes the plan.
        seconds: runs a plan and says what it takes.

    Returns:
        ``None`` where all of them fail.
    """
    times = {}
    for name, make in options.items():
        try:
            taken = seconds(make())
        except Exception:  # The compiler's, the driver's and the plan's have no common base.
            continue
        if math.isfinite(taken) and taken > 0:
            times[name] = taken
    if not times:
        return None
    least = min(times.values())
    return next(name for name, taken in times.items() if taken <= least * (1 + _TIE))


def _path(identity: str) -> Path:
    key = f"{identity} {compiler.toolchain()} {compiler.sources()}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(compiler.cache_directory()) / "cuda" / f"tuned-{digest}.json"


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["choices"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str)}


def _keep(identity: str) -> None:
    """Write what is known, beside what another process has written meanwhile."""
    path = _path(identity)
    content = {"device": identity, "choices": _read(path) | _choices[identity]}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
        os.replace(name, path)
