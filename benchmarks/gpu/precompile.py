"""Compile the kernels of the chosen rows (benchmark cases) before the measurement.

Several processes compile at the same time. A dry run of the rows, which runs nothing, finds out
which kernels they use. The machine code is stored on disk, and the processes that measure load it
from there.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.codegen.jit import Kernel
from cnnforge_kernels.cuda.runtime import compiler, driver, tuning
from gpu import dry_run
from gpu.problem import calls, given, prepare, written
from gpu.rows import Row, select

_MAX_PROCESSES = 16


class _Noting(dry_run.Driver):
    """Driver that stores launches and runs nothing.

    If the tuner is on, it stores the launches of all configurations, because the tuner times each.
    """

    def seconds(self, launches: list[Any], device: int, stream: int) -> float:
        self.launches += launches
        return math.inf  # The tuner ignores a configuration with this time, so it stores no choice.

    def launch(self, launches: list[Any], device: int, stream: int) -> None:
        self.launches += launches


def kernels(rows: Sequence[Row], tune: bool = False) -> list[Kernel]:
    """Return the kernels that rows use. With ``tune``, include those of every configuration."""
    found: dict[Kernel, None] = {}
    before, driver._driver = driver._driver, _Noting()
    asked = tuning.enabled()
    tuning.enable(tune)
    try:
        for row in rows:
            shapes = {name: (shape, "float32") for name, shape in given(row).items()}
            for name, shape in written(row).items():
                shapes[name] = shape, "uint8" if name == "argmax" else "float32"
            # These arrays may be large: nothing reads or writes them, so they occupy no memory.
            arrays = {
                name: dry_run.HostArray(np.empty(shape, dtype))
                for name, (shape, dtype) in shapes.items()
            }
            for call in (*prepare(row, arrays), *calls(row, arrays)):
                getattr(launch, call.function)(*call.arguments, **dict(call.options))
        noted: Any = driver._driver
        found |= dict.fromkeys(kernel for kernel, _, _ in noted.launches)
    finally:
        driver._driver = before
        tuning.enable(asked)
        tuning.forget()
    return list(found)


def _share(
    keys: list[str],
    tune: bool,
    capability: tuple[int, int],
    folder: Path | None,
    numbers: list[int],
) -> None:
    found = kernels(select(keys), tune)
    for number in numbers:
        if folder is None:
            compiler.cached_kernel(found[number], capability)
        else:
            compiler.export_kernel(found[number], capability, folder)


def precompile(
    keys: Sequence[str],
    tune: bool,
    capability: tuple[int, int],
    seconds: float | None = None,
    folder: Path | None = None,
) -> str:
    """Compile the kernels of rows in several processes.

    Args:
        keys: Keys of the rows.
        tune: Whether to compile the kernels of all configurations that the tuner may choose.
        capability: Compute capability of the device.
        seconds: Time limit. Kernels that are not compiled by then are compiled when they first run.
        folder: Folder to which kernels for another machine are written; ``None`` to compile for
            this machine.

    Returns:
        A line of text that says what was compiled.
    """
    begun = time.monotonic()
    every = kernels(select(keys), tune) if keys else []
    numbers = [
        number
        for number, kernel in enumerate(every)
        # For another machine, include the kernels that were compiled before, because all of them
        # must be written to the folder.
        if folder is not None or compiler.compiled_before(kernel, capability) is None
    ]
    if not numbers:
        return f"{len(every)} kernels, all of them were compiled before"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = max(1, min(_MAX_PROCESSES, usable or 1, len(numbers)))
    context = multiprocessing.get_context("spawn")
    try:
        with context.Pool(parts) as pool:
            asked = list(keys), tune, capability, folder
            tasks = [(*asked, numbers[part::parts]) for part in range(parts)]
            pool.starmap_async(_share, tasks).get(seconds)
    except multiprocessing.TimeoutError:
        return f"not all kernels were compiled in {seconds:.0f} s; the rest is when it is needed"
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return f"compiling ahead has FAILED; kernels are compiled when they are needed: {said}"
    taken = time.monotonic() - begun
    return f"{len(numbers)} kernels are compiled, in {taken:.0f} s by {parts} processes"
