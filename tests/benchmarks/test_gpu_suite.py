"""Tests of the runs of ``pytest -m gpu`` by bench_gpu.py, and of the judgement of its output."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gpu import dry_run_plugin, suite

from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED

ROOT = Path(__file__).parents[2]
# Act as a machine without these packages: find_spec and the import both fail.
WITHOUT_KERAS = """
import importlib.util, sys
import pytest
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in HIDDEN else find(name, *rest)
HIDDEN = {"keras", "tensorflow"}
sys.modules |= dict.fromkeys(HIDDEN)
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_suite_needs_neither_tensorflow_nor_keras():
    pytest.importorskip("numba_cuda", reason="needs numba-cuda: pip install 'cnnforge[test]'")
    arguments = [*suite.command("tests", parallel=False)[3:], "--collect-only"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, *arguments],
        cwd=ROOT,
        env=suite.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_on_device.py::test_convolution" in done.stdout
    assert "test_tensor_cores_device.py::test_on_a_device" in done.stdout
    assert "layers" not in done.stdout.split("test session starts")[-1].split("deselected")[0]


@pytest.mark.slow
def test_without_a_device_the_suite_is_skipped_and_says_why():
    pytest.importorskip("numba_cuda", reason="needs numba-cuda: pip install 'cnnforge[test]'")
    made = suite.command(f"{suite.KERNELS}/test_on_device.py", parallel=False)
    variables = suite.environment(CUDA_VISIBLE_DEVICES="-1")
    outcome = suite._run("parity", made, variables, None)
    assert outcome.verdict == "skipped"
    assert "no CUDA device" in outcome.text


@pytest.mark.slow
@pytest.mark.skipif(not AVAILABLE or SIMULATED, reason="needs numba-cuda, and no simulator")
def test_the_suite_without_a_device(tmp_path):
    """The tests pass with results of the CPU, and the launched kernels are compiled."""
    arguments = [
        "-p",
        "gpu.dry_run_plugin",
        "--cubins",
        str(tmp_path),
        "-k",
        "odd or stream or shape3",
    ]
    made = [*suite.command(f"{suite.KERNELS}/test_on_device.py", parallel=False), *arguments]
    outcome = suite._run("suite", made, suite.environment(), None)
    assert str(outcome).startswith("suite: passed: 3 passed, "), outcome
    # Two convolutions, a block, its two gradients, and the reduction of their slices.
    assert len(list(tmp_path.glob("*.cubin"))) == 6


@pytest.mark.slow
@pytest.mark.skipif(not AVAILABLE or SIMULATED, reason="needs numba-cuda, and no simulator")
def test_the_suite_without_a_device_finds_wrong_results(tmp_path):
    spoiled = (
        "from gpu import dry_run_plugin\ndry_run_plugin.rounded = lambda values, _: values * 2\n"
    )
    (tmp_path / "spoil.py").write_text(spoiled)
    arguments = ["-p", "spoil", "-p", "gpu.dry_run_plugin", "-k", "odd"]
    made = [*suite.command(f"{suite.KERNELS}/test_on_device.py", parallel=False), *arguments]
    variables = suite.environment()
    variables["PYTHONPATH"] += f":{tmp_path}"
    outcome = suite._run("suite", made, variables, None)
    assert outcome.verdict == "FAILED"
    assert "test_arrays_at_odd_addresses - AssertionError: max|error|" in outcome.text


def test_values_as_tensor_cores_read_them():
    values = np.array([1 + 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -1.5, 0], np.float32)
    found = dry_run_plugin.rounded(values, "tf32")
    np.testing.assert_array_equal(found, [1 + 2.0**-10, *values[1:]])
    found = dry_run_plugin.rounded(values, "bfloat16")
    np.testing.assert_array_equal(found, [1, 1, 1 + 4 * 2.0**-8, -1.5, 0])
    assert dry_run_plugin.rounded(values, "float32") is not None


def test_compiling_the_suite_runs_all_of_it(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(suite, "_run", lambda *args: seen.append(args) or suite.Outcome("", "", ""))
    monkeypatch.setattr(suite, "find_spec", lambda name: object())
    assert len(list(suite.compiled((9, 0), tmp_path))) == 2
    for (_, made, _, _), path in zip(seen, (suite.KERNELS, suite.LAYERS[0]), strict=True):
        assert path in made
        assert made[made.index("--compile-for") + 1] == "9.0"
        assert made[made.index("--cubins") + 1] == str(tmp_path)
    assert seen[1][2]["KERAS_BACKEND"] == "torch"
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    assert list(suite.compiled((9, 0), tmp_path))[1].verdict == "skipped"


@pytest.mark.parametrize(
    ("code", "output", "verdict", "text"),
    [
        (0, "....\n47 passed, 3 deselected in 12.00s", "passed", "47 passed, 3 deselected in"),
        (0, "==== 47 passed in 1s ====\n========= ERROR SUMMARY: 0 errors", "passed", "0 errors"),
        (0, "SKIPPED [2] a.py:3: no CUDA device\n2 skipped in 1s", "skipped", "no CUDA device"),
        (5, "no tests ran in 0.01s", "FAILED", "exit code 5"),
        (1, "FAILED a.py::b - boom\n1 failed, 2 passed in 3s", "FAILED", "a.py::b - boom"),
        (9, "2 passed in 3s\n========= ERROR SUMMARY: 4 errors", "FAILED", "4 errors"),
        (139, "Fatal Python error", "FAILED", "Fatal Python error"),
    ],
)
def test_judgement_of_a_run(code, output, verdict, text):
    outcome = suite.judge("parity", code, output)
    assert outcome.verdict == verdict
    assert text in str(outcome)


def test_a_run_that_takes_too_long(tmp_path):
    """The run ends with the processes that it started, and its output is kept."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True); time.sleep(60)"
    )
    sleeps = [sys.executable, "-c", code]
    outcome = suite._run("a b", sleeps, suite.environment(), 5.0, tmp_path)
    assert outcome.verdict == "FAILED"
    assert outcome.text.startswith("not done in 5 s\nchild ")
    assert (tmp_path / "a-b.log").read_text().startswith("child ")
    state, until = Path(f"/proc/{outcome.text.split()[-1]}/stat"), time.monotonic() + 10
    # The new parent of the child may not have collected it yet.
    while state.exists() and state.read_text().split(")")[1].split()[0] not in "ZX":
        assert time.monotonic() < until, "the child goes on"
        time.sleep(0.1)


def test_the_sanitizer(monkeypatch, tmp_path):
    monkeypatch.setattr(suite.shutil, "which", lambda name: None)
    (outcome,) = suite.sanitize(suite.TOOLS)
    assert outcome.verdict == "skipped"
    assert "compute-sanitizer is not on the PATH" in outcome.text
    monkeypatch.setattr(suite.shutil, "which", lambda name: f"/bin/{name}")
    seen = {}
    monkeypatch.setattr(
        suite,
        "_run",
        lambda name, *rest: seen.setdefault(name, rest) and suite.Outcome(name, "", ""),
    )
    tools = ["memcheck", "racecheck"]
    outcomes = list(suite.sanitize(tools, 30.0, None, tmp_path))
    assert [outcome.name for outcome in outcomes] == tools
    made, _, *rest = seen["racecheck"]
    assert rest == [30.0, tmp_path]
    assert made[:3] == ["/bin/compute-sanitizer", "--tool", "racecheck"]
    # The tool watches only the process that it starts.
    assert "-n" not in made
    assert made[made.index("-k") + 1] == suite.SMALL
    assert made[-1] == suite.KERNELS
    list(suite.sanitize(["initcheck"], None, "pooling"))
    made = seen["initcheck"][0]
    assert made[made.index("-k") + 1] == "pooling"


def test_layers_are_tested_if_keras_is_installed(monkeypatch):
    seen = []
    monkeypatch.setattr(suite, "_run", lambda *args: seen.append(args) or suite.Outcome("", "", ""))
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    suite.parity(10.0)
    assert seen[0][1][-1] == suite.KERNELS
    outcome = suite.layers(10.0)
    assert len(seen) == 1
    assert outcome.verdict == "skipped"
    assert "Keras is not installed" in outcome.text
    monkeypatch.setattr(suite, "find_spec", lambda name: object())
    suite.layers(10.0, "conv2d")
    assert seen[1][1][-4:] == ["-k", "conv2d", *suite.LAYERS]
    assert seen[1][2]["KERAS_BACKEND"] == "torch"
    for path in (suite.KERNELS, *suite.LAYERS):
        assert (ROOT / path).exists()
