"""Classifying files, folders and datasets with a model."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from cnnforge.data import ArraySamples, Dataset
from cnnforge.errors import DataError, RunError, UnknownNameError, UsageError
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction import (
    FileInputs,
    Predictor,
    RunData,
    SampleInputs,
    find_inputs,
    open_samples,
)
from cnnforge.prediction.keras_model import keras_predictor, load_model
from cnnforge.tasks.classification import Classification

SHAPE = (2, 2, 1)
CLASSES = ("dark", "bright")
DATA = RunData("toy", 0.2, 0, "fingerprint")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Bright images are of class 1, surely or less so."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.layers[-1].set_weights([np.float32([[-1, 1]] * 4), np.float32([2, -2])])
    return model


@pytest.fixture(scope="module")
def predictor(model: keras.Model) -> Predictor:
    return keras_predictor(model, Classification(CLASSES), batch_size=4)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return discover()


def samples(levels: list[int], prefix: str = "toy") -> ArraySamples:
    images = np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), *SHAPE))
    labels = np.array([level > 127 for level in levels], int)
    return ArraySamples(images, labels, [f"{prefix} {number}" for number in range(len(levels))])


def write_image(path: Path, level: int) -> str:
    Image.new("L", (2, 2), level).save(path)
    return str(path)


def test_samples_are_classified_in_their_order(predictor: Predictor) -> None:
    levels = [0, 255, 10, 250, 20, 240, 30, 230, 40]
    dataset = Dataset("toy", CLASSES, samples(levels), samples([0]), "")
    rows = list(predictor.predict_samples(dataset, dataset.train, np.array([8, 1, 0]), top_k=1))
    assert [(row.name, row.label, row.true_label) for row in rows] == [
        ("toy 8", "dark", "dark"),
        ("toy 1", "bright", "bright"),
        ("toy 0", "dark", "dark"),
    ]
    probabilities = predictor.outputs(samples(levels))
    assert probabilities.shape == (9, 2)
    assert probabilities.argmax(1).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_each_file_has_its_row_whatever_is_wrong_with_it(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnforge.prediction.read_images.MAX_BYTES", 12)
    paths = [write_image(tmp_path / f"{n}.png", 255 * (n % 2)) for n in range(8)]
    for number in (0, 3, 4, 5):
        Path(paths[number]).write_bytes(b"<html>")
    rows = list(predictor.predict_files([*paths, str(tmp_path / "missing.png")]))
    assert [row.name for row in rows] == [*paths, str(tmp_path / "missing.png")]
    labels = [row.label for row in rows]
    assert labels == [None, "bright", "dark", None, None, None, "dark", "bright", None]
    assert [row.error is None for row in rows] == [label is not None for label in labels]
    assert rows[-1].error == "no such file or directory"


def test_inputs_are_found_once_each(tmp_path: Path, predictor: Predictor, plugins: Plugins) -> None:
    first, second = (write_image(tmp_path / name, 9) for name in ("a.png", "b.png"))
    (tmp_path / "notes.txt").write_text("no image")
    os.symlink("nowhere", tmp_path / "c.png")
    found = find_inputs(
        [second, str(tmp_path), first],
        image_shape=SHAPE,
        datasets=plugins.datasets,
        trained_on=DATA,
    )
    rows = [row for part in found for row in part.predict(predictor)]
    assert [Path(row.name).name for row in rows] == ["b.png", "a.png", "c.png"]
    assert rows[-1].error == "dangling link: nowhere does not exist"
    rows = [row for part in found for row in part.predict(predictor, limit=1)]
    assert len(rows) == 2


def test_files_that_follow_each_other_are_one_input(tmp_path: Path, plugins: Plugins) -> None:
    names = [write_image(tmp_path / f"{name}.png", 9) for name in "abcd"]
    (tmp_path / "folder").mkdir()
    inner = write_image(tmp_path / "folder" / "a.png", 9)
    found = find_inputs(
        [*names[:3], str(tmp_path / "folder"), names[3], names[0]],
        image_shape=SHAPE,
        datasets=plugins.datasets,
        trained_on=DATA,
    )
    paths = [part.paths for part in found if isinstance(part, FileInputs)]
    assert [list(each) for each in paths] == [names[:3], [inner], [names[3]]]
    assert found[0].summary.line == "data: 3 images"
    assert found[0].ids == ("id", ["a", "b", "c"])


def test_what_is_nothing_is_said(tmp_path: Path, plugins: Plugins) -> None:
    def find(text: str) -> None:
        find_inputs([text], image_shape=SHAPE, datasets=plugins.datasets, trained_on=DATA)

    with pytest.raises(UnknownNameError, match="did you mean 'mnist5k'"):
        find("mnst5k")
    with pytest.raises(DataError, match="no image was found in"):
        find(str(tmp_path))


def spec_of(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    monkeypatch.setattr("cnnforge.prediction.samples.open_dataset", lambda *arguments: dataset)
    return discover()


def test_of_the_runs_own_data_the_validation_part_is_taken(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = samples([0] * 3, "train"), samples([255] * 2, "validation")
    dataset = Dataset("toy", CLASSES, train, validation, "fingerprint")
    plugins = spec_of(dataset, monkeypatch)
    (found,) = find_inputs(["toy"], image_shape=SHAPE, datasets=plugins.datasets, trained_on=DATA)
    assert isinstance(found, SampleInputs)
    assert [row.name for row in found.predict(predictor)] == ["validation 0", "validation 1"]


def test_of_other_data_everything_is_taken_in_the_order_of_the_names(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"row {number} of x.csv" for number in (1, 10, 3, 2)]
    images = samples([0, 255, 0, 255])
    train = ArraySamples(images.images[:3], images.labels[:3], names[:3])
    validation = ArraySamples(images.images[3:], images.labels[3:], names[3:])
    dataset = Dataset("other", ("bright", "dark"), train, validation, "other fingerprint")
    plugins = spec_of(dataset, monkeypatch)
    (found,) = find_inputs(["other"], image_shape=SHAPE, datasets=plugins.datasets, trained_on=DATA)
    assert isinstance(found, SampleInputs)
    rows = list(found.predict(predictor))
    assert [row.name for row in rows] == [f"row {number} of x.csv" for number in (1, 2, 3, 10)]
    assert [row.label for row in rows] == ["dark", "bright", "dark", "bright"]
    # Its classes are the model's, in another order: names count, not indices.
    assert found.evaluate(predictor).metrics["accuracy"] == 0.0
    task = Classification(("dark", "cat"))
    with pytest.raises(UsageError, match="has the class 'bright', which the model does not know"):
        task.evaluator(found.dataset, found.samples, found.indices)


def test_a_table_without_labels_is_classified_and_not_evaluated(
    tmp_path: Path, predictor: Predictor, plugins: Plugins
) -> None:
    path = tmp_path / "test.csv"
    path.write_text("pixel0,pixel1,pixel2,pixel3\n0,0,0,0\n255,255,255,255\n0,9,0,0\n")
    (found,) = find_inputs(
        [str(path)], image_shape=SHAPE, datasets=plugins.datasets, trained_on=DATA
    )
    rows = list(found.predict(predictor))
    assert [row.name for row in rows] == [f"row {number} of test.csv" for number in (1, 2, 3)]
    assert [row.label for row in rows] == ["dark", "bright", "dark"]
    assert [row.as_dict()["true_label"] for row in rows] == [None] * 3
    with pytest.raises(DataError, match="has no column of labels"):
        open_samples(str(path), SHAPE, plugins.datasets, DATA)


def test_a_model_that_does_not_fit_its_classes_is_refused(model: keras.Model) -> None:
    with pytest.raises(RunError, match="do not belong together"):
        keras_predictor(model, Classification(("a", "b", "c")))
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(RunError, match="not images of one size"):
        keras_predictor(flat, Classification(CLASSES))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 half a zip"])
def test_a_damaged_model_is_said(tmp_path: Path, content: bytes, plugins: Plugins) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(
        RunError, match="cannot be opened: it is damaged or not a Keras model; expected"
    ):
        load_model(path, plugins.layers)


def test_a_plugins_own_layer_is_imported_only_when_a_model_needs_it(
    tmp_path: Path, write_plugin, model: keras.Model
) -> None:
    plugin = write_plugin(
        "acme_own",
        """
        @hookimpl
        def cnnforge_layers():
            return [LayerSpec(name="own", target="acme_layers:Own", summary="")]
        """,
    )
    layers: Registry = discover([plugin]).layers
    path = tmp_path / "model.keras"
    model.save(path)
    # acme_layers does not exist: a plain model does not ask for it.
    assert load_model(path, layers).count_params() == model.count_params()
