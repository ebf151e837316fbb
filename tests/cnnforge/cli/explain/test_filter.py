"""`cnnforge filter`: a detector applied to one's own picture."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from browser import needs_axe, needs_chromium, run_in_page, violations
from PIL import Image

from cnnforge.cli import main
from cnnforge.runs import RunDirectory

RANDOM = np.random.default_rng(3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = RANDOM.integers(0, 256, (30, 41, 3), np.uint8)
    Image.fromarray(pixels).save("color.png")
    Image.fromarray(pixels[..., 0]).save("gray.png")
    return tmp_path


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_picture_is_filtered(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filter", "color.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "filtered.png\n"
    assert "picture: 30x41, color; detector: edge; map: 30x41" in captured.err
    assert re.search(r"values from -\d+ to \d+; \d+\.\d% are below 0 and became 0", captured.err)
    image = pixels("color.png").astype(int)
    inner = image[1:-1, 1:-1]
    edges = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:] - 4 * inner
    np.testing.assert_array_equal(pixels("filtered.png")[1:-1, 1:-1], edges.clip(0, 255))
    # A second map does not replace the first one.
    assert main(["filter", "gray.png", "--stride", "2", "--relu", "--pool", "2"]) == 0
    assert pixels("filtered-2.png").shape == (7, 10)


def test_gray_and_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["filter", "color.png", "--gray", "--detector", "blur", "--output", "b.png", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [30, 41, 1]
    assert found["divisor"] == 16
    assert found["below_0"] == 0
    assert pixels("b.png").shape == (30, 41)


def test_the_numbers_of_the_course_whiten_a_picture(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["filter", "gray.png", "--detector", "course"]) == 0
    assert "the numbers of the detector sum to 36" in capsys.readouterr().err


def test_the_picture_is_upright(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open("gray.png").save("turned.png", exif=exif)
    assert main(["filter", "turned.png", "--detector", "identity", "--output", "i.png"]) == 0
    np.testing.assert_array_equal(pixels("i.png"), np.rot90(pixels("gray.png"), -1))


@pytest.fixture
def run(here: Path) -> Path:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(2, 3, name="first")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Conv2D(4, 3, name="second")(x)
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    directory = RunDirectory.create(here / "runs", "toy", "toy")
    directory.write_config({}, {})
    model.save(directory.model)
    np.save(here / "first.npy", model.get_layer("first").get_weights()[0])
    return directory.path


def test_a_learned_detector(here: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = np.load("first.npy")[..., 1].astype(np.float64)
    assert main(["filter", "color.png", "--run", str(run), "--map", "2", "--padding", "valid"]) == 0
    image = pixels("color.png").astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (0, 1))
    values = np.einsum("ijcuv,uvc->ij", windows, weights)
    found = pixels("filtered.png").astype(int)
    assert np.abs(found - np.rint(values).clip(0, 255)).max() <= 1
    assert "Learned by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "frist"], "no convolution named 'frist'; did you mean 'first'?"),
        (["--layer", "second"], "the detectors of second have 3x3x2 numbers"),
        (["--map", "3"], "first has 2 feature maps, got --map 3: give a number from 1 to 2"),
        (["--gray"], "is for color: leave out --gray"),
        (["--page", "p.html"], "leave out --page"),
        (["--detector", "edge"], "--detector and --run both choose the detector"),
    ],
)
def test_wrong_choices_of_a_learned_detector(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["filter", "color.png", "--run", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.png"], 1, "missing.png: no such file"),
        (["."], 2, "is a folder: name one image file"),
        (["gray.png", "--detector", "1 2; 3 4"], 2, "has 2 rows and 2 columns"),
        (["gray.png", "--padding", "sane"], 2, "did you mean 'same'"),
        (["gray.png", "--map", "2"], 2, "add --run RUN"),
        (["gray.png", "--output", "x.jpg"], 2, "the map is a PNG file"),
        (["gray.png", "--page", "no/x.html"], 2, "there is no folder no"),
        (["gray.png", "--pool", "99"], 2, "give a smaller --pool"),
        (["broken.png"], 1, "broken.png: "),
    ],
)
def test_wrong_arguments(
    here: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    before = sorted(path.name for path in here.iterdir())
    assert main(["filter", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in here.iterdir()) == before


def test_neither_keras_nor_tensorflow_is_imported(here: Path) -> None:
    code = (
        "import sys; from cnnforge.cli import main; assert main(['filter', 'gray.png', '--page', "
        "'p.html']) == 0; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=here, capture_output=True)


ODD_NAME = "a<b>&\"'\u202eb.png"


@pytest.fixture
def filter_page(here: Path) -> Path:
    assert main(["filter", "color.png", "--page", "p.html"]) == 0
    return here / "p.html"


@needs_chromium
@pytest.mark.parametrize("detector", ["edge", "0.5 0 0; 0 0 0; 0 0 -0.5", "1 " * 49])
def test_the_page_computes_the_same_map(here: Path, detector: str) -> None:
    shutil.copy("color.png", ODD_NAME)
    if detector.startswith("1 "):
        detector = ";".join(["1 0 2 0 3 0 -5"] * 7)
    command = ["filter", ODD_NAME, "--detector", detector, "--stride", "2", "--pool", "2", "--relu"]
    assert main([*command, "--page", "p.html"]) == 0
    script = "return [it('check').textContent, document.querySelector('h1').textContent];"
    text, title = run_in_page(here / "p.html", script)
    assert "210 of 210 values" in text
    assert title.endswith("on a<b>&\"'b.png")


@needs_chromium
def test_the_controls_of_the_page_act_at_once(filter_page: Path) -> None:
    script = """
    const found = [], note = () => found.push([it("map").width, it("sentence").textContent]);
    note();
    it("map").focus();
    key(it("map"), "ArrowRight");
    note();
    choose("name", "blur");
    note();
    choose("stride", 2);
    note();
    it("relu").click();
    return { found, divisor: it("divisor").value };
    """
    value = run_in_page(filter_page, script)
    sentences = [sentence for _, sentence in value["found"]]
    assert len(set(sentences)) == 4
    assert value["divisor"] == "16"
    assert value["found"][3][0] < value["found"][2][0]


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_accessibility(filter_page: Path, width: int, dark: bool) -> None:
    assert violations(filter_page, width=width, dark=dark) == []
