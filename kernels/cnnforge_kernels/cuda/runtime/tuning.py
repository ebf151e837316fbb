"""The tuner: it measures the configurations of a plan on this device and keeps the fastest.

Experimental: not yet run on a device. It is off by default, and each plan then runs its first
configuration. ``CNNFORGE_TUNE=1`` in the environment or ``enable()`` turns it on. The first call of
a shape then runs every configuration of its plan on the arrays of that call. Later calls use the
fastest one, in this process and in others. While a stream is captured into a CUDA graph, an unknown
shape runs its first configuration.

Configurations sum in different orders, so the choice decides the last bits of a result. The same
choice gives the same bits every time.

The choices are in a file in the folder of compiled kernels (``XDG_CACHE_HOME``). Its name is a
digest of the sources of the kernels, the compilers, the device, its compute capability and its
driver, so measurements of another device or of other code are not read. A file that cannot be read
is ignored.
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

VARIABLE = "CNNFORGE_TUNE"
# If times differ by less than this share, the first configuration wins, so noise does not decide.
_TIE = 0.03

_asked: bool | None = None
_lock = threading.RLock()
# For each device with its driver, the configuration of each problem, as in the file.
_choices: dict[str, dict[str, str]] = {}
_plans: dict[tuple[str, str], Plan] = {}


def enable(on: bool = True) -> None:
    """Turn the tuner on or off for this process."""
    global _asked
    _asked = on


def enabled() -> bool:
    """Whether the tuner is on."""
    if _asked is None:
        return os.environ.get(VARIABLE, "0") not in ("", "0")
    return _asked


def used() -> dict[str, str]:
    """Return the choices that this process has used: a configuration for each problem."""
    return {problem: _choices[identity][problem] for identity, problem in _plans}


def forget() -> None:
    """Forget the choices of this process. The file stays."""
    with _lock:
        _choices.clear()
        _plans.clear()


def chosen(plan: Plan, identity: str, seconds: Callable[[Plan], float] | None) -> Plan:
    """Choose the configuration of a plan.

    Args:
        plan: Plan with its configurations.
        identity: Name of the device, its compute capability and its driver.
        seconds: Function that runs a plan and returns its time in seconds; ``None`` if nothing can
            be measured now.

    Returns:
        The plan of the fastest configuration; ``plan`` itself if the fastest is unknown and cannot
        be measured.
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
    """Find the fastest configuration: the first within 3 % of the minimum time.

    A configuration that is too large for the device, or does not compile, is skipped.

    Args:
        options: Functions that make the plan of each configuration, by name.
        seconds: Function that runs a plan and returns its time in seconds.

    Returns:
        The name of the configuration; ``None`` if all of them fail.
    """
    times = {}
    for name, make in options.items():
        try:
            taken = seconds(make())
        except Exception:  # Errors of compiler, driver and plan have no common base.
            continue
        if math.isfinite(taken) and taken > 0:
            times[name] = taken
    if not times:
        return None
    limit = min(times.values()) * (1 + _TIE)
    return next(name for name, taken in times.items() if taken <= limit)


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
    """Write the choices to the file, and keep those that another process has written meanwhile."""
    path = _path(identity)
    content = {"device": identity, "choices": _read(path) | _choices[identity]}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
        os.replace(name, path)
