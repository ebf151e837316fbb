"""T24: a run of a stranger names a plugin, which no command imports by itself."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import keras
import numpy as np
import pytest
from PIL import Image

import cnnforge
from cnnforge.cli import main
from cnnforge.cli.doctor.worker import answer_to
from cnnforge.cli.predict.spread import Spread
from cnnforge.cli.sweep import worker
from cnnforge.cli.workers.training import train_with_workers
from cnnforge.distributed.predict_worker import PredictionJob
from cnnforge.errors import UsageError
from cnnforge.runs import RunDirectory
from cnnforge.runs.named_plugins import remember
from cnnforge.tasks.classification import Classification

MODULE = "strange_plugin"
PLUGIN = """
from pathlib import Path

from cnnforge.plugin import hookimpl

Path(__file__).with_name("imported").touch()


@hookimpl
def cnnforge_layers():
    return []
"""


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = RunDirectory.create(tmp_path_factory.mktemp("foreign"), "net", "data")
    layers = [keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    keras.Sequential([keras.Input((8, 8, 1)), *layers]).save(run.model)
    Classification(("a", "b")).write(run)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(run.path / "x.png")
    return run.path


@pytest.fixture
def run(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run that names a plugin file inside of it, in a machine that has named none."""
    monkeypatch.setattr("cnnforge.runs.named_plugins.cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "run"
    shutil.copytree(_made, path)
    (path / f"{MODULE}.py").write_text(PLUGIN)
    name_plugin(path, str(path / f"{MODULE}.py"))
    shutil.copytree(path, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop(MODULE, None)
    yield path
    sys.modules.pop(MODULE, None)


def name_plugin(run: Path, plugin: str) -> None:
    table = {"task": "classification"}
    RunDirectory(run).write_config({"model": "net", "data": "mnist5k", "plugin": [plugin]}, table)


def was_imported(run: Path) -> bool:
    """Return whether the plugin was imported, and forget it."""
    found = MODULE in sys.modules or (run / "imported").exists()
    sys.modules.pop(MODULE, None)
    (run / "imported").unlink(missing_ok=True)
    return found


@pytest.mark.parametrize(
    "command",
    [
        "predict RUN RUN/x.png",
        "evaluate RUN",
        "explain RUN RUN/x.png",
        "export RUN --format keras --output new.keras",
        "verify RUN",
        "serve RUN --port 0",
        "compare RUN copy",
        "report RUN",
        "train --resume RUN",
        "train --resume RUN --workers 2",
    ],
)
def test_t24_each_command_refuses_the_plugin(
    run: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if Ray were installed.
    monkeypatch.setattr("cnnforge.distributed.addresses.find_spec", lambda name: True)
    assert main(command.replace("RUN", str(run)).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    plugin = run / f"{MODULE}.py"
    assert err.splitlines()[-1] == (
        f"error: the run {run} names the plugin {plugin}, and you have not named it on this "
        f"machine before: a plugin can run any code, so look at it, then add --plugin {plugin} "
        f"(in Python: plugins=['{plugin}'])"
    )
    assert not was_imported(run)


def test_t24_doctor_refuses_the_plugin(run: Path) -> None:
    asked = {"original": "RUN", "data": None, "trust": False, "steps": 3, "copies": [str(run)]}
    answer = answer_to({**asked, "plugin": []})
    assert answer["code"] == 2
    assert answer["error"].startswith("the run RUN names the plugin ")
    assert not was_imported(run)


@pytest.mark.parametrize("command", ["evaluate latest", "runs .", "train lenet --init-from RUN"])
def test_t24_other_commands_do_not_import_it(run: Path, command: str) -> None:
    if command.startswith("evaluate"):
        (run.parent / "runs").mkdir()
        run.rename(run.parent / "runs" / "run")
        run = run.parent / "runs" / "run"
        name_plugin(run, str(run / f"{MODULE}.py"))
    arguments = command.replace("RUN", str(run)).split()
    if command.startswith("train"):
        arguments += ["--data", "no-such-data"]
    main(arguments)
    assert not was_imported(run)


@pytest.mark.parametrize("place", ["inside", "beside", "relative", "module"])
def test_t24_a_plugin_that_the_user_names_once_is_remembered(
    run: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run if place == "inside" else run.parent
    if place != "inside":
        (run / f"{MODULE}.py").rename(folder / f"{MODULE}.py")
    monkeypatch.syspath_prepend(str(folder) if place == "module" else str(run))
    names = {"relative": f"{MODULE}.py", "module": MODULE}
    plugin = names.get(place, str(folder / f"{MODULE}.py"))
    name_plugin(run, plugin)
    predict = ["predict", str(run), str(run / "x.png")]
    assert main(predict) == 2
    assert not was_imported(folder)
    assert main([*predict, "--trust-model"]) == 0
    assert was_imported(folder)
    assert main(predict) == 2
    assert not was_imported(folder)
    assert main([*predict, "--plugin", plugin]) == 0
    assert was_imported(folder)
    assert main(predict) == 0
    assert was_imported(folder)


def test_t24_in_python(run: Path) -> None:
    plugin = str(run / f"{MODULE}.py")
    with pytest.raises(UsageError, match=r"look at it, then add .*plugins="):
        cnnforge.load(run)
    assert not was_imported(run)
    cnnforge.load(run, trust_model=True)
    assert was_imported(run)
    with pytest.raises(UsageError):
        cnnforge.load(run)
    cnnforge.load(run, plugins=[plugin])
    assert was_imported(run)
    cnnforge.load(run)
    assert was_imported(run)


def test_workers_on_other_machines_are_told_the_plugins_of_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = str(run / f"{MODULE}.py")
    remember([plugin])
    begun: list[Any] = []

    def begin(**values: Any) -> Any:
        begun.append(SimpleNamespace(**values))
        return SimpleNamespace(train=lambda stop: None)

    monkeypatch.setattr("cnnforge.distributed.ray_train.RayTrain", begin)
    arguments = ["train", "--resume", "latest", "--workers", "2", "--json"]
    train_with_workers(2, "local", 9.0, arguments, {}, {}, None, run, None)
    resume = ["train", "--resume", str(run), "--json", "--plugin", plugin]
    assert begun[0].arguments == ["train", "--json", "--resume", str(run), "--plugin", plugin]
    assert begun[0].resumed(run) == resume

    monkeypatch.setattr("cnnforge.cli.predict.spread.started", lambda *_: nullcontext())
    jobs: list[PredictionJob] = []
    closed: list[PredictionJob] = []

    def predict(cluster: Any, job: PredictionJob, *_: Any) -> Iterator[int]:
        jobs.append(job)
        try:
            yield from (0, 1)
        finally:
            closed.append(job)

    monkeypatch.setattr("cnnforge.distributed.ray_predict.predict_on", predict)
    trained: Any = SimpleNamespace(predictor=cnnforge.load(run)._predictor)
    with Spread(2, "local", 9.0).predicting(trained, run, {}, "auto", None, False) as predicted:
        rows = predicted(cast("Any", None), None)
        assert cast("Any", next(rows)) == 0
        assert not closed
    # A thread of Ray Data would end the command if it still ran after the end of Ray.
    assert closed == jobs
    assert jobs[0].plugins == (plugin,)


def test_a_process_of_a_sweep_is_told_the_plugins(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(worker, "prepare", lambda *arguments: given.append(arguments))
    order = {"train": {"plugin": ["mine.py"], "epochs": 1}, "resume": str(run)}
    with ExitStack() as claims:
        worker._session(order, claims)
        assert given == [({"plugin": ("mine.py",)}, {}, None, run, claims)]


def test_a_config_file_names_a_plugin(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "mine.toml").write_text(f'plugin = ["{run / MODULE}.py"]\n')
    # The run has no data that could be resumed; the plugin is loaded before that is found.
    assert main(["train", "--resume", str(run), "--config", "mine.toml", "--data", "none"]) == 2
    assert "names the plugin" not in capsys.readouterr().err
    assert was_imported(run)
