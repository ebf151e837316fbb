"""Figures are written atomically and do not change the state of matplotlib."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from cnnforge.reporting.figures import confusion_matrix, training_curves


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


METRICS = [
    {"name": "loss", "title": "loss", "best": "min", "percent": False},
    {"name": "accuracy", "title": "accuracy", "best": "max", "percent": True},
    {"name": "macro_f1", "title": "macro F1", "best": "max", "percent": True},
]


@pytest.mark.parametrize("epochs", [1, 2, 50])
@pytest.mark.parametrize("monitor", ["accuracy", "macro_f1"])
def test_curves(tmp_path: Path, epochs: int, monitor: str) -> None:
    path = tmp_path / "c.png"
    history = []
    for n in range(1, epochs + 1):
        row = {"epoch": n, "loss": 1 / n, "accuracy": 0.5, "val_loss": 1 / n, "val_accuracy": 0.5}
        # The first epoch is of a version that did not measure macro F1.
        history.append(row if n == 1 < epochs else {**row, "val_macro_f1": 0.5})
    training_curves(
        path,
        history=history,
        metrics=METRICS,
        monitor=monitor,
        best_epoch=epochs,
        title="a run named $x_1$",
    )
    assert size(path)[0] > (2000 if monitor == "macro_f1" else 1000)


@pytest.mark.parametrize(
    "classes",
    [
        ("a", "b"),
        tuple(f"a long class name, number {number}" for number in range(12)),
        tuple(str(number) for number in range(70)),
        ("$", "猫", "x" * 200),
        ("$a^{$", "\ud83d", "line\nbreak", "", "قطة", "कुत्ता", "👩\u200d👧"),
    ],
)
def test_a_confusion_matrix(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path = tmp_path / "confusion.png"
    confusion_matrix(path, classes=classes, counts=np.diag(np.arange(len(classes))), title="title")
    assert min(size(path)) > 300


def test_the_style_stays_inside(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    test_curves(tmp_path, 2, "accuracy")
    assert dict(mpl.rcParams) == before
