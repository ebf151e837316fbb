"""Describe the machine and the software that a result depends on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import keras
import llvmlite.binding
import numba
from numba.core import config

from cnnforge.utils.processors import usable_processors

_PACKAGES = ("cnnforge", "keras", "tensorflow", "torch", "numba", "llvmlite", "numpy", "pillow")
_TIMEOUT = 5.0


def environment(**facts: Any) -> dict[str, Any]:
    """Describe this machine and this process.

    Args:
        **facts: More values from the caller, such as a seed; they come last in the result.

    Returns:
        Plain values, ready for JSON: `python`, `packages`, `backend`, `platform`, `cpu`,
        `threading_layer`, `gpu` and `driver` (`"none"` without a graphics card), `git`, `command`,
        then `facts`.
    """
    return {
        "python": platform.python_version(),
        "packages": versions(_PACKAGES),
        "backend": backend(),
        "platform": platform.platform(),
        "cpu": processor(),
        "threading_layer": threading_layer(),
        **graphics(),
        "git": git_commit(Path()),
        "command": list(sys.argv),
        **facts,
    }


def versions(names: Sequence[str]) -> dict[str, str]:
    """Look up the versions of installed distributions; missing ones are left out.

    Args:
        names: Names of distributions.
    """
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def backend() -> dict[str, str]:
    """Return the `name` and the `version` of the framework that Keras computes with."""
    name = keras.backend.backend()
    return {"name": name, "version": str(import_module(name).__version__)}


def processor() -> dict[str, Any]:
    """Describe the processor.

    Returns:
        `model`, `target` (LLVM's name of the processor), `features` (the instruction sets), `cores`
        (logical processors) and `usable_cores` (those that this process may run on).
    """
    features = llvmlite.binding.get_host_cpu_features()
    return {
        "model": _model_name() or platform.processor() or platform.machine(),
        "target": llvmlite.binding.get_host_cpu_name(),
        "features": sorted(name for name, present in features.items() if present),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_processors(),
    }


def threading_layer() -> str:
    """Return the name of the library that runs Numba's parallel loops.

    Numba chooses the library at its first parallel loop. Before that loop, the result is a text
    with the configured name.
    """
    try:
        return numba.threading_layer()
    except ValueError:
        # Type checkers would reject `config.THREADING_LAYER`, because Numba sets it at run time.
        return f"not used yet (configured: {vars(config)['THREADING_LAYER']})"


def graphics() -> dict[str, Any]:
    """Return the names of the NVIDIA graphics cards and the version of their driver.

    Returns:
        `gpu` and `driver`: the cards' names and the driver's version, or `"none"`.
    """
    lines = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    cards = [line.rsplit(",", 1) for line in (lines or "").splitlines() if "," in line]
    if not cards:
        return {"gpu": "none", "driver": "none"}
    return {"gpu": [name.strip() for name, _ in cards], "driver": cards[0][1].strip()}


def git_commit(folder: Path) -> Mapping[str, Any] | None:
    """Find the commit of the repository around a folder.

    Args:
        folder: Any folder.

    Returns:
        `commit` and `dirty` (whether a tracked file differs from the commit), or `None` if git is
        missing, or if the folder is not in a repository with a commit.
    """
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "dirty": bool(status)}


def _model_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return None


def _output(*command: str) -> str | None:
    """Run a program and return its output; `None` if it is missing or fails."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
