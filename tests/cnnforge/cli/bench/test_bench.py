"""`cnnforge bench`."""

import csv
import json
import re

import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.cli.bench import tables

SMALL = ("--shape", "2x6x6x3", "--rounds", "3")
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
                name="broken",
                target="acme_wrong:Broken",
                summary="",
                reference="keras.layers:AveragePooling2D",
            ),
            LayerSpec(name="own", target="acme_wrong:Halved", summary=""),
        ]

    class Halved(keras.layers.AveragePooling2D):
        def call(self, inputs):
            return super().call(inputs) / 2

    class Broken(keras.layers.AveragePooling2D):
        def call(self, inputs):
            raise RuntimeError("out of order")
"""


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    from cnnforge.benchmarking import peaks

    monkeypatch.setattr(peaks, "_SECONDS", 0.01)
    monkeypatch.setattr(peaks, "_COPIED_BYTES", 1 << 20)


@pytest.fixture
def choices(tmp_path, monkeypatch):
    from cnnforge.conversion import autotune

    monkeypatch.setattr(autotune, "default_cache_file", lambda: tmp_path / "choices.json")


def test_a_layer(capsys, tmp_path):
    table, plot = tmp_path / "table.csv", tmp_path / "plot.png"
    arguments = ("bench", "max_pooling2d", *SMALL, "--csv", str(table), "--plot", str(plot))
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert "measured peak" in out
    for name in ("forward", "backward", "full"):
        assert any(name in line for line in lines)
    assert [row["pass"] for row in csv.DictReader(table.read_text().splitlines())] == [
        "forward",
        "backward",
        "full",
    ]
    with Image.open(plot) as image:
        assert image.size[0] > 1000


def test_a_result_is_printed_if_its_files_cannot_be_written(capsys, tmp_path, monkeypatch):
    def full(path, result):
        raise OSError(28, "No space left on device")

    target = "cnnforge.reporting.benchmark_figures.benchmark_figure"
    monkeypatch.setattr(target, full)
    table, plot = tmp_path / "table.csv", tmp_path / "plot.png"
    arguments = ("bench", "max_pooling2d", *SMALL, "--csv", str(table), "--plot", str(plot))
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert "measured peak" in out
    assert table.is_file()
    assert err.splitlines()[-1] == (f"error: {plot} could not be written: No space left on device")


def test_json_and_comparison(capsys, tmp_path):
    assert main(["bench", "average_pooling2d", *SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == ""
    assert result["machine"]["cpu"]["model"]
    assert result["machine"]["packages"]["keras"]
    assert result["peaks"]["flops"] > 0
    assert [case["name"] for case in result["cases"]] == ["average_pooling2d 2x6x6x3 2x2"]
    before = tmp_path / "before.json"
    before.write_text(out)
    assert main(["bench", "average_pooling2d", *SMALL, "--compare", str(before)]) == 0
    out, _ = capsys.readouterr()
    assert "changes of the ratio" in out
    result["machine"]["cpu"]["model"] = "Z80"
    before.write_text(json.dumps(result))
    assert main(["bench", "average_pooling2d", *SMALL, "--compare", str(before)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "NOT COMPARABLE" in err
    assert "Z80 then" in err


@pytest.mark.slow
@pytest.mark.usefixtures("choices")
def test_a_model(capsys):
    arguments = ["bench", "--model", "lenet", "--shape", "8x8x1", "--batch-size", "2"]
    assert main([*arguments, "--rounds", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    cases = result["cases"]
    assert {case["auto"] for case in cases} <= {"numba", "keras", "apart"}
    names = ["conv1", "pool1", "dropout1", "conv2", "pool2", "dropout2"]
    names += ["dense", "dropout3", "probabilities"]
    for which in ("training", "inference"):
        assert [it["layer"] for it in result["auto"][which]] == names
    assert [case["shape"][0] for case in cases] == [2] * len(cases)
    assert cases[0]["layers"] == ["conv1"]
    assert cases[0]["grad_inputs"] is False
    assert cases[-1]["grad_inputs"] is True


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_wrong_layer_has_no_time(write_plugin, capsys, json_option):
    path = write_plugin("acme_wrong", WRONG)
    assert main(["bench", "halved", *SMALL, "--plugin", path, *json_option]) == 1
    out, err = capsys.readouterr()
    assert "outputs, grad_inputs off by more than rounding" in err
    assert "nothing was measured" in err
    if json_option:
        assert not json.loads(out)["checks"][0]["passed"]
    else:
        assert out == ""


def test_a_broken_layer_has_no_time(write_plugin, capsys):
    path = write_plugin("acme_wrong", WRONG)
    assert main(["bench", "broken", *SMALL, "--plugin", path]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "out of order" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maxpooling2d"], "did you mean 'max_pooling2d'?"),
        (["--model", "lenett"], "did you mean 'lenet'?"),
        (["conv2d", "--model", "lenet"], "leave out one of the two"),
        (["--shape", "28x28"], "--shape is '28x28', expected NxHxWxC"),
        (["--shape", "2x6x6x3", "--batch-size", "3"], "leave out one of the two"),
        (["--batch-size", "0"], "expected 1 or more"),
        (["--rounds", "1"], "--rounds"),
        (["max_pooling2d", "--shape", "1x1x1x1"], "for inputs of shape 1x1x1x1"),
        (["--model", "resnet20", "--shape", "2x4x4x3"], "at least 8 x 8 pixels"),
        (["--plot", "plot.pdf"], "does not end in .png"),
        (["--csv", "nowhere/table.csv"], "cannot be written"),
        (["--compare", "nowhere.json"], "cannot be read"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_a_layer_without_a_reference(write_plugin, capsys):
    path = write_plugin("acme_wrong", WRONG)
    assert main(["bench", "own", "--plugin", path]) == 2
    err = capsys.readouterr().err
    assert "names no reference" in err
    assert "give --reference MODULE:CLASS" in err


OWN = """
    from cnnforge.testing import LayerCase

    def case(name, size, speed_shape=None, **more):
        arguments = {"pool_size": size}
        shape = (2, 6, 6, 3)
        return LayerCase(
            name=name, arguments=arguments, input_shape=shape, speed_shape=speed_shape, **more
        )

    CASES = [
        case("checked", 1),
        case("wide", 3, (2, 7, 6, 1)),
        case("narrow", 1, (3, 4, 4, 2), min_ratio=1e6),
    ]

    @hookimpl
    def cnnforge_layers():
        target = "keras.layers:AveragePooling2D"
        return [LayerSpec(name="own", target=target, summary="", cases="acme_own:CASES")]
"""
OWN_REFERENCE = ("--reference", "keras.layers:AveragePooling2D")


def test_the_cases_of_the_author_are_measured_and_printed(write_plugin, capsys):
    path = write_plugin("acme_own", OWN)
    assert main(["bench", "own", "--plugin", path, *OWN_REFERENCE, "--rounds", "10"]) == 0
    out, err = capsys.readouterr()
    rows = [line.replace("|", " ").split() for line in out.splitlines()]
    for row in (
        ["own.wide", "pool_size=3", "2x7x6x1", "speed_shape", "AveragePooling2D"],
        ["own.narrow", "pool_size=1", "3x4x4x2", "speed_shape", "AveragePooling2D"],
    ):
        # The name of a case has its shape.
        name, arguments, shape, *rest = row
        assert any(found[:5] == [name, shape, arguments, shape, rest[0]] for found in rows), out
    assert "own.checked" not in out
    for which in ("forward", "full"):
        assert f"note: own.narrow 3x4x4x2 {which}: " in err
    assert "times as fast as the reference, and its min_ratio is 1e+06" in err
    assert "rounds are too few" not in err
    assert "-0.0" not in out
    for name in ("own.wide 2x7x6x1", "own.narrow 3x4x4x2"):
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name}: ")]
        assert re.fullmatch(f"{name}: forward {VERDICT}, with all gradients {VERDICT}", line)


VERDICT = (
    r"(neither layer is faster|\d+\.\d\d times as fast as the reference"
    r"|slower than the reference, which is \d+\.\d\d times as fast)"
)


@pytest.mark.parametrize(
    ("low", "median", "high", "words"),
    [
        (1.1, 2.0, 3.0, "2.00 times as fast as the reference"),
        (0.9, 2.0, 3.0, "neither layer is faster"),
        (0.1, 0.5, 0.9, "slower than the reference, which is 2.00 times as fast"),
    ],
)
def test_the_sentence_about_the_faster_layer(low, median, high, words):
    ratio = {"p20": low, "median": median, "p80": high}
    case = {"passes": {"forward": {"ratio": ratio}, "full": {"ratio": ratio}}}
    assert tables._verdict(case) == f"forward {words}, with all gradients {words}"


FILE_OF_THE_REFERENCE = """
import keras


class Own(keras.layers.AveragePooling2D):
    pass
"""


def test_a_reference_in_a_file(write_plugin, capsys, tmp_path):
    path = write_plugin("acme_own", OWN)
    file = tmp_path / "bench_own_reference.py"
    file.write_text(FILE_OF_THE_REFERENCE)
    # The name of the class stands for that of the layer.
    layer = "acme_own/AveragePooling2D"
    arguments = ["bench", layer, "--plugin", path, "--rounds", "3", "--json"]
    assert main([*arguments, "--reference", f"{file}:Own"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {case["reference"] for case in result["cases"]} == {"Own"}
    assert main([*arguments, "--reference", f"{tmp_path}/missing.py:Own"]) == 2
    assert f"missing.py:Own: there is no file {tmp_path}/missing.py" in capsys.readouterr().err
    assert main([*arguments, "--reference", f"{file}:Nope"]) == 2
    advice = f"it has Own; write --reference {file}:Own"
    expected = f"error: --reference: {file} has no class Nope: {advice}\n"
    assert capsys.readouterr().err == expected
    file = tmp_path / "bench_own_nothing.py"
    file.write_text("from keras import Layer")
    assert main([*arguments, "--reference", f"{file}:Own"]) == 2
    assert f"{file} has no class Own: it has no class of its own\n" in capsys.readouterr().err
    file = tmp_path / "bench_own_error.py"
    file.write_text("1 / 0")
    assert main([*arguments, "--reference", f"{file}:Own"]) == 2
    assert "bench_own_error.py:Own: ZeroDivisionError" in capsys.readouterr().err


def test_three_rounds_give_no_verdict(write_plugin, capsys, tmp_path):
    path = write_plugin("acme_own", OWN)
    arguments = ["bench", "own", "--plugin", path, *OWN_REFERENCE, "--rounds", "3"]
    assert main([*arguments, "--json"]) == 0
    out, _ = capsys.readouterr()
    case = json.loads(out)["cases"][1]
    assert case["arguments"] == {"pool_size": 1}
    assert case["shape_from"] == "speed_shape"
    assert case["min_ratio"] == 1e6
    before = tmp_path / "before.json"
    before.write_text(out)
    assert main([*arguments, "--compare", str(before)]) == 0
    out, err = capsys.readouterr()
    assert "3 rounds are too few to tell which layer is faster: give --rounds 10 or more" in err
    assert "no verdict with fewer than 10 rounds" in err
    assert "its min_ratio is" not in err
    assert "unknown" in out
    assert "slower" not in out
    assert "faster" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reference", "keras.layers:Dense"], "--reference needs the name of a layer"),
        (["own", "--reference", "Dense"], "--reference: "),
        (
            ["own", "--reference", "nowhere:Dense"],
            "error: --reference nowhere:Dense: ModuleNotFoundError: No module named 'nowhere'\n",
        ),
        (
            ["own", "--reference", "keras.layers:Conv2d"],
            "error: --reference: keras.layers has no class Conv2d: it has Conv2D, ",
        ),
    ],
)
def test_a_reference_that_is_wrong(write_plugin, capsys, arguments, message):
    path = write_plugin("acme_own", OWN)
    assert main(["bench", *arguments, "--plugin", path]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
