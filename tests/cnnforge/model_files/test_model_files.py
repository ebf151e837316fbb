"""T20, T21, T22: files of models that contain code or fill the memory are refused, others open."""

import gc
import hashlib
import io
import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import keras
import numpy as np
import pytest
from model_attacks import attacks, small_model

from cnnforge.conversion import forge
from cnnforge.errors import PluginError, RunError, UsageError
from cnnforge.model_files.arrays import check_arrays
from cnnforge.model_files.classes import LAYERS, REFUSED, find_class_problem
from cnnforge.model_files.trust import RefusedModelError, models_are_trusted, trusting_models
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.prediction.keras_model import load_model
from cnnforge.prediction.reference_predictions import FILE_NAME, read_reference_predictions
from cnnforge.reports.thumbnails import THUMBNAILS, read_thumbnails
from cnnforge.runs import RunDirectory
from cnnforge.training import state
from cnnforge.training.weight_sources import open_source

TRUST = "; if you trust its author, add --trust-model (in Python: trust_model=True)"
TAKES_NO = "expected layers of Keras or of installed plugins that take no functions and no files"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return discover()


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside") / "marker"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, marker: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("attacks")
    return {path.stem: path for path in attacks(folder, marker)}


def said(path: Path, plugins: Plugins) -> str:
    """Return the message of the refusal, without the path."""
    with pytest.raises(RunError) as caught:
        load_model(path, plugins.layers)
    message = str(caught.value)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    return message.removeprefix(f"{path} ")


def test_t20_each_attack_file_is_refused(
    corpus: dict[str, Path], marker: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that a file names is not imported from the working directory.
    folder = marker.parent
    (folder / "cnnforge_attack_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(corpus) > 40
    for path in corpus.values():
        started = process_time()
        said(path, plugins)
        assert process_time() - started < 5, path
        assert not marker.exists(), path
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lambda", f"is refused: config.json names the class keras.layers.Lambda, {TAKES_NO}"),
        ("lambda_inside", "is refused: config.json names the class keras.layers.Lambda, "),
        ("lambda_as_initializer", "is refused: config.json names a Python lambda, "),
        ("os_system", "is refused: config.json names the function os.system, "),
        ("exec", "is refused: config.json names the function builtins.exec, "),
        ("get_file", "is refused: config.json names the class keras.utils.get_file, "),
        ("string_lookup", "is refused: config.json names the class keras.layers.StringLookup, "),
        ("saved_model", "is refused: config.json names the class keras.layers.TFSMLayer, "),
        ("module_here", "is refused: config.json names the class cnnforge_attack_module.Layer, "),
        ("large_config", "is refused: config.json has 300 MB, at most 8 MB are allowed"),
        ("external", "is refused: model.weights.h5 has the array 'x' whose values are in another"),
        ("virtual", "is refused: model.weights.h5 has the array 'x' with parts in other files"),
        ("link", "is refused: model.weights.h5 has the link 'x' to another place, expected"),
        ("circle", "is refused: model.weights.h5 has a second name, 'layers/x', of one object"),
        ("objects", "is refused: model.weights.h5 has the array 'x' of objects, expected numbers"),
        ("hdf5_bomb", "is refused: model.weights.h5 has arrays of 4.29 GB or more in "),
        ("unfilled", "is refused: model.weights.h5 has arrays of 4.4 TB or more in "),
        ("zeros", "is refused: model.weights.h5 expands from 194 kB to 200 MB"),
        ("outside", "is refused: it has the member '../marker', expected config.json, "),
        ("twice", "is refused: it has two members of one name"),
        ("bad_hash", "cannot be opened: it is damaged (BadZipFile: Bad CRC-32 for file 'config"),
        ("pickle", "cannot be opened: it is damaged or not a Keras model; expected a .keras file"),
    ],
)
def test_t20_the_message_names_what_was_found(
    corpus: dict[str, Path], plugins: Plugins, name: str, message: str
) -> None:
    text = said(corpus[name], plugins)
    assert text.startswith(message)
    assert text.endswith(TRUST) == ("is refused" in text)


def test_t20_every_layer_of_keras_is_allowed_or_refused_on_purpose() -> None:
    """A new version of Keras may have layers that read files or run code: look at them."""
    names = {name for name in dir(keras.layers) if isinstance(getattr(keras.layers, name), type)}
    assert names == LAYERS | REFUSED
    assert not LAYERS & REFUSED


def opens(model: keras.Model, path: Path, plugins: Plugins) -> None:
    model.save(path)
    again = load_model(path, plugins.layers)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_good_files_open(tmp_path: Path, plugins: Plugins) -> None:
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Conv2D(
        2,
        3,
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_constraint=keras.constraints.NonNeg(),
        activation=keras.activations.gelu,
    )(layers.Rescaling(1 / 255)(inputs))
    outputs = keras.ops.mean(keras.ops.relu(outputs * 2 + 1), axis=(1, 2))[:, :2]
    outputs = layers.Activation(keras.ops.sigmoid)(outputs)
    parts = keras.Sequential(
        [layers.Dropout(0.5, seed=3), layers.LeakyReLU(), layers.Dense(2, "leaky_relu")]
    )
    model = keras.Model(inputs, {"a": parts(outputs), "b": outputs})

    def loss_of_mine(truth: keras.KerasTensor, found: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.mean(truth - found)

    # How a model was compiled does not matter.
    model.compile("adam", {"a": loss_of_mine, "b": "mse"}, metrics={"a": ["mae"]})
    opens(model, tmp_path / "model.keras", plugins)
    opens(small_model(), tmp_path / "small.keras", plugins)
    opens(forge(small_model(), "numba"), tmp_path / "forged.keras", plugins)
    with trusting_models():
        load_model(tmp_path / "model.keras", plugins.layers)


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mobilenet_small", "detector", "vgg11"])
def test_the_built_in_models_have_allowed_classes(plugins: Plugins, name: str) -> None:
    model = plugins.models[name].load()((32, 32, 3), 5)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    assert find_class_problem(config, lambda name: False, lambda *names: False) is None


def test_t21_trust_opens_what_is_refused(
    corpus: dict[str, Path], marker: Path, plugins: Plugins, tmp_path: Path
) -> None:
    old = tmp_path / "old.h5"
    small_model().save(old)
    with trusting_models():
        for name in ("assets", "circle"):
            assert load_model(corpus[name], plugins.layers).count_params() == 750
        assert len(open_source(old, plugins).layers) == 2
        with pytest.raises(RunError, match="cannot be opened"):
            load_model(corpus["pickle"], plugins.layers)
        with trusting_models(False):
            assert models_are_trusted()
    assert not models_are_trusted()
    with pytest.raises(UsageError) as caught:
        open_source(old, plugins)
    assert str(caught.value) == (
        f"--init-from takes a run, or a .keras or .weights.h5 file of Keras, not {old}; such a "
        f"file may contain code{TRUST.replace(';', ':')}"
    )
    assert not marker.exists()


def test_t21_a_lambda_runs_only_if_the_file_is_trusted(
    tmp_path: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda inputs: inputs * 2)])
    model.save(tmp_path / "double.keras")
    assert "keras.layers.Lambda" in said(tmp_path / "double.keras", plugins)
    with trusting_models():
        again = load_model(tmp_path / "double.keras", plugins.layers)
    assert float(again(np.ones((1, 2)))[0, 0]) == 2
    model.save(tmp_path / "double.h5")
    with pytest.raises(UsageError, match="such a file may contain code"):
        open_source(tmp_path / "double.h5", plugins)


@pytest.mark.parametrize("name", ["external", "virtual", "link", "circle", "objects", "hdf5_bomb"])
def test_t20_files_of_weights_are_refused(
    corpus: dict[str, Path], plugins: Plugins, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "x.weights.h5"
    path.write_bytes(zipfile.ZipFile(corpus[name]).read("model.weights.h5"))
    with pytest.raises(RefusedModelError, match=r"x\.weights\.h5 is refused: the file has"):
        open_source(path, plugins)


class Marked:
    def __init__(self, marker: Path) -> None:
        self.code = f"open({str(marker)!r}, 'w')"

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (self.code,)


def test_t22_object_arrays_are_refused(marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(3), y=np.array([Marked(marker)], object))
    with pytest.raises(ValueError, match=r"y\.npy has Python objects, expected numbers"):
        check_arrays(path)
    np.savez(path, x=np.zeros(3), y=np.array("text"), z=np.zeros((0, 2), np.uint8))
    check_arrays(path)
    check_arrays(io.BytesIO(path.read_bytes()))
    assert not marker.exists()


def changed(path: Path, old: bytes, new: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy").replace(old, new)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)


def test_t22_arrays_of_another_size_than_they_say_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(300_000_000, np.uint8)[:7])
    changed(path, b"(7,)", b"(9000000000000,)")
    with pytest.raises(ValueError, match=r"x\.npy has another size than its shape \(9000000000000"):
        check_arrays(path)
    np.savez_compressed(path, x=np.zeros(100_000_000, np.uint8))
    with pytest.raises(ValueError, match=r"it expands from 97[.\d]* kB to 100 MB"):
        check_arrays(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="it is damaged"):
        check_arrays(path)


def test_t22_the_arrays_of_a_run_are_checked(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    path = tmp_path / FILE_NAME
    np.savez_compressed(path, images=np.zeros(100_000_000, np.uint8))
    with pytest.raises(RunError, match="it expands from"):
        read_reference_predictions(run)
    path.rename(tmp_path / THUMBNAILS)
    assert read_thumbnails(run) == {}
    body = (tmp_path / THUMBNAILS).read_bytes()
    head = f"cnnforge-state 2 {hashlib.sha256(body).hexdigest()}\n".encode()
    with pytest.raises(ValueError, match="it expands from"):
        state._decode(head + body)


def test_t24_a_file_imports_no_module(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, corpus: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cnnforge_attack.py").write_text("1 / 0\n")
    (tmp_path / "cnnforge_attack_module.py").write_text("1 / 0\n")
    assert said(corpus["plugin_here"], plugins) == (
        "cannot be opened: the class cnnforge_attack>Layer belongs neither to Keras nor to an "
        "installed plugin: install the plugin that has 'cnnforge_attack', or name it with --plugin"
    )


def test_t24_a_broken_plugin_is_named(
    corpus: dict[str, Path], write_plugin: Callable[..., str]
) -> None:
    plugin = write_plugin(
        "acme_broken",
        """
        @hookimpl
        def cnnforge_layers():
            return [LayerSpec(name="own", target="acme_missing:Own", summary="")]
        """,
    )
    with pytest.raises(RunError, match="acme_missing") as caught:
        load_model(corpus["plugin_here"], discover([plugin]).layers)
    assert isinstance(caught.value.__cause__, PluginError)
