"""The parity suite, ``pytest -m gpu``, and the same under compute-sanitizer."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = "tests/cnnforge_kernels/cuda"
# They go through Keras' layers, under its torch backend.
LAYERS = ("tests/cnnforge_plugins/layers/test_torch_cuda.py", "tests/cnnforge/ops/test_torch.py")
# Their names say which tests are large.
SMALL = "not large"
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


def command(*paths: str, parallel: bool = True, tests: str | None = None) -> list[str]:
    """The command of the suite; ``tests`` is an expression for pytest's ``-k``."""
    made = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfEs", "-p", "no:cacheprovider"]
    # With versions of other packages than this repository is tested with, their warnings differ.
    made += ["-W", "default", "--durations", "5"]
    if parallel and find_spec("xdist"):
        made += ["-n", str(min(_PROCESSES, os.cpu_count() or 1))]
    return [*made, *(["-k", tests] if tests else []), *paths]


def parity(
    seconds: float | None = None, tests: str | None = None, log: Path | None = None
) -> Outcome:
    """Run the suite of the kernels.

    Args:
        seconds: at most; ``None`` for as long as it takes.
        tests: only these, as for pytest's ``-k``.
        log: the folder for what it prints.
    """
    made = command(KERNELS, tests=tests)
    return _run("parity of the kernels", made, environment(), seconds, log)


def layers(
    seconds: float | None = None, tests: str | None = None, log: Path | None = None
) -> Outcome:
    """Run the suite of the layers, where Keras is installed; the arguments are ``parity``'s."""
    name = "parity of the layers"
    if find_spec("keras") is None:
        text = "Keras is not installed; the layers' tests need it, with its torch backend"
        return Outcome(name, "skipped", text)
    made = command(*LAYERS, tests=tests)
    return _run(name, made, environment(KERAS_BACKEND="torch"), seconds, log)


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


def sanitize(
    tools: Sequence[str],
    seconds: float | None = None,
    tests: str | None = None,
    log: Path | None = None,
) -> Iterator[Outcome]:
    """Run the suite of the kernels under tools of compute-sanitizer, all of them at a time.

    Args:
        tools: of ``TOOLS``.
        seconds: at most; ``None`` for as long as it takes.
        tests: which, as for pytest's ``-k``; the small ones by default. Under a tool a kernel takes
            some hundred times as long.
        log: the folder for what they print.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        text = "compute-sanitizer is not on the PATH; it is part of NVIDIA's CUDA toolkit"
        yield Outcome("sanitizer", "skipped", text)
        return
    suite = command(KERNELS, parallel=False, tests=tests or SMALL)

    def under(tool: str) -> Outcome:
        made = [program, "--tool", tool, "--error-exitcode", "9", *suite]
        return _run(tool, made, environment(), seconds, log)

    with ThreadPoolExecutor(len(TOOLS)) as pool:
        yield from pool.map(under, tools)


def _run(
    name: str,
    made: list[str],
    variables: Mapping[str, str],
    seconds: float | None,
    log: Path | None = None,
) -> Outcome:
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        started = subprocess.Popen(
            made,
            cwd=ROOT,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = started.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # With the processes that it has started: they would hold the device.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        output.seek(0)
        text = output.read()
    if log is not None:
        log.mkdir(parents=True, exist_ok=True)
        (log / f"{name.replace(' ', '-')}.log").write_text(text, encoding="utf-8")
    if code is None:
        last = "\n".join(["", *text.strip().splitlines()[-5:]])
        return Outcome(name, "FAILED", f"not done in {seconds:.0f} s{last}")
    outcome = judge(name, code, text)
    return replace(outcome, text=f"{outcome.text} ({time.monotonic() - begun:.0f} s in all)")


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
