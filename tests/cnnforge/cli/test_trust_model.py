"""T20, T21: each command that opens a model file refuses code in it, if it is not trusted."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import cnnforge
from cnnforge.cli import main
from cnnforge.errors import RunError
from cnnforge.model_files.trust import models_are_trusted
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification import Classification


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model has a Lambda layer, as if a stranger had made it."""
    folder = tmp_path_factory.mktemp("foreign")
    run = RunDirectory.create(folder, "net", "data")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Lambda(lambda inputs: inputs * 1),
            keras.layers.Conv2D(2, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.save(run.model)
    Classification(("a", "b")).write(run)
    run.write_config({"model": "net", "data": "mnist5k"}, {"task": "classification"})
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "x.png")
    return run.path


@pytest.fixture
def refused(run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return `refused(*arguments)`: run a command that fails, return what it says last."""

    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err.splitlines()[-1]

    return refused


@pytest.mark.parametrize(
    "command",
    [
        "predict RUN IMAGE",
        "evaluate RUN",
        "explain RUN IMAGE",
        "export RUN --format keras --output new.keras",
        "verify RUN",
        "serve RUN --port 0",
        "compare RUN COPY",
        "train lenet --data mnist5k --init-from RUN",
        "train lenet --data mnist5k --init-from RUN/model.keras",
        "train lenet --data mnist5k --weights RUN/model.keras",
    ],
)
def test_t20_each_command_refuses_code(
    run: Path,
    refused: Callable[..., str],
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy-001")
    places = {"RUN": str(run), "IMAGE": str(run.parent / "x.png"), "COPY": str(copy)}
    for name, place in places.items():
        command = command.replace(name, place)
    assert refused(*command.split()) == (
        f"error: {run}/model.keras is refused: config.json names the class keras.layers.Lambda, "
        "expected layers of Keras or of installed plugins that take no functions and no files; if "
        "you trust its author, add --trust-model (in Python: trust_model=True)"
    )


def test_t21_trust_model_opens_it_for_one_command(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(run.parent / "x.png")
    assert main(["predict", str(run), image, "--kernels", "keras", "--trust-model", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1
    assert not models_are_trusted()
    with pytest.raises(RunError, match="is refused"):
        cnnforge.load(run)
    assert cnnforge.load(run, kernels="keras", trust_model=True).predict(image).label in ("a", "b")
    assert not models_are_trusted()


def test_t20_the_detectors_of_a_file_are_read_only_if_it_is_plain(
    run: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    foreign = RunDirectory.create(tmp_path, "net", "data")
    with zipfile.ZipFile(run / "model.keras") as old, zipfile.ZipFile(foreign.model, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("assets/x", "x")
    foreign.write_config({"model": "net", "data": "mnist5k"}, {"task": "classification"})
    assert refused("filter", str(run.parent / "x.png"), "--run", str(foreign.path)) == (
        f"error: {foreign.model} is refused: it has the member 'assets/x', expected config.json, "
        "metadata.json, model.weights.h5; restore the file, or choose another run"
    )


def test_t21_a_saved_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    command = ["train", "lenet", "--data", "mnist5k", "--init-from", str(tmp_path)]
    for more in ([], ["--trust-model"]):
        assert main([*command, *more]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: --init-from: {tmp_path} is a SavedModel, whose graph may do anything, and "
            "Keras 3 does not read it: save the model as a .keras file in the program that made it"
        )


def test_t20_a_model_with_such_a_layer_is_refused_before_it_is_trained(
    write_plugin: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = write_plugin(
        "acme_lambda",
        """
        @hookimpl
        def cnnforge_models():
            return [ModelSpec(name="doubled", target="acme_lambda:build", summary="")]

        def build(input_shape, classes):
            from keras import Input, Sequential, layers

            double = layers.Lambda(lambda inputs: inputs * 2, name="double")
            head = layers.Dense(classes, activation="softmax")
            return Sequential([Input(input_shape), double, layers.Flatten(), head])
        """,
    )
    command = ["train", "doubled", "--data", "mnist5k", "--plugin", plugin, "--kernels", "keras"]
    assert main([*command, "--output", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: the model has the Lambda layer 'double', and files with such a layer are refused: "
        "write it as a layer of a plugin, or add --trust-model here and to each command that opens "
        "the run"
    )
    assert not list((tmp_path / "runs").glob("*/state*"))
