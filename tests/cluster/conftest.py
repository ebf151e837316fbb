"""Tests that start Ray, for `make test-cluster`. The usual suite skips them."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from local_ray import Command, adopt_orphans
from PIL import Image

SLOW = os.environ.get("CNNFORGE_SLOW_TESTS") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "" if SLOW else "CNNFORGE_SLOW_TESTS is not 1"
    if find_spec("ray") is None:
        reason = "Ray is not installed"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"{reason}: make test-cluster"))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Return `command(*words, **environment)`, which starts a command in a new folder."""
    adopt_orphans()
    started: list[Command] = []

    def start(*words: str | Path, **environment: str) -> Command:
        folder = tmp_path / f"command-{len(started)}"
        folder.mkdir()
        started.append(Command(folder, *words, **environment))
        return started[-1]

    yield start
    for each in started:
        each.end()


def completed(folder: Path, *words: str | Path) -> None:
    """Run a command, and check that it succeeds."""
    started = Command(folder, *words)
    try:
        assert started.wait() == 0, started.err
    finally:
        started.end()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of lenet that tells bright images from dark ones."""
    folder = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    for name, level in (("bright", 190), ("dark", 60)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(random.normal(level, 30, (28, 28)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    words = ["train", "lenet", "--data", folder / "photos", "--epochs", "1", "--output", "runs"]
    completed(folder, *words, "--kernels", "keras")
    return next((folder / "runs").iterdir())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 image files. 60 of them are large, and four cannot be read."""
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    folder.mkdir()
    random = np.random.default_rng(1)
    large = folder.parent / "large.png"
    Image.fromarray(random.integers(0, 256, (1500, 1500), np.uint8)).save(large)
    for number in range(3000):
        path = folder / f"{number}.png"
        if number % 50 == 7:
            path.symlink_to(large)
        else:
            Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(path)
    (folder / "100.png").write_bytes(b"<html>")
    (folder / "700.png").write_bytes((folder / "701.png").read_bytes()[:200])
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "ä b.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def expected(run: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The rows of `pictures` that one process writes."""
    folder = tmp_path_factory.mktemp("expected")
    completed(folder, "predict", run, pictures, "--output", "rows.csv")
    return (folder / "rows.csv").read_bytes()
