"""The parity suite, ``pytest -m gpu``, and the same under compute-sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = "tests/cnnforge_kernels/cuda"
# They go through Keras' layers, under its torch backend.
LAYERS = ("tests/cnnforge_plugins/layers/test_torch_cuda.py", "tests/cnnforge/ops/test_torch.py")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_FOLDERS = (ROOT, ROOT / "kernels", ROOT / "plugins", ROOT / "benchmarks")
# Processes that test at a time: most of what they do is compiling, on the CPU.
_PROCESSES = 8


@dataclass(frozen=True)
class Outcome:
    """Attributes: ``name``, ``verdict`` (``passed``, ``FAILED``, ``skipped``), ``text``."""

    name: str
    verdict: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict}: {self.text}"


def environment(**more: str) -> dict[str, str]:
    """The variables of a process that finds this repository's packages, installed or not."""
    known = os.environ.get("PYTHONPATH", "")
    paths = [*map(str, _FOLDERS), *([known] if known else [])]
    # pytest cuts its last lines to the width: what failed stands there, and then why.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "250", **more}


def command(*paths: str, parallel: bool = True) -> list[str]:
    """The command of the suite."""
    made = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfEs", "-p", "no:cacheprovider"]
    # With versions of other packages than this repository is tested with, their warnings differ.
    made += ["-W", "default"]
    if parallel and find_spec("xdist"):
        made += ["-n", str(min(_PROCESSES, os.cpu_count() or 1))]
    return [*made, *paths]


def parity(seconds: float | None) -> Iterator[Outcome]:
    """Run the suite: that of the kernels, and that of the layers where Keras is installed.

    Args:
        seconds: for each; ``None`` for as long as it takes.
    """
    yield _run("parity of the kernels", command(KERNELS), environment(), seconds)
    if find_spec("keras") is None:
        text = "Keras is not installed; the layers' tests need it, with its torch backend"
        yield Outcome("parity of the layers", "skipped", text)
    else:
        variables = environment(KERAS_BACKEND="torch")
        yield _run("parity of the layers", command(*LAYERS), variables, seconds)


def compiled(capability: tuple[int, int], folder: Path) -> Iterator[Outcome]:
    """Compile the kernels of the suite for a machine that may have no compiler; needs no device.

    Args:
        capability: of that machine's device.
        folder: where to.
    """
    plugin = ["-p", "gpu.dry_suite", "--compile-for", "{}.{}".format(*capability)]
    plugin += ["--cubins", str(folder)]
    yield _run("kernels of the suite", [*command(KERNELS), *plugin], environment(), None)
    # What the layers launch on a device they launch on its stand-in as well.
    made = [*command(LAYERS[0]), *plugin, "-m", "not gpu", "-k", "what_is_launched"]
    if find_spec("keras") and find_spec("torch"):
        variables = environment(KERAS_BACKEND="torch")
        yield _run("kernels of the layers' suite", made, variables, None)
    else:
        text = "it needs Keras and PyTorch"
        yield Outcome("kernels of the layers' suite", "skipped", text)


def sanitize(tools: Sequence[str], seconds: Callable[[], float | None]) -> Iterator[Outcome]:
    """Run the suite of the kernels under tools of compute-sanitizer.

    Args:
        tools: of ``TOOLS``.
        seconds: for each; ``None`` for as long as it takes.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        text = "compute-sanitizer is not on the PATH; it is part of NVIDIA's CUDA toolkit"
        yield Outcome("sanitizer", "skipped", text)
        return
    for tool in tools:
        # The tests of the tensor cores run in a process of their own.
        made = [program, "--tool", tool, "--target-processes", "all", "--error-exitcode", "9"]
        made += command(KERNELS, parallel=False)
        yield _run(tool, made, environment(), seconds())


def _run(
    name: str, made: list[str], variables: Mapping[str, str], seconds: float | None
) -> Outcome:
    try:
        done = subprocess.run(
            made,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(name, "FAILED", f"not done in {seconds:.0f} s")
    return judge(name, done.returncode, done.stdout)


def judge(name: str, code: int, output: str) -> Outcome:
    """What a run of pytest, alone or under a tool, says.

    A run in which nothing was tested has not passed.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    counts = re.compile(r"\d+ (passed|failed|skipped|errors?)\b.* in [\d.]+")
    summary = next((it for it in reversed(lines) if counts.search(it)), "")
    tool = [it.strip("= ") for it in lines if "ERROR SUMMARY" in it or "RACECHECK SUMMARY" in it]
    text = "; ".join(it for it in (summary.strip("= "), *tool) if it)
    if code == 0 and re.search(r"\d+ passed", summary):
        return Outcome(name, "passed", text)
    if code == 0:
        reasons = [line for line in lines if line.startswith("SKIPPED")]
        return Outcome(name, "skipped", "; ".join([text, *reasons]))
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    tail = "\n".join(["", *(failed[:20] or lines[-15:])])
    return Outcome(name, "FAILED", f"exit code {code}; {text}{tail}")
