"""`cnnforge plugins check`: one line a check, a table to paste, the exit code."""

import json
import sys
import textwrap

import pytest

from cnnforge.cli import main
from cnnforge.cli.plugins.check import _rows
from cnnforge.cli.plugins.report import Report
from cnnforge.plugin import LayerSpec, ModelSpec

# A layer of Keras' own operations and one of the same with a fault; no process of its own is
# needed to see that the command tells them apart.
LAYERS = """
    import keras
    import numpy as np
    from cnnforge.testing import LayerCase

    @hookimpl
    def cnnforge_layers():
        layer = {"summary": "a slope below zero", "cases": "acme_leaky:CASES"}
        return [
            LayerSpec(name="leaky", target="acme_leaky:Leaky", **layer),
            LayerSpec(name="broken", target="acme_leaky:Broken", **layer),
            LayerSpec(name="missing", target="acme_leaky:Missing", **layer),
            LayerSpec(name="untested", target="acme_leaky:Leaky", summary="no cases"),
        ]

    class Leaky(keras.layers.Layer):
        def __init__(self, slope, **kwargs):
            super().__init__(**kwargs)
            if not slope >= 0:
                raise ValueError(f"slope={slope} must be 0 or more")
            self.slope = slope

        def call(self, inputs):
            return keras.ops.maximum(inputs, self.slope * inputs)

        def get_config(self):
            return {**super().get_config(), "slope": self.slope}

    class Broken(Leaky):
        def call(self, inputs):
            return -super().call(inputs)

    for kind in (Leaky, Broken):
        keras.saving.register_keras_serializable("acme_leaky")(kind)

    CASES = [
        LayerCase(
            name=name,
            arguments={"slope": slope},
            input_shape=(2, 3, 4, 2),
            oracle=lambda layer, inputs: np.maximum(inputs, layer.slope * inputs),
            bad_arguments={"slope": -1.0},
        )
        for name, slope in (("quarter", 0.25), ("zero", 0.0))
    ]
"""
MODEL = """
    import keras

    @hookimpl
    def cnnforge_models():
        return [
            ModelSpec(name="good", target="acme_model:good", summary="one dense layer"),
            ModelSpec(name="raw", target="acme_model:raw", summary="without a softmax"),
            ModelSpec(name="short", target="acme_model:short", summary="takes one argument"),
        ]

    @hookimpl
    def cnnforge_datasets():
        return [
            DatasetSpec(name="none", target="acme_model:nothing", summary="returns nothing"),
            DatasetSpec(name="raises", target="acme_model:raises", summary="fails"),
            DatasetSpec(
                name="remote", target="acme_model:raises", summary="is far away", downloads=True
            ),
        ]

    def good(input_shape, classes, activation="softmax"):
        layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
        layers.append(keras.layers.Dense(classes, activation=activation))
        return keras.Sequential([keras.Input(input_shape), *layers])

    def raw(input_shape, classes):
        return good(input_shape, classes, None)

    def short(input_shape): ...
    def nothing(argument, options): ...
    def raises(argument, options): return argument + 1
"""


@pytest.fixture(autouse=True)
def _without_a_process_of_its_own(monkeypatch):
    # It has tests of its own, and takes seconds.
    from cnnforge.testing import _order, fresh_process

    monkeypatch.setattr(_order, "save_and_load", lambda subjects: "")
    for name in ("start", "fork"):
        monkeypatch.setattr(fresh_process, name, lambda: None)


def check(capsys, *arguments):
    """The exit code and the rows, by spec and check."""
    code = main(["plugins", "check", "--json", *arguments])
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] == (code == 0)
    return code, {(it["name"], it["check"], it["case"]): it for it in report["checks"]}


def test_a_good_layer(install_plugin, capsys):
    install_plugin("leaky", LAYERS)
    assert main(["plugins", "check", "leaky/leaky"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "layer leaky/leaky: a slope below zero"
    assert "  ok   values_oracle-quarter" in lines
    assert any(line.startswith("  ok   speed-zero: ") for line in lines)
    assert "| leaky/leaky | quarter | zero |" in lines
    assert "| values_oracle | ok | ok |" in lines
    keras = "predictions need Keras: its call applies no ArrayOp, expected exactly one"
    assert f"  ok   inference: {keras}" in lines
    assert lines[-1] == "45 of 45 checks passed"
    assert err == ""


def test_a_broken_layer(install_plugin, capsys):
    install_plugin("leaky", LAYERS)
    # The class of a layer names it, too.
    assert main(["plugins", "check", "Broken"]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = "  FAIL values_oracle-quarter: 2 of 2 cases: the output has the opposite sign (max|"
    assert sum(line.startswith(wrong) for line in lines) == 1
    assert not [line for line in lines if "fail values" in line or "gradients_oracle-" in line]
    assert [line for line in lines if line.startswith("  --   ")] == [
        f"  --   {lines[-1].rpartition(', ')[2]}: values_oracle failed; -v lists them".replace(
            " not run", " checks not run"
        )
    ]
    assert "| values_oracle | **FAIL** | fail |" in lines
    assert "| determinism | ok | ok |" in lines
    assert "1 failed, 1 failed for the same reason, " in lines[-1]


def test_a_line_for_each_check(install_plugin, capsys):
    install_plugin("leaky", LAYERS)
    assert main(["plugins", "check", "broken", "-v"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "FAIL values_oracle-quarter" in line]
    assert line.startswith("  FAIL values_oracle-quarter: the output has the opposite sign (max|")
    (line,) = [line for line in lines if "fail values_oracle-zero" in line]
    assert line.startswith("  fail values_oracle-zero: fails too, as values_oracle-quarter: ")
    assert "  --   gradients_oracle-quarter: not run: values_oracle-quarter failed" in lines


def row(check, case, status, message=""):
    return {"check": check, "case": case, "status": status, "message": message}


def test_a_report_says_each_cause_once(capsys):
    layer = LayerSpec(plugin="acme", name="blur", target="acme.layer:Blur", summary="blurs")
    report = Report(verbose=False)
    report.begin(layer)
    for each in (
        row("races", "a", "not run", "not run: 'f' is not compiled"),
        row("races", "b", "not run", "not run: 'f' is not compiled"),
        row("determinism", "a", "failed", "is not deterministic"),
        row("determinism", "b", "ok"),
        row("no_state", "a", "not run", "not run: determinism-a failed"),
        row("no_state", "b", "failed", "keeps a state"),
        row("speed", "a", "not run", "not run: determinism-a failed"),
        row("speed", "b", "not run", "not run: no_state-b failed"),
    ):
        report.add(each)
    report.end()
    assert capsys.readouterr().out.splitlines() == [
        "layer acme/blur: blurs",
        "  --   races-a: 2 of 2 cases: not run: 'f' is not compiled",
        "  ok   determinism-b",
        "  FAIL determinism-a: is not deterministic",
        "  FAIL no_state-b: keeps a state",
        "  --   3 checks not run: determinism, no_state failed; -v lists them",
    ]


def test_some_checks_of_a_case(install_plugin, capsys):
    install_plugin("leaky", LAYERS)
    code, rows = check(capsys, "broken", "--only", "gradients_oracle", "--case", "zero")
    assert code == 1
    assert list(rows) == [("leaky/broken", "gradients_oracle", "zero")]
    code, rows = check(capsys, "leaky/leaky", "--case", "zero")
    assert code == 0
    # The checks of the whole layer are made with this case alone.
    assert {key[2] for key in rows} == {"", "zero"}
    code, rows = check(capsys, "broken", "-x")
    assert code == 1
    assert [row["status"] for row in rows.values()].count("failed") == 1
    assert list(rows)[-1] == ("leaky/broken", "values_oracle", "quarter")
    code, rows = check(capsys, "leaky/leaky", "--boundscheck")
    assert code == 0
    assert {key[1] for key in rows} == {"index_in_range", "races"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "value_oracle"], "--only value_oracle: no such name here; did you mean"),
        (["--case", "half"], "--case half: no such name here; there are quarter, zero"),
    ],
)
def test_checks_and_cases_that_do_not_exist(install_plugin, capsys, arguments, message):
    install_plugin("leaky", LAYERS)
    assert main(["plugins", "check", "leaky/leaky", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_boundscheck_without_cases_names_its_option(install_plugin, capsys):
    install_plugin("leaky", LAYERS)
    assert main(["plugins", "check", "leaky/untested", "--boundscheck"]) == 2
    assert "--boundscheck index_in_range: no such name here" in capsys.readouterr().err


def test_a_heavy_manifest_and_two_versions(install_plugin, capsys, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    (tmp_path / "jax.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    install_plugin("leaky", "import jax\n" + textwrap.dedent(LAYERS))
    code, rows = check(capsys, "leaky/leaky", "--only", "plugin")
    assert code == 1
    (row,) = rows.values()
    assert "imports jax in acme_leaky, which slows every start" in row["message"]
    install_plugin("other", LAYERS.replace("acme_leaky", "acme_other"))
    info = tmp_path / "older" / "acme_other-0.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-other\nVersion: 0.9\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "older")])
    code, rows = check(capsys, "other/leaky", "--only", "plugin")
    assert code == 1
    (row,) = rows.values()
    assert "the plugin 'other' is installed in 2 versions: 0.9 in " in row["message"]
    assert "; 1.0 is used; keep one: pip uninstall acme-other" in row["message"]


def test_json(install_plugin, capsys):
    install_plugin("leaky", LAYERS)
    code, rows = check(capsys, "broken")
    assert code == 1
    row = rows["leaky/broken", "values_oracle", "quarter"]
    assert row["status"] == "failed"
    assert row["kind"] == "layer"
    assert "the output has the opposite sign" in row["message"]
    assert rows["leaky/broken", "values_oracle", "zero"]["status"] == "same"
    assert rows["leaky/broken", "gradients_oracle", "zero"]["status"] == "not run"
    assert rows["leaky/broken", "registration", ""]["status"] == "ok"


def test_what_cannot_be_checked_fails(install_plugin, capsys):
    install_plugin("leaky", LAYERS)
    code, rows = check(capsys, "missing")
    assert code == 1
    assert list(rows) == [("leaky/missing", "plugin", ""), ("leaky/missing", "targets", "")]
    assert "has no attribute 'Missing'" in rows["leaky/missing", "targets", ""]["message"]
    code, rows = check(capsys, "untested")
    assert code == 1
    assert "names no cases" in rows["leaky/untested", "targets", ""]["message"]


def test_a_whole_plugin(install_plugin, capsys):
    install_plugin("model", MODEL)
    code, rows = check(capsys, "model")
    assert code == 1
    failed = {key[:2]: row["message"] for key, row in rows.items() if row["status"] == "failed"}
    assert not [key for key in failed if key[0] == "model/good"]
    assert "builds" in {check for name, check, _ in rows if name == "model/good"}
    assert "end the model in a softmax" in failed["model/raw", "builds"]
    assert "cannot be called with 2 arguments" in failed["model/short", "targets"]
    assert "returns a NoneType, expected a Dataset" in failed["model/none", "loads"]
    assert "raise a cnnforge.errors.UsageError" in failed["model/raises", "loads"]


def test_a_check_of_a_whole_plugin_downloads_nothing(install_plugin, capsys):
    install_plugin("model", MODEL)
    _, rows = check(capsys, "model")
    row = rows["model/remote", "loads", ""]
    assert row["status"] == "ok"
    assert row["message"] == "not loaded: it may download files; plugins check remote loads it"
    code, rows = check(capsys, "remote")
    assert code == 1
    assert "raise a cnnforge.errors.UsageError" in rows["model/remote", "loads", ""]["message"]


def test_a_dataset_that_needs_an_argument(capsys):
    code, rows = check(capsys, "csv")
    assert code == 0
    assert "csv needs a file" in rows["builtin/csv", "loads", ""]["message"]


def test_a_file(write_plugin, capsys):
    path = write_plugin("acme_leaky", LAYERS)
    for arguments in (["check", "leaky", "--plugin", path], ["--plugin", path, "check", "leaky"]):
        assert main(["plugins", *arguments]) == 0
    assert "acme_leaky/leaky" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "conv2",
            "no layer, dataset, model, task, callback, augmentation, engine or plugin named "
            "'conv2'",
        ),
        ("conv2", "; did you mean 'conv2d'?"),
        ("builtn", "did you mean 'builtin'?"),
        ("builtin/conv2", "did you mean 'builtin/conv2d'?"),
        ("nothing_like_it", "there are: average_pooling2d, "),
        ("hopeless", "plugin 'hopeless' is not loaded (failed): ZeroDivisionError"),
    ],
)
def test_unknown_names(install_plugin, capsys, name, message):
    install_plugin("hopeless", "1 / 0")
    assert main(["plugins", "check", name]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["runs", "index_in_range"])
def test_models_are_not_run_after_a_layer_that_could_hang_or_crash(capsys, kind) -> None:
    from cnnforge.testing import Check

    def fails() -> str:
        raise AssertionError("index 8 is outside of axis 2")

    def crashes() -> str:
        raise SystemError("the model must not run")

    layer = LayerSpec(plugin="acme", name="blur", target="acme.layer:Blur", summary="blurs")
    model = ModelSpec(plugin="acme", name="net", target="acme.model:build", summary="a net")
    other = ModelSpec(plugin="zeta", name="net", target="zeta.model:build", summary="a net")
    checks = [
        (layer, Check(kind, "default", fails)),
        (model, Check("builds", "28x28x1", crashes)),
        (other, Check("builds", "28x28x1", lambda: "fine")),
    ]
    report = Report(verbose=False)
    rows = list(_rows(checks, alone=False, shown=report))
    assert [row["status"] for row in rows] == ["failed", "not run", "ok"]
    assert rows[1]["message"] == f"{kind}-default of the layer blur failed"
    report.end()
    line = f"  --   1 check not run: {kind} of the layer blur failed; -v lists them"
    assert line in capsys.readouterr().out.splitlines()
