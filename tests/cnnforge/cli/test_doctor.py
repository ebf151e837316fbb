"""`cnnforge doctor`."""

import importlib.util
import json

import pytest

from cnnforge.cli import main
from cnnforge.cli.doctor import machine as module
from cnnforge.cli.doctor.machine import _choices_by_layer
from cnnforge.errors import UsageError
from cnnforge.plugin_host.discovery import discover

WRONG = """
    import keras

    @hookimpl
    def cnnforge_layers():
        return [
            LayerSpec(
                name="halved",
                target="acme_wrong:Halved",
                summary="",
                reference="keras.layers:AveragePooling2D",
            ),
            LayerSpec(
                name="missing", target="acme_wrong:No", summary="", reference="keras.layers:Dense"
            ),
            LayerSpec(name="own", target="acme_wrong:Own", summary=""),
        ]

    class Halved(keras.layers.AveragePooling2D):
        def call(self, inputs):
            return super().call(inputs) / 2
"""


@pytest.fixture(autouse=True)
def _nothing_is_chosen_yet(tmp_path, monkeypatch):
    from cnnforge.conversion import autotune

    monkeypatch.setattr(autotune, "default_cache_file", lambda: tmp_path / "choices.json")


_known = {}


@pytest.fixture
def known_checks(monkeypatch):
    """Check the same layers once in this file, because it takes seconds."""
    check = module._checks

    def checks(specs):
        names = tuple(spec.qualified_name for spec in specs)
        if names not in _known:
            _known[names] = check(specs)
        return _known[names]

    monkeypatch.setattr(module, "_checks", checks)


def report(capsys, *arguments):
    code = main(["doctor", "--json", *arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


@pytest.mark.usefixtures("known_checks")
def test_json(capsys):
    code, found, err = report(capsys)
    assert code == 0
    assert err == ""
    assert {"keras", "tensorflow", "numba"} <= set(found["packages"])
    assert found["cpu"]["float32_lanes"] in (4, 8, 16)
    assert found["cpu"]["model"]
    assert found["threads"]["layer"] in ("omp", "tbb", "workqueue")
    assert found["threads"]["count"] >= 1
    assert found["ops"].startswith("tensorflow: ")
    assert "run on the CPU" in found["cuda"]
    assert set(found["experimental"]) == {"tuner", "tensor cores"}
    assert all("not yet run on a device" in state for state in found["experimental"].values())
    assert "cnnforge" in found["cache"]
    assert {"builtin"} <= {it["name"] for it in found["plugins"] if it["status"] == "loaded"}
    checks = {it["provider"]: it for it in found["checks"]}
    assert set(checks) == {spec.qualified_name for spec in discover().layers.values()}
    assert {"builtin/conv2d", "builtin/max_pooling2d", "builtin/conv_block2d"} <= set(checks)
    assert all(it["passed"] for it in checks.values())
    assert [it["tensor"] for it in checks["builtin/conv2d"]["results"]] == [
        "outputs",
        "grad_inputs",
        "grad_kernel",
        "grad_bias",
    ]


@pytest.mark.usefixtures("known_checks")
def test_table(capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    rows = [line for line in lines if line and line[0].startswith("builtin/")]
    assert {row[0] for row in rows} == {spec.qualified_name for spec in discover().layers.values()}
    assert all(row[-1] == "ok" for row in rows)
    assert float(rows[0][2]) <= float(rows[0][3])
    for heading in ("Python", "processor", "vectors", "threads", "ops", "CUDA", "cache"):
        assert any(line[:1] == [heading] for line in lines)
    assert "failed" not in err


@pytest.mark.usefixtures("known_checks")
def test_a_wrong_layer_is_found(write_plugin, capsys):
    path = write_plugin("acme_wrong", WRONG)
    code, found, _ = report(capsys, "--plugin", path)
    assert code == 1
    checks = {it["provider"]: it for it in found["checks"]}
    assert not checks["acme_wrong/halved"]["passed"]
    assert not checks["acme_wrong/halved"]["results"][0]["ok"]
    assert "acme_wrong:No" in checks["acme_wrong/missing"]["error"]
    assert "acme_wrong/own" not in checks
    assert checks["builtin/conv2d"]["passed"]
    assert main(["doctor", "--plugin", path]) == 1
    out, err = capsys.readouterr()
    assert "WRONG" in out
    assert "FAILED" in out
    assert f"2 of {len(discover().layers) + 2} layers failed" in err
    assert "acme_wrong/halved, acme_wrong/missing" in err


def test_a_plugin_that_failed_is_shown(install_plugin, capsys, monkeypatch):
    monkeypatch.setattr(module, "_checks", lambda specs: [])
    install_plugin("broken", "1 / 0")
    code, found, _ = report(capsys)
    assert code == 0
    (broken,) = [it for it in found["plugins"] if it["name"] == "broken"]
    assert broken["status"] == "failed"
    assert "ZeroDivisionError" in broken["cause"]


def test_no_route_is_a_failure(capsys, monkeypatch):
    def route():
        raise UsageError("the Keras backend is 'jax'")

    monkeypatch.setattr("cnnforge.ops.route", route)
    code, found, _ = report(capsys)
    assert code == 1
    assert found["ops"] == found["checks"][0]["error"] == "the Keras backend is 'jax'"


def test_serial_threads_come_with_advice(capsys, monkeypatch):
    monkeypatch.setattr(module, "_checks", lambda specs: [])
    monkeypatch.setattr(module, "_threading_layer", lambda known: "workqueue")
    _, found, _ = report(capsys)
    assert "libgomp" in found["threads"]["advice"]
    assert "pip install tbb" in found["threads"]["advice"]
    assert main(["doctor"]) == 0
    assert "take turns" in capsys.readouterr().err
    assert module._threads_advice("omp") is module._threads_advice("tbb") is None


@pytest.mark.parametrize(
    ("features", "lanes"),
    [(["avx", "avx2", "avx512f", "fma"], 16), (["avx2", "fma"], 8), (["avx2"], 4), (["neon"], 4)],
)
def test_lanes(features, lanes):
    assert module._lanes(features) == lanes


def test_without_numba_cuda(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'cnnforge[cuda13]'" in module._cuda()
    assert "`pytest -m gpu` skips" in module._cuda()
    assert "run on the CPU" in module._cuda()


@pytest.mark.usefixtures("known_checks")
def test_what_auto_has_chosen(capsys, monkeypatch):
    from cnnforge.conversion import autotune

    def measure(workload, training):
        return autotune.Choice("keras", 0.5, seconds=(2.0, 1.0)), 0.0

    monkeypatch.setattr(autotune, "_measure", measure)
    assert report(capsys)[1]["choices"] == []
    import keras

    from cnnforge.conversion import decide

    decide(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.MaxPooling2D()]), batch_size=3)
    assert report(capsys)[1]["choices"] == [
        {
            "layer": "builtin/max_pooling2d",
            "shape": [3, 8, 8, 1],
            "training": True,
            "implementation": "keras",
            "ratio": 0.5,
        }
    ]
    main(["doctor"])
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["builtin/max_pooling2d", "1", "0", "1", "0.50"] in rows
    assert err.endswith("layers passed their checks\n")
    assert err.startswith("all ")


def test_the_choices_of_a_layer_are_one_row():
    ratios = {"numba": (1.5, 20.0, 3.0), "keras": (0.5,)}
    choices = [
        {"layer": layer, "implementation": name, "ratio": ratio, "shape": [1], "training": True}
        for layer in ("mine", "yours")
        for name, own in ratios.items()
        for ratio in own
    ]
    assert _choices_by_layer(choices) == [
        ["mine", 4, 3, 1, "0.50 to 20.00"],
        ["yours", 4, 3, 1, "0.50 to 20.00"],
    ]
