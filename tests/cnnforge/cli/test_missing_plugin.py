"""Runs with a plugin layer, opened without the plugin, or with a broken or another version."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest

from cnnforge.cli import main

pytestmark = pytest.mark.usefixtures("quick_figures")

PLUGIN = """
import keras

from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_layers():
    return [LayerSpec(name="power", target="acme_power:Power", summary="x to a power")]


@hookimpl
def cnnforge_models():
    return [ModelSpec(name="net", target="acme_power:build", summary="one of these")]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="toy", target="acme_power:load", summary="bright and dark")]


@keras.saving.register_keras_serializable(package="acme_power")
class Power(keras.layers.Layer):
    def call(self, inputs):
        return inputs**2

    def compute_output_shape(self, input_shape):
        return input_shape


def build(input_shape, classes):
    layers = [keras.layers.Rescaling(1 / 255), Power(), keras.layers.Flatten()]
    return keras.Sequential(
        [keras.Input(input_shape), *layers, keras.layers.Dense(classes, activation="softmax")]
    )


def load(argument, options):
    import numpy as np

    from cnnforge.data import dataset_from_arrays

    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 100, (40, 4, 4, 1)) + 100 * labels[
        :, None, None, None
    ]
    return dataset_from_arrays(
        "toy",
        images.astype(np.uint8),
        labels,
        names=[f"toy {number}" for number in range(40)],
        classes=["dark", "bright"],
        options=options,
    )
"""


def forget() -> None:
    sys.modules.pop("acme_power", None)
    keras.saving.get_custom_objects().pop("acme_power>Power", None)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def put(site: Path, version: str, source: str = PLUGIN, origin: str = "") -> None:
    """Install the plugin, in place of what was there."""
    remove(site)
    (site / "acme_power.py").write_text(source)
    info = site / f"acme_power-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-power\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[cnnforge]\nacme = acme_power\n")
    if origin:
        (info / "direct_url.json").write_text(json.dumps({"url": origin, "dir_info": {}}))
    sys.path_importer_cache.pop(str(site), None)


def remove(site: Path) -> None:
    forget()
    for path in site.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    sys.path_importer_cache.pop(str(site), None)


@pytest.fixture
def trained(site: Path, tmp_path: Path) -> Path:
    put(site, "1.2")
    command = ["train", "net", "--data", "toy", "--kernels", "keras", "--batch-size", "8"]
    assert main([*command, "--epochs", "2", "--output", str(tmp_path / "runs")]) == 0
    return tmp_path / "runs" / "net-toy-001"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return `fails(*arguments)`: run a command that fails, return what it says last."""

    def fails(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err.splitlines()[-1]

    return fails


def test_what_is_recorded(trained: Path) -> None:
    rows = {row["plugin"]: row for row in json.loads((trained / "plugins.json").read_text())}
    assert rows == {
        "acme": {
            "plugin": "acme",
            "source": "acme_power",
            "distribution": "acme-power",
            "version": "1.2",
            "origin": None,
            "uses": ["model acme/net", "dataset acme/toy"],
            "layers": ["Power"],
        }
    }


def test_t24_a_missing_plugin_is_named_and_nothing_is_imported(
    site: Path,
    trained: Path,
    fails: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove(site)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme_power.py").write_text("open('marker', 'w')\n" + PLUGIN)
    line = (
        f"error: the run {trained} needs the layer Power of the plugin 'acme', which is not "
        "installed here; pip install acme-power==1.2"
    )
    assert fails("predict", str(trained), "mnist5k") == line
    assert fails("evaluate", str(trained)) == line
    assert fails("train", "--resume", str(trained), "--epochs", "+1") == line
    assert fails("train", "--init-from", str(trained)) == line
    (trained / "plugins.json").unlink()
    assert fails("evaluate", str(trained), "--kernels", "keras").endswith(
        "cannot be opened: the class acme_power>Power belongs neither to Keras nor to an installed "
        "plugin: install the plugin that has 'acme_power', or name it with --plugin"
    )
    assert not (tmp_path / "marker").exists()
    assert "acme_power" not in sys.modules


def test_a_broken_plugin_is_named(site: Path, trained: Path, fails: Callable[..., str]) -> None:
    put(site, "1.2", "1 / 0")
    assert "which is not loaded: ZeroDivisionError" in fails("evaluate", str(trained))


def test_an_address_that_is_no_index_is_said(
    site: Path, trained: Path, fails: Callable[..., str]
) -> None:
    put(site, "1.2", origin="file:///home/me/acme")
    assert main(["train", "--resume", str(trained), "--epochs", "+1"]) == 0
    remove(site)
    assert fails("evaluate", str(trained)).endswith(
        "pip install acme-power==1.2 (it was installed from file:///home/me/acme)"
    )


def test_another_version(
    site: Path, trained: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(site, "2.0")
    capsys.readouterr()
    assert main(["evaluate", str(trained)]) == 0
    err = capsys.readouterr().err
    assert (
        "warning: the plugin 'acme' is acme-power 2.0 here, the run was made with 1.2; the "
        "model still gives the predictions that were saved with it"
    ) in err
    put(site, "3.0", PLUGIN.replace("inputs**2", "inputs**3"))
    line = fails("evaluate", str(trained))
    assert "model.keras no longer gives the predictions that were kept with it" in line
    assert line.endswith(
        "the plugin 'acme' is acme-power 3.0 here, the run was made with 1.2; "
        "pip install acme-power==1.2"
    )
    assert main(["train", "--resume", str(trained), "--epochs", "+1"]) == 0
    assert "the run was made with 1.2: training may give other results" in capsys.readouterr().err


def test_predictions_of_another_model_are_not_compared(
    site: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (trained / "reference_predictions.npz").read_bytes()
    assert (
        main(
            [
                "train",
                "net",
                "--data",
                "toy",
                "--kernels",
                "keras",
                "--epochs",
                "1",
                "--seed",
                "5",
                "--output",
                str(trained.parent),
            ]
        )
        == 0
    )
    trained = trained.with_name("net-toy-002")
    (trained / "reference_predictions.npz").write_bytes(kept)
    capsys.readouterr()
    put(site, "3.0", PLUGIN.replace("inputs**2", "inputs**3"))
    assert main(["evaluate", str(trained)]) == 0
    said = capsys.readouterr().err.splitlines()
    # The plan depends on the version of the plugin, too.
    assert said[0] == "the plan of the run is made again: the plugin acme has another version"
    assert said[2] == (
        "warning: the plugin 'acme' is acme-power 3.0 here, the run was made with 1.2; no "
        "predictions were saved with this model to compare with"
    )
    (trained / "reference_predictions.npz").write_bytes(b"nothing")
    assert main(["evaluate", str(trained)]) == 1
    assert "reference_predictions.npz cannot be compared" in capsys.readouterr().err


def test_a_damaged_list_is_named(trained: Path, fails: Callable[..., str]) -> None:
    (trained / "plugins.json").write_text("[{}]")
    assert "plugins.json cannot be read" in fails("evaluate", str(trained))
    (trained / "plugins.json").unlink()
    assert main(["evaluate", str(trained)]) == 0


def test_a_plugin_that_is_a_file(
    tmp_path: Path,
    trained: Path,
    fails: Callable[..., str],
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove(site)
    monkeypatch.setattr("cnnforge.runs.named_plugins.cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "acme_power.py"
    path.write_text(PLUGIN)
    command = ["train", "net", "--data", "toy", "--kernels", "keras", "--epochs", "1"]
    command += ["--plugin", str(path)]
    assert main([*command, "--output", str(tmp_path / "files")]) == 0
    run = tmp_path / "files" / "net-toy-001"
    forget()
    # The user has named the plugin for the training.
    assert main(["evaluate", str(run)]) == 0
    path.unlink()
    forget()
    assert fails("evaluate", str(run)).endswith(
        "needs the layer Power of the plugin 'acme_power', which is not installed here; name it "
        f"with --plugin {path}"
    )


def test_anothers_broken_layer_is_no_reason(site: Path, trained: Path) -> None:
    (site / "acme_bad.py").write_text(
        "from cnnforge.plugin import LayerSpec, hookimpl\n"
        "@hookimpl\ndef cnnforge_layers():\n"
        "    return [LayerSpec(name='bad', target='acme_bad:Missing', summary='')]\n"
    )
    forget()
    assert main(["evaluate", str(trained), "--plugin", str(site / "acme_bad.py")]) == 0
