"""Using a trained model in a Python program: cnnforge.load."""

import json
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_engine import CLASSES, SHAPE, ToyEngine

import cnnforge
from cnnforge.errors import CnnforgeError, DataError, RunError, UsageError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction import Model, Predictions
from cnnforge.prediction.arguments import GivenImages
from cnnforge.runs import RunDirectory

GENERATOR = np.random.default_rng(0)
HEIGHT, WIDTH, _ = SHAPE
BATCH = GENERATOR.integers(0, 256, (5, *SHAPE), np.uint8)
GRAY = GENERATOR.integers(0, 256, (20, 17), np.uint8)
RGB = GENERATOR.integers(0, 256, (9, 31, 3), np.uint8)


@pytest.fixture
def model(run: RunDirectory, engines: Plugins, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr("cnnforge.prediction.model.discover", lambda explicit: engines)
    return cnnforge.load(run.path)


def file_of(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_a_model_tells_what_it_is(model: Model, run: RunDirectory) -> None:
    assert model.classes == CLASSES
    assert model.image_shape == SHAPE
    assert model.run == run.path
    assert repr(model) == f"<Model of {run.path}: images 6x5x1>"


def test_one_image_has_one_prediction(model: Model, tmp_path: Path) -> None:
    path = file_of(tmp_path / "one.png", BATCH[0, :, :, 0])
    expected = model.predict(BATCH)[0]
    assert expected.name == "image 0"
    assert expected.label == CLASSES[expected.top[0][0] == "bright"]
    for one in (path, str(path), BATCH[0], BATCH[0, :, :, 0], Image.open(path)):
        found = model.predict(one)
        assert found.top == expected.top
        np.testing.assert_allclose(model.outputs(one), model.outputs(BATCH)[0], rtol=1e-6)
    assert model.predict(path).name == str(path)
    assert len(model.predict(path, top_k=1).top) == 1


def test_a_batch_has_its_predictions_in_order(model: Model) -> None:
    found = model.predict(BATCH)
    assert isinstance(found, Predictions)
    assert found.outputs.shape == (5, 2)
    assert len(found) == 5
    for row, probabilities in zip(found, found.outputs, strict=True):
        assert row.label == CLASSES[probabilities.argmax()]
        assert row.probability == pytest.approx(probabilities.max())
    np.testing.assert_array_equal(found[1:3].outputs, found.outputs[1:3])
    assert [row.name for row in found[1:3]] == ["image 1", "image 2"]
    assert repr(found) == "<Predictions for 5 images>"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16, np.float16])
def test_pixels_of_other_types_are_the_same_pixels(model: Model, dtype: type) -> None:
    np.testing.assert_allclose(
        model.outputs(BATCH.astype(dtype)), model.outputs(BATCH), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        model.outputs(BATCH[..., 0].astype(dtype)), model.outputs(BATCH), rtol=1e-6, atol=1e-7
    )


def test_a_matrix_of_numpy_is_an_image(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix(BATCH[0, :, :, 0])
    for found in (model.outputs(matrix), model.outputs([matrix])[0]):
        np.testing.assert_allclose(found, model.outputs(BATCH[0]), rtol=1e-6)


@pytest.mark.parametrize("pixels", [GRAY, RGB], ids=["gray", "rgb"])
def test_images_of_other_sizes_are_converted_as_files_are(
    model: Model, tmp_path: Path, pixels: np.ndarray
) -> None:
    path = file_of(tmp_path / "one.png", pixels)
    np.testing.assert_array_equal(model.outputs(pixels), model.outputs(path))
    # Floats are not rounded, so they differ a little.
    np.testing.assert_allclose(model.outputs(pixels.astype(float)), model.outputs(path), atol=2e-2)


def test_a_transparent_array_is_converted_as_its_file_is(model: Model, tmp_path: Path) -> None:
    pixels = GENERATOR.integers(0, 256, (9, 31, 4), np.uint8)
    path = file_of(tmp_path / "one.png", pixels)
    np.testing.assert_array_equal(model.outputs(pixels), model.outputs(path))


def test_a_list_may_mix_everything(model: Model, tmp_path: Path) -> None:
    path = file_of(tmp_path / "one.png", RGB)
    items = [path, RGB, GRAY, BATCH[0], str(path), GRAY.astype(float), Image.open(path)]
    found = model.predict(items)
    for item, row in zip(items, found, strict=True):
        assert row.label == model.predict(item).label
    assert [row.name for row in found[:3]] == [str(path), "image 1", "image 2"]
    np.testing.assert_allclose(found.outputs[1], model.outputs(RGB), rtol=1e-6)


def test_many_images_are_read_in_batches(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnforge.prediction.arguments.MAX_BYTES", 2 * 30)
    sizes: list[int] = []
    predict = model._predictor.predict_images

    def counted(images: np.ndarray) -> Any:
        sizes.append(len(images))
        return predict(images)

    monkeypatch.setattr(model._predictor, "predict_images", counted)
    found = model.predict(BATCH)
    assert sizes == [2, 2, 1]
    assert found.outputs.shape == (5, 2)
    assert [row.name for row in found] == [f"image {number}" for number in range(5)]


@pytest.mark.parametrize("nothing", [[], (), np.empty((0, *SHAPE)), np.empty((0, 6, 5))])
def test_no_images_have_no_predictions(model: Model, nothing: Any) -> None:
    assert len(model.predict(nothing)) == 0
    assert model.predict(nothing).outputs.shape == (0, 2)


def test_no_images_have_no_predictions_with_keras(run: RunDirectory) -> None:
    model = cnnforge.load(run.path, kernels="keras")
    assert model.outputs([]).shape == (0, 2)
    np.testing.assert_allclose(
        model.outputs(BATCH.astype(np.float32)), model.outputs(BATCH), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "the images are of the type dict: expected the path of an image file, an array"),
        (None, "the images are of the type NoneType: expected"),
        (3, "the images are of the type int: expected"),
        (np.zeros(3), r"the images have the shape \(3,\): expected"),
        (np.zeros((1, 1, 6, 5, 1)), r"the images have the shape \(1, 1, 6, 5, 1\): expected"),
        ([[1, 2], [3, 4]], "image 0 is of the type list: expected"),
        ([BATCH[0], None], "image 1 is of the type NoneType: expected"),
        (np.zeros((2, 3, 6, 5)), r"image 0 has the shape \(3, 6, 5\): expected \(H, W\) or"),
        ([np.zeros((0, 5))], r"image 0 has the shape \(0, 5\)"),
        (np.zeros((6, 5), bool), "image 0: pixel values of the type bool, expected uint8"),
        (np.zeros((6, 5), complex), "image 0: pixel values of the type complex128"),
        (BATCH.astype(object), "images 0 to 4: pixel values of the type object"),
        (np.full((6, 5), 256), "image 0: pixel values from 256 to 256, expected 0 to 255"),
        (np.full((6, 5), -1), "image 0: pixel values from -1 to -1, expected 0 to 255"),
        ([np.zeros((9, 9, 4))], "image 0 is a float image with 4 channels: remove the"),
    ],
)
def test_what_is_no_image_is_one_message(model: Model, images: Any, message: str) -> None:
    for call in (model.predict, model.outputs):
        with pytest.raises(UsageError, match=message) as caught:
            call(images)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "a"])
def test_a_wrong_number_of_classes_is_named(model: Model, top_k: Any) -> None:
    with pytest.raises(UsageError, match=f"1 or more, got {top_k!r}"):
        model.predict(BATCH, top_k=top_k)


def test_the_plugins_are_a_list(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match=r"must be a list .*: plugins=\['mine.py'\]"):
        cnnforge.load(run.path, plugins="mine.py")


def test_a_file_that_cannot_be_read_is_named(model: Model, tmp_path: Path) -> None:
    good = file_of(tmp_path / "good.png", GRAY)
    with pytest.raises(DataError, match=r"nope.png: no such file or directory"):
        model.predict([good, tmp_path / "nope.png"])
    (tmp_path / "bad.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"bad.png: "):
        model.predict(tmp_path / "bad.png")
    with pytest.raises(DataError, match=r"image 0: .*32-bit pixels"):
        model.predict([Image.new("F", (5, 6))])


def test_nan_stays_nan(model: Model) -> None:
    pixels = np.full(SHAPE, np.nan, np.float32)
    assert np.isnan(model.outputs(pixels)).all()


def test_threads_may_share_a_model(model: Model) -> None:
    expected = model.outputs(BATCH)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(list(BATCH)).outputs, range(20)):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_copy_of_a_model_opens_the_run_again(
    model: Model, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.path.parent)
    relative = cnnforge.load(run.path.name)
    for one in (model, relative):
        stored = pickle.dumps(one)
        assert len(stored) < 1000
        monkeypatch.chdir("/")
        copy = pickle.loads(stored)
        assert copy.run.samefile(run.path)
        np.testing.assert_array_equal(copy.outputs(BATCH), model.outputs(BATCH))


def test_wrong_runs_are_one_message(tmp_path: Path, run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="there is no run"):
        cnnforge.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="kernels"):
        cnnforge.load(run.path, kernels="cuda")  # type: ignore[arg-type]
    run.model.unlink()
    with pytest.raises(RunError, match=r"has no model.keras"):
        cnnforge.load(run.path)
    assert issubclass(UsageError, CnnforgeError)


def test_a_model_without_a_plan_is_opened_through_keras(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnforge.prediction.model.discover", lambda explicit: engines)
    engine.error = ValueError("the layer 'x' is unknown")
    model = cnnforge.load(run.path)
    assert model.outputs(BATCH).shape == (5, 2)


REPORT = """
import json, sys
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_after(code: str) -> set[str]:
    """Return the top-level names of all modules that a fresh process has after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_plan_needs_neither_tensorflow_nor_keras(run: RunDirectory, tmp_path: Path) -> None:
    # The engine of the built-in plugin makes the plan here.
    cnnforge.load(run.path)
    assert (run.path / "plan.npz").is_file()
    path = file_of(tmp_path / "one.png", BATCH[0, :, :, 0])
    (tmp_path / "folder").mkdir()
    file_of(tmp_path / "folder" / "two.png", RGB)
    modules = modules_after(f"""
import cnnforge
model = cnnforge.load({str(run.path)!r})
assert model.predict({str(path)!r}).label in model.classes
from cnnforge.cli import main
run = {str(run.path)!r}
assert main(["predict", run, {str(path)!r}]) == 0
assert main(["predict", run, {str(tmp_path / "folder")!r}, "--json"]) == 0
assert main(["evaluate", run]) == 0
assert main(["evaluate", run, "--json"]) == 0
""")
    assert modules.isdisjoint({"keras", "tensorflow", "torch", "matplotlib", "h5py"})


def test_importing_the_package_is_light() -> None:
    modules = modules_after("import cnnforge; cnnforge.load")
    assert modules.isdisjoint({"keras", "tensorflow", "numba", "numpy", "pluggy"})


def test_arrays_are_letterboxed_for_a_task_that_wants_it() -> None:
    given = GivenImages.of([np.full((10, 40), 250, np.uint8), np.full((10, 40, 3), 250.0)])
    ((images, sizes),) = given.batches((20, 24, 1), "letterbox")
    assert sizes == [(10, 40), (10, 40)]
    # 40 x 10 becomes 24 x 6, and 7 rows are above and below it.
    assert (images[:, :7] == 114).all()
    assert (images[:, 13:] == 114).all()
    assert (images[:, 7:13] > 245).all()
    ((images, _),) = given.batches((20, 24, 1), "stretch")
    assert (images > 245).all()
    same = GivenImages.of(np.zeros((3, 20, 24, 1), np.uint8))
    assert next(same.batches((20, 24, 1), "letterbox"))[1] == [(20, 24)] * 3
