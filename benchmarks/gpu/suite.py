"""Run the tests that need a device (``pytest -m gpu``), also under compute-sanitizer.

compute-sanitizer is NVIDIA's tool that finds invalid memory accesses and races in kernels.
"""

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
# Tests of the Keras layers, which run under the torch backend of Keras.
LAYERS = (
    "tests/cnnforge_plugins/layers/test_torch_cuda.py",
    "tests/cnnforge/ops/torch/test_torch.py",
)
# Expression for `pytest -k` that leaves out large tests, whose names contain "large".
SMALL = "not large"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_FOLDERS = (ROOT, ROOT / "kernels", ROOT / "plugins", ROOT / "benchmarks")
# Maximum number of test processes. They share the device, but most of their time they compile
# kernels on the CPU.
_MAX_PROCESSES = 8


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run of pytest.

    Attributes:
        name: Name of the run, such as ``"parity of the kernels"``.
        verdict: ``"passed"``, ``"FAILED"`` or ``"skipped"``.
        text: Summary of pytest, or the reason.
    """

    name: str
    verdict: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict}: {self.text}"


def environment(**more: str) -> dict[str, str]:
    """Return environment variables for a process that imports packages of this repository."""
    known = os.environ.get("PYTHONPATH", "")
    paths = [*map(str, _FOLDERS), *([known] if known else [])]
    # pytest cuts its last lines, which have the reasons of failures, to the width COLUMNS.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "250", **more}


def command(*paths: str, parallel: bool = True, tests: str | None = None) -> list[str]:
    """Return the command that runs the tests in ``paths`` that need a device.

    Args:
        *paths: Files or folders of tests.
        parallel: Whether to use several processes if pytest-xdist is installed.
        tests: Expression for ``pytest -k``; ``None`` for all tests.
    """
    made = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfEs", "-p", "no:cacheprovider"]
    # The tests usually turn warnings into errors. Do not do so here, because the packages on this
    # machine may have other versions, which give other warnings.
    made += ["-W", "default", "--durations", "5"]
    if parallel and find_spec("xdist"):
        made += ["-n", str(min(_MAX_PROCESSES, os.cpu_count() or 1))]
    return [*made, *(["-k", tests] if tests else []), *paths]


def parity(
    seconds: float | None = None, tests: str | None = None, log: Path | None = None
) -> Outcome:
    """Run the tests of the kernels.

    Args:
        seconds: Time limit; ``None`` without a limit.
        tests: Expression for ``pytest -k``; ``None`` for all tests.
        log: Folder for a file with the output; ``None`` for no file.
    """
    made = command(KERNELS, tests=tests)
    return _run("parity of the kernels", made, environment(), seconds, log)


def layers(
    seconds: float | None = None, tests: str | None = None, log: Path | None = None
) -> Outcome:
    """Run the tests of the layers if Keras is installed. The arguments are those of ``parity``."""
    name = "parity of the layers"
    if find_spec("keras") is None:
        text = "Keras is not installed; the layers' tests need it, with its torch backend"
        return Outcome(name, "skipped", text)
    made = command(*LAYERS, tests=tests)
    return _run(name, made, environment(KERAS_BACKEND="torch"), seconds, log)


def compiled(capability: tuple[int, int], folder: Path) -> Iterator[Outcome]:
    """Compile the kernels that the tests launch, for another machine that may have no compiler.

    This machine needs no device.

    Args:
        capability: Compute capability of the device of the other machine.
        folder: Folder to which the kernels are written.

    Yields:
        The outcome for the tests of the kernels, and then for those of the layers.
    """
    plugin = ["-p", "gpu.dry_run_plugin", "--compile-for", "{}.{}".format(*capability)]
    plugin += ["--cubins", str(folder)]
    yield _run("kernels of the suite", [*command(KERNELS), *plugin], environment(), None)
    # Run the tests of the layers that need no device, because they launch the same kernels as those
    # that need one.
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
    """Run the tests of the kernels under each tool of compute-sanitizer, all tools at once.

    Args:
        tools: Names from ``TOOLS``.
        seconds: Time limit; ``None`` without a limit.
        tests: Expression for ``pytest -k``. By default only small tests run, because a kernel takes
            about a hundred times as long under a tool.
        log: Folder for files with the output; ``None`` for no files.

    Yields:
        The outcome for each tool.
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
            # After a timeout, processes that pytest started may still use the device. End the whole
            # process group.
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
    """Return the outcome of a run of pytest, alone or under a tool of compute-sanitizer.

    If no test has run, the outcome is ``"skipped"``, even if pytest reports success.

    Args:
        name: Name of the run.
        code: Exit code.
        output: Text that pytest and the tool printed.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    counts = re.compile(r"\d+ (passed|failed|skipped|errors?)\b.* in [\d.]+")
    summary = next((line for line in reversed(lines) if counts.search(line)), "")
    summaries = "ERROR SUMMARY", "RACECHECK SUMMARY"
    tool = [line.strip("= ") for line in lines if any(word in line for word in summaries)]
    text = "; ".join(part for part in (summary.strip("= "), *tool) if part)
    if code == 0 and re.search(r"\d+ passed", summary):
        return Outcome(name, "passed", text)
    if code == 0:
        reasons = [line for line in lines if line.startswith("SKIPPED")]
        return Outcome(name, "skipped", "; ".join([text, *reasons]))
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    tail = "\n".join(["", *(failed[:20] or lines[-15:])])
    return Outcome(name, "FAILED", f"exit code {code}; {text}{tail}")
