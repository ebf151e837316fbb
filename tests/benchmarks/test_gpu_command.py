"""Tests of the command bench_gpu.py without a device: its output, files and exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bench_gpu
import pytest
from gpu import epoch, options, results, suite

from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "bench_gpu.py"
needs_numba_cuda = pytest.mark.skipif(
    not AVAILABLE or SIMULATED, reason="needs numba-cuda: pip install 'cnnforge[test]'"
)


def command(*arguments, **variables):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


def dry_run(folder, *arguments):
    done = command(
        *("--dry-run", "--rounds", "3", "--out", str(folder), "--parts", "rows"), *arguments
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_message_without_a_device():
    done = command(CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench_gpu.py: ")
    assert line.endswith(
        "It needs an NVIDIA device with its driver, numba, numba-cuda and PyTorch: "
        "pip install 'cnnforge[cuda13]' torch"
    )


@pytest.mark.parametrize("package", ["torch", "numba-cuda"])
def test_missing_packages(monkeypatch, package):
    hidden = package.replace("-", "_")
    monkeypatch.setattr(bench_gpu, "find_spec", lambda name: None if name == hidden else name)
    assert bench_gpu.missing() == f"{package} is not installed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "seed3"], "'seed3' names no row"),
        (["--time-limit", "0"], "--time-limit is 0, expected above 0"),
        (["--compile-for", "9.0"], "--compile-for needs --cubins DIR"),
        (["--rounds", "2"], "--rounds is 2, expected 3 or more"),
        (["--sanitize", "wishful"], "invalid choice: 'wishful'"),
    ],
)
def test_usage_errors(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@needs_numba_cuda
def test_a_whole_run(tmp_path):
    cases = ["seed2.convolution.*", "pool_seed2.max.*"]
    printed = dry_run(tmp_path, "--cases", *cases)
    rows, about, _ = results.read(tmp_path / "dry-run.csv")
    assert about["gpu"] == "dry run"
    assert [row.key for row in rows] == [
        *(f"seed2.convolution.{which}" for which in ("forward", "grad_inputs", "grad_weights")),
        *(f"pool_seed2.max.{which}" for which in ("forward", "backward")),
    ]
    assert all(row.verdict == "right" and row.ours for row in rows)
    assert (tmp_path / "dry-run.png").stat().st_size > 10_000
    assert "float32 convolution with C or F <= 32" in printed
    assert "dry run: the times above are made up" in printed
    # Rows that were measured before stay.
    printed = dry_run(tmp_path, "--resume", "--cases", "pool_seed2.*")
    assert "pool_seed2.max.forward: right" not in printed
    assert "pool_seed2.average.forward: right" in printed
    assert len(results.read(tmp_path / "dry-run.csv")[0]) == 7
    # Nothing is left to measure, and the file has all results.
    printed = dry_run(tmp_path, "--resume", "--cases", "pool_seed2.*")
    assert "right" not in printed.split("measured: copy 4800 GB/s")[0]
    # A file of other versions cannot be resumed.
    text = (tmp_path / "dry-run.csv").read_text()
    (tmp_path / "dry-run.csv").write_text(text.replace("dry run", "another"))
    done = command("--dry-run", "--resume", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "--resume: " in done.stderr
    assert "choose another --out" in done.stderr


@needs_numba_cuda
def test_time_limit(tmp_path):
    made = "--dry-run", "--parts", "rows", "--time-limit", "1", "--out", str(tmp_path)
    done = command(*made)
    assert done.returncode == 1
    assert "no time was left for 96 rows: seed1@4096.block.forward" in done.stdout
    assert "nothing was measured" in done.stdout


@needs_numba_cuda
def test_imports_neither_tensorflow_nor_keras():
    asked = json.dumps({"keys": ["pool_seed2.max.forward"], "ceilings": None, "seconds": 60})
    arguments = ["--dry-run", "--worker", asked]
    code = (
        "import sys, bench_gpu, gpu.precompile, gpu.picture\n"
        f"assert bench_gpu.main({arguments!r}) == 0\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=suite.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    *messages, modules = done.stdout.splitlines()
    assert [next(iter(json.loads(line))) for line in messages] == ["about", "begin", "row", "done"]
    assert "numba" in modules.split()
    assert {"keras", "tensorflow"}.isdisjoint(modules.split())


@needs_numba_cuda
def test_kernels_are_compiled_ahead(tmp_path, monkeypatch):
    from gpu.precompile import precompile

    folder = tmp_path / "cubins"
    row = "pool_seed2.max.forward"
    made = "--compile-for", "9.0", "--cubins", str(folder), "--cases", row
    done = command(*made, "--parts", "rows")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 kernels are compiled, in ")
    assert len(list(folder.glob("*.cubin"))) == 1
    # No process starts for compiled kernels.
    monkeypatch.setenv("CNNFORGE_CUBINS", str(folder))
    said = "1 kernels, all of them were compiled before"
    assert precompile([row], False, (9, 0)) == said
    assert precompile([], False, (9, 0)).startswith("0 kernels")


@pytest.mark.parametrize("failed", ["rows", "suite", ""])
def test_the_suites_kernels_are_compiled_ahead(monkeypatch, tmp_path, failed, capsys):
    from gpu import precompile

    asked = []
    done = "compiling ahead has FAILED" if failed == "rows" else "1 kernels are compiled"
    monkeypatch.setattr(precompile, "precompile", lambda *_, **__: done)
    outcome = suite.Outcome("kernels of the suite", "FAILED" if failed == "suite" else "passed", "")
    monkeypatch.setattr(suite, "compiled", lambda *arguments: asked.append(arguments) or [outcome])
    code = bench_gpu.main(["--compile-for", "9.0", "--cubins", str(tmp_path)])
    assert code == bool(failed)
    assert asked == [((9, 0), tmp_path)]
    assert "kernels of the suite" in capsys.readouterr().out


def test_a_failed_suite_fails_the_command(monkeypatch, capsys):
    outcomes = [suite.Outcome("parity", "FAILED", "boom"), suite.Outcome("layers", "skipped", "")]
    monkeypatch.setattr(suite, "sanitize", lambda *_: outcomes)
    monkeypatch.setattr(bench_gpu, "missing", lambda: "")
    assert bench_gpu.main(["--sanitize"]) == 1
    assert "parity: FAILED: boom" in capsys.readouterr().out
    monkeypatch.setattr(suite, "sanitize", lambda *_: [outcomes[1]])
    assert bench_gpu.main(["--sanitize", "memcheck"]) == 0
    monkeypatch.setattr(suite, "parity", lambda *_: outcomes[0])
    assert bench_gpu.main(["--parts", "suite"]) == 1


def test_time_limits_of_parts(monkeypatch, tmp_path):
    asked = {}

    def note(name, outcome):
        def noted(*arguments):
            asked[name] = arguments
            return outcome

        return noted

    passed = suite.Outcome("", "passed", "")
    monkeypatch.setattr(bench_gpu, "missing", lambda: "")
    monkeypatch.setattr(bench_gpu, "find_spec", lambda name: object())
    monkeypatch.setattr(suite, "parity", note("suite", passed))
    monkeypatch.setattr(suite, "layers", note("layers", passed))
    monkeypatch.setattr(bench_gpu, "in_pytorch", note("epoch", (None, ["an epoch"])))
    monkeypatch.setattr(bench_gpu, "in_keras", note("keras", ["by Keras"]))
    monkeypatch.setattr(bench_gpu, "_rows", note("rows", []))
    out = ["--out", str(tmp_path)]
    assert bench_gpu.main(["--time-limit", "570", "--tests", "odd", *out]) == 0
    assert list(asked) == list(options.PARTS)
    # A part of the time without the reserve, which is larger if Keras follows.
    assert asked["suite"] == (pytest.approx(0.3 * 450, abs=1), "odd", tmp_path)
    assert asked["epoch"][1] == pytest.approx(0.25 * 450, abs=1)
    assert asked["keras"][0] == pytest.approx(570, abs=1)
    asked.clear()
    assert bench_gpu.main(["--parts", "layers", "--time-limit", "130", *out]) == 0
    assert asked == {"layers": (pytest.approx(130, abs=1), None, tmp_path)}
    asked.clear()
    assert bench_gpu.main(["--parts", "epoch", "--time-limit", "50", *out]) == 0
    assert asked["epoch"][1] == pytest.approx(50, abs=1)
    asked.clear()
    assert bench_gpu.main(["--parts", "layers", "keras", "--time-limit", "70", *out]) == 0
    assert asked["layers"][0] == pytest.approx(35, abs=1)
    assert asked["keras"][0] == pytest.approx(70, abs=1)
    asked.clear()
    assert bench_gpu.main(["--parts", "suite", *out]) == 0
    assert asked == {"suite": (None, None, tmp_path)}


def test_the_epoch_in_keras_is_optional(monkeypatch):
    monkeypatch.setattr(epoch, "find_spec", lambda name: None)
    assert epoch.in_keras(None) == [f"{epoch._LOOP}: not run: Keras is not installed"]
    monkeypatch.setattr(epoch, "find_spec", lambda name: name)
    monkeypatch.setattr(epoch, "ROOT", Path("/nowhere"))
    (line,) = epoch.in_keras(None)
    assert "FAILED" in line
    assert "No such file" in line


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ('print(\'a library\'); print(\'{"ratio": 2.5, "lines": ["a line"]}\')', "  a line"),
        ("raise ValueError('the loss is nan')", "FAILED: ValueError: the loss is nan"),
        ("import time; time.sleep(60)", "FAILED: not done in 2 s"),
        ("import os; os._exit(139)", "FAILED: exit code 139"),
    ],
)
def test_the_epoch_runs_in_a_separate_process(monkeypatch, code, text):
    monkeypatch.setattr(epoch, "find_spec", lambda name: name)
    found, lines = epoch.in_pytorch([sys.executable, "-c", code], 2.0)
    assert found == (2.5 if "ratio" in code else None)
    assert lines[-1].endswith(text)
    monkeypatch.setattr(epoch, "find_spec", lambda name: None)
    assert epoch.in_pytorch([], None)[1][0].endswith("not run: PyTorch is not installed")
