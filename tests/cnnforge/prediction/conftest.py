"""A small run with a model, and plugins with an inference engine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from toy_engine import CLASSES, CURRENT, Hooks, ToyEngine, save_model

from cnnforge.plugin_host.discovery import PluginRecord, Plugins
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification import Classification


@pytest.fixture
def engine() -> Iterator[ToyEngine]:
    CURRENT.__init__()
    yield CURRENT
    CURRENT.__init__()


@pytest.fixture
def engines(engine: ToyEngine) -> Plugins:
    """The plugins of the core, and one with the toy engine."""
    found = Plugins()
    found.register(Hooks(), "acme")
    found.records.append(PluginRecord("acme", "acme", "acme", engine.version))
    return found


@pytest.fixture(scope="session")
def _stored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    pictures = folder / "pictures"
    for number in range(20):
        level = 30 + 170 * (number % 2) + number
        path = pictures / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 6), level).save(path)
    run = RunDirectory.create(folder, "toy", "pictures")
    run.write_config({"model": "toy", "data": f"images:{pictures}", "seed": 1}, {})
    Classification(CLASSES).write(run)
    save_model(run.model)
    return run.path


@pytest.fixture
def run(_stored_run: Path, tmp_path: Path) -> RunDirectory:
    """A run with a model, and without a plan."""
    shutil.copytree(_stored_run, tmp_path / "run")
    return RunDirectory(tmp_path / "run")
