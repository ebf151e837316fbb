"""`train --cache`, and the share of time in which training waits for images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main

pytestmark = pytest.mark.usefixtures("quick_figures")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the data `photos`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cnnforge.data.cache.cache_folder", lambda: tmp_path / "caches")
    generator = np.random.default_rng(0)
    for kind in range(2):
        folder = tmp_path / "photos" / "ab"[kind]
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 100, (8, 8), np.uint8) + 100 * kind
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict, str]]:
    """Return `train(*arguments)`: the result of `cnnforge train`, and what it writes to stderr."""

    def run(*arguments: str) -> tuple[dict, str]:
        capsys.readouterr()
        assert main(["train", *arguments, "--json"]) == 0
        captured = capsys.readouterr()
        return json.loads(captured.out), captured.err

    return run


def test_the_cache_changes_no_bit_also_when_a_run_is_resumed(work: Path, train) -> None:
    options = ("--data", "photos", "--kernels", "keras", "--batch-size", "4")
    expected, said = train(*options, "--epochs", "2")
    assert "cache" not in said
    assert 0 <= expected["waiting"] <= 1
    found, said = train(*options, "--epochs", "1", "--cache")
    assert "note: the image cache has 0 of 20 images, this run adds the others: 0.0" in said
    assert "cache = true" in (Path(found["run"]) / "config.toml").read_text()
    metrics = (Path(found["run"]) / "metrics.csv").read_text()
    assert metrics.splitlines()[0].endswith("images_per_second,waiting")
    resumed, said = train("--resume", found["run"], "--epochs", "2")
    assert "note: the image cache has all images" in said
    assert resumed["weights"] == expected["weights"]
    resumed, said = train("--resume", found["run"], "--epochs", "3", "--no-cache")
    assert "cache" not in said
    # A run that has no cache may get it when it is resumed.
    longer, said = train("--resume", expected["run"], "--epochs", "3", "--cache")
    assert "note: the image cache has all images" in said
    assert longer["weights"] == resumed["weights"]


def test_no_room_is_one_message(work: Path, capsys, monkeypatch) -> None:
    from shutil import _ntuple_diskusage

    monkeypatch.setattr("shutil.disk_usage", lambda _: _ntuple_diskusage(9, 9, 10))
    assert main(["train", "--data", "photos", "--kernels", "keras", "--cache"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--cache needs 0.0 MB in" in error
    assert "or leave out --cache" in error
    assert not (work / "runs").exists()
