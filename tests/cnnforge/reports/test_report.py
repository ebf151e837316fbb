"""The report of a run: made from its directory alone, complete, and safe with any name."""

import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import detection_samples
import numpy as np
import pytest
from browser import needs_axe, needs_chromium, run_in_page, violations

from cnnforge.cli import main
from cnnforge.data import ArraySamples, Dataset
from cnnforge.errors import RunError
from cnnforge.reports.run_page import write_report
from cnnforge.reports.thumbnails import (
    MAX_BYTES,
    MAX_SIDE,
    THUMBNAILS,
    keep_thumbnails,
    read_thumbnails,
)
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification import Classification, Prediction
from cnnforge.tasks.detection import Detection

ODD = "<script>alert('x')</script> & \"q\" \u202ecat"
CLASSES = ["cat", ODD, "dog"]
# The true class, the predicted one and its probability.
ROWS = [
    ("cat", "cat", 0.9),
    ("cat", ODD, 0.8),
    (ODD, ODD, 0.55),
    (ODD, "dog", 0.99),
    ("dog", "dog", 0.7),
    ("dog", "dog", 0.6),
]


def predictions() -> list[Prediction]:
    return [
        Prediction(
            f"/home/me/data/{true[:3]}/{number}.png",
            ((label, p), (next(name for name in CLASSES if name != label), 1 - p)),
            true,
        )
        for number, (true, label, p) in enumerate(ROWS)
    ]


@pytest.fixture
def task() -> Classification:
    return Classification(CLASSES)


@pytest.fixture
def run(tmp_path: Path, task: Classification) -> RunDirectory:
    run = RunDirectory.create(tmp_path / "runs", "lenet", "photos")
    index = {name: number for number, name in enumerate(CLASSES)}
    counts = np.zeros((3, 3), int)
    for true, label, _ in ROWS:
        counts[index[true], index[label]] += 1
    values = {"loss": 0.7, "accuracy": 4 / 6}
    classes = {name: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2} for name in CLASSES}
    metrics = [
        {"name": "loss", "title": "loss", "best": "min", "percent": False},
        {"name": "accuracy", "title": "accuracy", "best": "max", "percent": True},
    ]
    validation = {"samples": 6, **values, "classes": classes, "confusion_matrix": counts.tolist()}
    run.write_json(
        "evaluation.json",
        {"best_epoch": 2, "monitor": "accuracy", "metrics": metrics, "validation": validation},
    )
    header = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    epochs = [[1, 1.5, 0.4, "nan", 0.5, 0.1, 60], [2, 1, 0.6, 0.7, 0.66, 0.05, 90]]
    run.write_csv("metrics.csv", header, epochs)
    run.write_text("predictions.csv", task.csv_table(predictions()))
    run.write_json("data.json", {"name": "photos", "images": {"training": 20}, "notes": [ODD]})
    layer = {"layer": "conv1", "kind": "Conv2D", "implementation": "numba", "ratio": 1.5}
    run.write_json("kernels.json", [layer])
    run.write_json("kernel_check.json", [{"passed": True}])
    run.write_csv("skipped.csv", ["file", "reason"], [[ODD, "truncated"]])
    task.write(run)
    about = {"model": "builtin/lenet", "task": "cnnforge/classification", "data": "photos"}
    run.write_config({"model": "lenet", "epochs": 2}, about)
    return run


def samples() -> ArraySamples:
    images = np.random.default_rng(0).integers(0, 256, (6, 90, 120, 3), np.uint8)
    return ArraySamples(images, np.zeros(6), [str(n) for n in range(6)])


class Texts(HTMLParser):
    """The tags and the visible texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.texts.append(data)


def test_a_report_has_everything(run: RunDirectory, task: Classification) -> None:
    keep_thumbnails(run, samples(), task.notable(predictions()))
    page = Texts(write_report(run, task).read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [
        "curves",
        "confusion",
        "classes",
        "worst",
        "unsure",
        "calibration",
        "kernels",
        "data",
        "configuration",
        "environment",
    ]
    for part in ("66.67%", "2, the best is 2", "2.5 min", "1 layers run on numba", "truncated"):
        assert part in text, part
    # The most certain error comes first.
    assert text.index("99.0%") < text.index("80.0%")
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 2 + 6
    assert all(a["src"] and a["src"].startswith("data:image/") and a["alt"] for a in pictures)
    buttons = [a for tag, a in page.tags if tag == "button"]
    assert len(buttons) == 5
    # Names are texts: none of them made a tag.
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "<script>alert('x')</script> & \"q\" cat" in text


def test_calibration(run: RunDirectory, task: Classification) -> None:
    text = write_report(run, task).read_text(encoding="utf-8")
    # Six predictions in five bins, of which 0.6 and 0.7 are alone and right.
    gaps = [0.45, 0.4, 0.3, 0.8, 2 * abs((0.9 + 0.99) / 2 - 0.5)]
    assert f"differs from the accuracy by {sum(gaps) / 6:.1%}" in text


def test_thumbnails_have_limits(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_thumbnails(run) == {}
    keep_thumbnails(run, samples(), [3, 1, 3])
    found = read_thumbnails(run)
    assert list(found) == [3, 1]
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(b64decode(found[3].partition(",")[2])))
    assert max(picture.size) == MAX_SIDE
    size = (run.path / THUMBNAILS).stat().st_size
    monkeypatch.setattr("cnnforge.reports.thumbnails.MAX_BYTES", size // 2)
    keep_thumbnails(run, samples(), [3, 1])
    assert list(read_thumbnails(run)) == [3]
    assert MAX_BYTES * 4 / 3 < 3e6 - 5e5
    (run.path / THUMBNAILS).write_bytes(b"damaged")
    assert read_thumbnails(run) == {}


def test_many_classes_show_their_errors(run: RunDirectory) -> None:
    names = [f"class {n}" for n in range(30)]
    path = run.path / "evaluation.json"
    found = json.loads(path.read_text())
    counts = np.diag(np.full(30, 9))
    counts[3, 7] = 5
    found["validation"]["confusion_matrix"] = counts.tolist()
    found["validation"]["classes"] = {
        name: {"precision": 1, "recall": 1, "f1": 1, "support": 9} for name in names
    }
    path.write_text(json.dumps(found))
    page = Texts(write_report(run, Classification(names)).read_text(encoding="utf-8"))
    assert [a["data-cell"] for tag, a in page.tags if tag == "button"] == ["3,7"]


def test_the_command(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.path)]) == 0
    assert capsys.readouterr().out == f"{run.path / 'report.html'}\n"
    assert main(["report", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(run.path / "report.html")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("evaluation.json", "has not ended, and only then can its report be written: wait"),
        ("metrics.csv", "has not ended"),
        ("predictions.csv", ""),
        ("data.json", ""),
        ("kernels.json", ""),
    ],
)
def test_files_that_are_missing(
    run: RunDirectory, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / name).unlink()
    assert main(["report", str(run.path)]) == (1 if message else 0)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["evaluation.json", "data.json", "predictions.csv"])
def test_files_that_are_damaged(
    run: RunDirectory, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / name).write_bytes(b"file,label\n\xff\xfe{")
    assert main(["report", str(run.path)]) == 1
    error = capsys.readouterr().err
    assert f"{name} cannot be read" in error
    assert "Traceback" not in error
    with pytest.raises(RunError):
        write_report(run, Classification(CLASSES))


@pytest.fixture(scope="module")
def detector_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a detector that was evaluated on maps of random values."""
    directory = tmp_path_factory.mktemp("detector")
    run = RunDirectory.create(directory / "runs", "detector", "boxes")
    given = detection_samples.samples(12)
    dataset = Dataset("boxes", tuple(CLASSES), given, given, "", task="detection")
    task = Detection(dataset.classes, (32, 48))
    task.check_model(SimpleNamespace(input_shape=(1, 32, 48, 1), output_shape=(1, 8, 12, 7)))  # pyright: ignore
    evaluator = task.evaluator(dataset, given, np.arange(12))
    maps = np.random.default_rng(0).normal(0, 1, (12, 8, 12, 7)).astype(np.float32)
    evaluator.add([maps])
    evaluation = evaluator.result()
    metrics = [
        {"name": each.name, "title": each.title, "best": each.best, "percent": each.percent}
        for each in task.metrics
    ]
    run.write_json(
        "evaluation.json",
        {
            "best_epoch": 1,
            "monitor": "map",
            "metrics": metrics,
            "validation": evaluation.as_dict(),
        },
    )
    run.write_csv("metrics.csv", ["epoch", "loss", "val_loss", "seconds"], [[1, 2, 3, 9]])
    task.report(run, evaluation)
    task.write(run)
    run.write_config({"model": "detector"}, {"task": "builtin/detection", "data": ODD})
    return write_report(run, task)


@needs_chromium
def test_a_browser_shows_the_report_of_a_detector(detector_report: Path) -> None:
    text = detector_report.read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    script = """
    const { scrollWidth } = document.documentElement, all = document.querySelectorAll("img");
    return { wide: scrollWidth > innerWidth, scripts: document.querySelectorAll("script").length,
      pictures: [...all].map(({ naturalWidth, alt }) => [naturalWidth > 0, alt !== ""]),
      headings: [...document.querySelectorAll("h2")].map(({ textContent }) => textContent),
      names: [...document.querySelectorAll("#classes th")].map(({ textContent }) => textContent),
      numbers: document.querySelector("#numbers table").textContent };
    """
    value = run_in_page(detector_report, script, width=360)
    assert not value["wide"]
    # That of the page, and that of the test.
    assert value["scripts"] == 2
    assert value["pictures"] == [[True, True]] * len(value["pictures"]) != []
    assert {"Truth and detections", "COCO's numbers", "Classes"} <= set(value["headings"])
    assert any(each.startswith("<script>alert") for each in value["names"])
    assert "large objectsno objects" in value["numbers"]


@pytest.fixture
def report_page(run: RunDirectory, task: Classification) -> Path:
    keep_thumbnails(run, samples(), task.notable(predictions()))
    return write_report(run, task)


@needs_chromium
def test_a_browser_shows_the_pictures_of_a_cell(report_page: Path) -> None:
    script = """
    const button = document.querySelector('[data-cell="0,1"]');
    button.focus();
    button.click();
    const panel = it("cell");
    return { focus: document.activeElement === button, pressed: button.getAttribute("aria-pressed"),
      text: panel.textContent, pictures: panel.querySelectorAll("img").length };
    """
    value = run_in_page(report_page, script)
    assert value["focus"]
    assert value["pressed"] == "true"
    assert "1 of 1 pictures" in value["text"]
    assert value["pictures"] == 1


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", ["report_page", "detector_report"])
def test_accessibility(kind: str, width: int, dark: bool, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(kind)
    assert violations(page, width=width, dark=dark) == []
