"""A new layer with a new op needs one file of a plugin, and no change in `cnnforge`."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from cnnforge import benchmarking
from cnnforge.benchmarking import peaks
from cnnforge.cli import main
from cnnforge.conversion import autotune

PLUGIN = Path(__file__).with_name("sloped_plugin.py")
ROOT = Path(__file__).parents[3]
SHORT = ("--rounds", "3", "--plugin", str(PLUGIN))


@pytest.fixture(autouse=True)
def _no_long_measurements(monkeypatch, tmp_path):
    monkeypatch.setattr(peaks, "_SECONDS", 0.01)
    monkeypatch.setattr(peaks, "_COPIED_BYTES", 1 << 20)
    monkeypatch.setattr(autotune, "default_cache_file", lambda: tmp_path / "choices.json")


def output(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_nothing_in_the_core_knows_of_it():
    found = subprocess.run(
        [
            "grep",
            "-rlE",
            # Its reference, LeakyReLU, is a layer of Keras, which `explain` draws.
            "[Ss]loped",
            "--include=*.py",
            "cnnforge",
            "kernels",
            "benchmarks",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""


def test_bench(capsys):
    (case,) = output(capsys, "bench", "sloped_relu", *SHORT)["cases"]
    assert case["name"] == "sloped_relu 32x6x5x4"
    forward = case["passes"]["forward"]
    assert forward["ours"]["flops"] == pytest.approx(2 * 32 * 120 / forward["ours"]["median"])
    assert forward["ours"]["bytes"] == pytest.approx(8 * 32 * 120 / forward["ours"]["median"])
    assert bool(forward["torch"]) != bool(benchmarking.torch_missing())
    (case,) = output(capsys, "bench", "sloped_relu", "--shape", "2x3x3x1", *SHORT)["cases"]
    assert case["shape"] == [2, 3, 3, 1]


def test_bench_without_work_and_peer(capsys, tmp_path, forgotten_modules):
    """A plugin of an older version names neither: the columns are empty."""
    text = PLUGIN.read_text().replace("sloped", "older")
    for name in ("cases", "benchmarks", "work", "torch"):
        text = re.sub(rf'^ +{name}="older_plugin:.*\n', "", text, flags=re.MULTILINE)
    path = tmp_path / "older_plugin.py"
    path.write_text(text)
    options = ("--rounds", "3", "--shape", "2x3x3x1", "--plugin", str(path))
    (case,) = output(capsys, "bench", "older_relu", *options)["cases"]
    forward = case["passes"]["forward"]
    assert forward["ours"]["median"] > 0
    assert forward["ours"]["flops"] is forward["ours"]["bytes"] is forward["torch"] is None


def test_doctor(capsys):
    checks = output(capsys, "doctor", "--plugin", PLUGIN)["checks"]
    (check,) = [check for check in checks if check["provider"] == "sloped_plugin/sloped_relu"]
    assert check["passed"]
    assert check["input_shape"] == [2, 4, 5, 3]
    assert [result["tensor"] for result in check["results"]] == ["outputs", "grad_inputs"]


def test_plugins_check(capsys):
    found = output(capsys, "plugins", "check", "sloped_relu", "--plugin", PLUGIN)
    kinds = {row["check"] for row in found["checks"]}
    assert {"values_oracle", "gradients_oracle", "forge_and_lower", "speed"} <= kinds


def test_train(capsys, tmp_path):
    command = ["train", "sloped_net", "--data", "sloped", "--epochs", "3", "--kernels", "numba"]
    runs = ["--learning-rate", "0.1", "--output", str(tmp_path), "--plugin", str(PLUGIN)]
    assert main([*command, *runs]) == 0
    run = tmp_path / "sloped_net-sloped-001"
    checks = json.loads((run / "kernel_check.json").read_text())
    assert [check["provider"] for check in checks] == ["sloped_plugin/sloped_relu", "builtin/dense"]
    assert all(check["passed"] for check in checks)
    kernels = json.loads((run / "kernels.json").read_text())
    assert "sloped_plugin/sloped_relu" in json.dumps(kernels)
