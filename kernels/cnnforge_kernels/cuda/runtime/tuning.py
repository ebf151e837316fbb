"""The tuner: measure the configurations of a plan on this device, and use the fastest.

A plan (``plans.py``) lists the kernels for one shape. Some shapes have several plans, named by
their configuration, such as a tile size. The tuner is experimental: it has not yet run on a device.
It is off by default, and the first configuration is then used. ``CNNFORGE_TUNE=1`` in the
environment or ``enable()`` turns it on. Then the first call with a shape runs and times every
configuration, on the arrays of that call. Later calls use the fastest configuration, in this
process and in others. While a stream is being captured into a CUDA graph, nothing can be timed, so
a shape without a known choice uses its first configuration.

Configurations add in different orders, so the last bits of a result depend on the choice. The same
choice gives the same bits every time.

The choices are stored in a file in the cache folder, next to the compiled kernels. The file name is
a digest of the kernels' sources, the compilers, the device, its compute capability and its driver,
so choices for another device or other code are not used. A file that cannot be read is ignored.
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
# All configurations within 3 % of the minimum time count as equally fast, and the first of them is
# chosen. So random differences between measurements do not change the choice.
_TIE = 0.03

_asked: bool | None = None
_lock = threading.RLock()
# The content of the files: device and driver -> problem (op and shapes) -> chosen configuration.
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
    """Return the configuration that this process has used for each problem (op and shapes)."""
    return {problem: _choices[identity][problem] for identity, problem in _plans}


def forget() -> None:
    """Forget the choices that are in memory. The files stay, and are read again when needed."""
    with _lock:
        _choices.clear()
        _plans.clear()


def chosen(plan: Plan, identity: str, seconds: Callable[[Plan], float] | None) -> Plan:
    """Return the plan of the fastest configuration. Measure the configurations if necessary.

    Args:
        plan: Plan whose ``options`` make the plans of all configurations.
        identity: Text with the device, its compute capability and its driver.
        seconds: Function that runs a plan and returns its time in seconds; ``None`` if nothing can
            be timed now.

    Returns:
        The plan of the fastest configuration; ``plan`` itself if the fastest is unknown and nothing
        can be timed.
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
    """Return the name of the first configuration within 3 % of the minimum time.

    A configuration that raises an error, for example because it needs more shared memory than the
    device has, is left out.

    Args:
        options: Functions that make a plan, by the name of its configuration.
        seconds: Function that runs a plan and returns its time in seconds.

    Returns:
        The name of the configuration; ``None`` if all of them fail.
    """
    times = {}
    for name, make in options.items():
        try:
            taken = seconds(make())
        except Exception:  # Errors of the compiler and the driver have no other common base class.
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
    """Add the choices for a device to its file, which may have new choices of other processes."""
    path = _path(identity)
    content = {"device": identity, "choices": _read(path) | _choices[identity]}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
        os.replace(name, path)
