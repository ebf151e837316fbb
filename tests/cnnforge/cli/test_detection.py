"""A detector is trained, evaluated, resumed and used through the commands."""

import csv
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from squares import CLASSES, scene, write_yolo

import cnnforge
from cnnforge.cli.app import main
from cnnforge.data import letterbox

pytestmark = pytest.mark.usefixtures("quick_figures")

OPTIONS = ["--kernels", "keras", "--image-size", "64", "--batch-size", "8"]
TRAIN = ["train", "detector", *OPTIONS]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == code
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("squares") / "data", 64)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    # The detector is the default for data with boxes.
    command = ["train", *OPTIONS, "--data", str(data), "--epochs", "24", "--output", str(output)]
    assert main(command) == 0
    return output / "detector-data-001"


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the backbone."""
    folder = tmp_path_factory.mktemp("classification")
    for label, value in enumerate((40, 220)):
        (folder / "classes" / str(label)).mkdir(parents=True)
        for number in range(6):
            pixels = np.full((32, 32), value + number, np.uint8)
            Image.fromarray(pixels).save(folder / "classes" / str(label) / f"{number}.png")
    command = ["train", "detector_backbone", "--data", str(folder / "classes"), "--epochs", "1"]
    assert main([*command, "--kernels", "keras", "--output", str(folder / "runs")]) == 0
    return folder / "runs" / "detector_backbone-classes-001"


@pytest.fixture
def picture(tmp_path: Path) -> tuple[Path, list[tuple[int, int, int, int, int]]]:
    """A picture that is stored sideways, and is upright with its orientation."""
    pixels, squares = scene(np.random.default_rng(8), (60, 84), 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif, quality=95)
    return path, squares


def matched(objects: Any, squares: Any) -> int:
    """Return the number of squares that are found: class and place, within three pixels."""
    return sum(
        any(
            each.label == CLASSES[label] and np.abs(np.subtract(each.box, box)).max() <= 3
            for each in objects
        )
        for *box, label in squares
    )


def test_a_run_says_how_it_was_trained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = (run / "config.toml").read_text()
    for line in ('optimizer = "adamw"', 'schedule = "cosine"', "weight_decay = 0.001"):
        assert line in stored
    assert "batch_size = 8\n" in stored
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*CLASSES, "mAP50", "recall"))
    assert main(["verify", str(run)]) == 0


def test_the_report_shows_objects(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="([^"]*)">', text)
    assert sections[:7] == [
        "curves",
        "pictures",
        "numbers",
        "classes",
        "precision",
        "errors",
        "labels",
    ]
    assert text.count("<img") == 2
    for title in ("mAP50-95, small objects", "wrong class and place", *CLASSES):
        assert html.escape(title) in text
    assert len(text) < 3_000_000


def test_boxes_are_in_pixels_of_the_upright_picture(run: Path, picture: Any) -> None:
    path, squares = picture
    found = cnnforge.load(run).predict(str(path))
    assert found.size == (60, 84)
    assert matched(found.objects, squares) >= len(squares) - 1
    everything = cnnforge.load(run).predict([str(path)], confidence=0.01, max_detections=40)
    assert len(everything[0].objects) > len(found.objects)
    assert [each.confidence for each in everything[0].objects] == sorted(
        (each.confidence for each in everything[0].objects), reverse=True
    )


def test_predict_writes_tables_pictures_and_files_of_others(
    run: Path, data: Path, tmp_path: Path, picture: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(data.parent / "images", folder / "a", ignore=shutil.ignore_patterns("0[1-9]*"))
    (folder / "b").mkdir()
    shutil.copy(folder / "a" / "001.png", folder / "b")
    (folder / "b" / "broken.png").write_bytes(b"no picture")
    shutil.copy(picture[0], folder)
    for name in ("a b", "a_b", "(1)", "classes"):
        shutil.copy(picture[0], folder / f"{name}.jpg")
    options = ["--draw", str(tmp_path / "drawn"), "--yolo", str(tmp_path / "yolo")]
    options += ["--coco", str(tmp_path / "c.json"), "--output", str(tmp_path / "o.csv")]
    assert main(["predict", str(run), str(folder), *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    read = [row for row in rows if row["error"] is None]
    assert (len(rows), len(read)) == (17, 16)
    empty = next(row for row in read if row["file"].endswith("a/000.png"))
    assert empty["objects"] == []
    count = sum(len(row["objects"]) for row in read)
    assert count > 10
    with (tmp_path / "o.csv").open() as file:
        table = list(csv.DictReader(file))
    assert sum(bool(row["label"]) for row in table) == count
    assert next(row for row in table if row["file"].endswith("a/000.png"))["label"] == ""
    results = json.loads((tmp_path / "c.json").read_text())
    assert len(results) == count
    first = next(row for row in read if row["objects"])
    result = next(each for each in results if each["file_name"] == first["file"])
    x, y, width, height = result["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(first["objects"][0]["box"])
    assert result["category_id"] == CLASSES.index(first["objects"][0]["label"]) + 1
    assert (tmp_path / "yolo" / "classes.txt").read_text() == "dark\nbright <b>\n"
    assert (tmp_path / "yolo" / "000.txt").read_text() == ""
    assert (tmp_path / "yolo" / "001.txt").read_text() == (
        tmp_path / "yolo" / "001-2.txt"
    ).read_text()
    # YOLO's tools look for the name of the picture.
    written = {path.stem for path in (tmp_path / "yolo").iterdir()}
    assert {"a b", "a_b", "(1)", "classes", "classes-2"} <= written
    row = next(row for row in read if row["file"].endswith("turned.jpg"))
    line = (tmp_path / "yolo" / "turned.txt").read_text().split("\n")[0].split()
    x1, y1, x2, y2 = row["objects"][0]["box"]
    assert [float(part) for part in line[1:3]] == pytest.approx(
        [(x1 + x2) / 2 / 84, (y1 + y2) / 2 / 60], abs=1e-6
    )
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert len(drawn) == 16
    assert {"000.png", "001.png", "001-2.png", "turned.jpg"} <= drawn
    # Small pictures are enlarged, and keep their pixels.
    with Image.open(tmp_path / "drawn" / "turned.jpg") as image:
        assert image.size == (84 * 6, 60 * 6)


def test_a_dataset_is_drawn_in_its_own_size(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn"
    assert main(["predict", str(run), str(data), "--draw", str(drawn), "--limit", "2"]) == 0
    assert "note: 51 of 64 images are left out" in capsys.readouterr().err
    paths = sorted(drawn.iterdir())
    assert len(paths) == 2
    with Image.open(data.parent / "images" / paths[0].name) as image:
        height, width = image.height, image.width
    with Image.open(paths[0]) as image:
        assert image.size == tuple(-(-480 // max(width, height)) * side for side in (width, height))


def test_objects_are_shown_on_a_terminal(
    run: Path, data: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    images = [str(data.parent / "images" / f"00{number}.png") for number in (0, 1)]
    assert main(["predict", str(run), *images, "--show"]) == 0
    out = capsys.readouterr().out
    # The color of the boxes of dark squares, in the picture and below it.
    assert "38;2;50;190;255" in out
    assert re.search(r"\x1b\[38;2;50;190;255m(dark|bright <b>) \d+%", out)
    assert "no object" in out
    command = ["data", "show", str(data), "--output", str(tmp_path / "a.png")]
    assert main([*command, "--image-size", "64"]) == 0
    out = capsys.readouterr().out
    assert "38;2;255;140;40" in out
    assert "38;2;150;150;150" in out
    # Without confusions, the table of the classes stands at the end of training.
    assert main(["train", "--resume", str(run)]) == 0
    assert "mAP50-95" in capsys.readouterr().out.split("validation")[-1]


def test_small_objects_in_a_large_picture_are_found_in_parts(run: Path, tmp_path: Path) -> None:
    pixels, squares = scene(np.random.default_rng(5), (250, 330), 20)
    path = tmp_path / "large.png"
    Image.fromarray(pixels).save(path)
    model = cnnforge.load(run)
    assert matched(model.predict(str(path)).objects, squares) == 0
    found = model.predict(str(path), tile=True)
    assert matched(found.objects, squares) >= len(squares) - 4
    assert len(found.objects) <= len(squares) + 4
    assert model.predict(pixels, tile=True).objects == found.objects
    assert main(["predict", str(run), str(path), "--tile", "--yolo", str(tmp_path / "y")]) == 0
    assert len((tmp_path / "y" / "large.txt").read_text().splitlines()) == len(found.objects)
    # A picture that is not larger than those of the model has no parts.
    small, _ = scene(np.random.default_rng(6), (64, 50), 3)
    assert model.predict(small, tile=True).objects == model.predict(small).objects


def test_the_exported_model_finds_the_same_boxes(run: Path, picture: Any) -> None:
    exported = keras.saving.load_model(run / "boxes.keras")
    path, _ = picture
    found = cnnforge.load(run).predict(str(path))
    with Image.open(path) as image:
        upright = image.transpose(Image.Transpose.ROTATE_270)
    placement = letterbox((60, 84), (64, 64))
    pixels = np.full((64, 64, 1), 114, np.uint8)
    resized = upright.resize((placement.width, placement.height), Image.Resampling.BICUBIC)
    pixels[placement.top :][: placement.height, :, 0] = np.asarray(resized)
    outputs = exported.predict(pixels[np.newaxis], verbose=0)
    kept = outputs["confidences"][0] > 0
    boxes = placement.to_original(outputs["boxes"][0][kept].astype(float))
    assert len(boxes) == len(found.objects)
    np.testing.assert_allclose(boxes, [each.box for each in found.objects], atol=0.05)
    names = [CLASSES[number] for number in outputs["classes"][0][kept]]
    assert names == [each.label for each in found.objects]


def test_a_run_with_augmentations_and_a_callback_is_resumed_bit_for_bit(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TRAIN, "--data", str(data), "--schedule", "constant", "--augment", "flip"]
    options += ["--augment", "shift:0.1", "--callback", "early_stopping:9"]
    assert main([*options, "--epochs", "3", "--output", str(tmp_path / "a"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["weights"]
    assert main([*options, "--epochs", "1", "--output", str(tmp_path / "b")]) == 0
    capsys.readouterr()
    command = ["train", "--resume", str(tmp_path / "b" / "latest"), "--epochs", "3", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == whole


def test_a_detector_takes_the_weights_of_a_classification(
    data: Path, classification: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAIN, "--data", str(data), "--init-from", str(classification), "--epochs", "1"]
    command += ["--output", str(tmp_path / "runs"), "--freeze-epochs", "1"]
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "took 35 of" in told
    assert "7 layers frozen; new head of 2 classes, trained at 0.004" in told
    frozen = keras.saving.load_model(tmp_path / "runs" / "detector-data-001" / "model.keras")
    before = keras.saving.load_model(classification / "model.keras")
    for layer in frozen.layers:
        if layer.name.startswith("stride"):
            for ours, theirs in zip(
                layer.weights, before.get_layer(layer.name).weights, strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-k", "2"], "its options are confidence, overlap, max_detections"),
        (["--confidence", "2"], "confidence must be a number from 0 to 1, got 2.0"),
        (["--overlap", "-1"], "overlap must be a number from 0 to 1, got -1.0"),
        (["--draw", "x.png"], "--draw: x.png is a file, expected a folder"),
        (["--yolo", "no/where"], "--yolo: there is no folder no for where: make it"),
        (["--coco", "c.csv"], "--coco writes .json, got c.csv: name it c.json"),
        (["--coco", "."], "--coco: . is a folder, expected the name of a file in it"),
        (["--submission", "s.csv"], "--submission is for classifications"),
    ],
)
def test_a_wrong_option_is_told(
    run: Path,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (20, 20)).save("x.png")
    assert message in error_of(capsys, "predict", str(run), "x.png", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_dataset_has_no_parts(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tile is for image files" in error_of(capsys, "predict", str(run), str(data), "--tile")


@pytest.mark.parametrize("option", ["--draw", "--coco", "--yolo", "--tile"])
def test_options_of_boxes_are_refused_for_a_classification(
    classification: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (28, 28)).save(path)
    value = [] if option == "--tile" else [str(tmp_path / "y.json")]
    told = error_of(capsys, "predict", str(classification), str(path), option, *value)
    assert f"{option} is for models that find objects, and the model of this run" in told
    told = error_of(capsys, "predict", str(classification), str(path), "--confidence", "0.5")
    assert "confidence is not an option of predictions of the task Classification" in told


def test_the_tools_of_coco_evaluate_the_results(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ids of images and categories are those of the file, which have gaps."""
    folder = tmp_path / "coco"
    assert main(["data", "convert", str(data), f"coco:{folder}"]) == 0
    (path,) = folder.rglob("*.json")
    document = json.loads(path.read_text())
    category = {
        each["id"]: {"dark": 70, "bright <b>": 3}[each["name"]] for each in document["categories"]
    }
    for each in document["categories"]:
        each["id"] = category[each["id"]]
    for each in document["images"]:
        each["id"] += 500
    for each in document["annotations"]:
        each["category_id"] = category[each["category_id"]]
        each["image_id"] += 500
    path.write_text(json.dumps(document))
    results = tmp_path / "results.json"
    command = ["predict", str(run), f"coco:{path}", "--coco", str(results), "--confidence", "0.01"]
    assert main(command) == 0
    capsys.readouterr()
    truth = COCO(str(path))
    judge = COCOeval(truth, truth.loadRes(str(results)), "bbox")
    judge.params.imgIds = sorted({each["image_id"] for each in json.loads(results.read_text())})
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[1] > 0.7


def test_detectors_are_compared(
    run: Path, classification: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = tmp_path / "blind"
    shutil.copytree(run, blind)
    model = keras.models.load_model(blind / "model.keras", compile=False)
    model.set_weights([0 * each for each in model.get_weights()])
    model.save(blind / "model.keras")
    capsys.readouterr()
    page = tmp_path / "compared.html"
    command = ["compare", str(run), str(blind), "--kernels", "keras"]
    assert main([*command, "--json", "--page", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "map"
    assert found["differ"]
    assert "A is better" in found["verdict"]
    assert found["difference"]["high"] < 0
    assert found["tests"][0]["name"] == "paired bootstrap over the pictures"
    assert {each["right"] for each in found["flips"]} <= {"A", "B"}
    assert "no fault" in {each["a"] for each in found["flips"]}
    assert set(found["classes"]) == set(CLASSES)
    assert "AP of each class" in page.read_text(encoding="utf-8")
    error = error_of(capsys, "compare", str(run), str(classification), "--kernels", "keras")
    assert "for the task 'detection'" in error
    assert "for 'classification'" in error


def test_images_of_another_task_are_named_themselves(
    data: Path, classification: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, "predict", str(classification), str(data), "--kernels", "keras")
    assert "the task 'detection', and the model of this run is for 'classification': n" in error
    assert error.endswith(": name its image files, or use other data")
    command = ["predict", str(classification), str(data.parent / "images")]
    assert main([*command, "--kernels", "keras"]) == 0
