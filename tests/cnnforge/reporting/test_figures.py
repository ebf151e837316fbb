"""Figures are written atomically and do not change the state of matplotlib."""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from cnnforge.reporting.figures import confusion_matrix, training_curves
from cnnforge.runs import to_csv


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.parametrize("epochs", [1, 2, 50])
@pytest.mark.parametrize("monitor", ["accuracy", "macro_f1"])
def test_curves(tmp_path: Path, epochs: int, monitor: str) -> None:
    path, metrics, evaluation = (tmp_path / it for it in ("c.png", "m.csv", "e.json"))
    lines = ["epoch,loss,accuracy,val_loss,val_accuracy,val_macro_f1"]
    # The first epochs are of a version that did not measure macro F1.
    lines += [
        f"{n},{1 / n},0.5,{1 / n},0.5,{'' if n == 1 < epochs else 0.5}"
        for n in range(1, epochs + 1)
    ]
    metrics.write_text("\n".join(lines) + "\n")
    about = [
        {"name": "loss", "title": "loss", "best": "min", "percent": False},
        {"name": "accuracy", "title": "accuracy", "best": "max", "percent": True},
        {"name": "macro_f1", "title": "macro F1", "best": "max", "percent": True},
    ]
    values = {"metrics": about, "best_epoch": epochs, "monitor": monitor}
    evaluation.write_text(json.dumps(values))
    training_curves(path, metrics=metrics, evaluation=evaluation, title="a run named $x_1$")
    assert size(path)[0] > (2000 if monitor == "macro_f1" else 1000)


@pytest.mark.parametrize(
    "classes",
    [
        ("a", "b"),
        tuple(f"a long class name, number {number}" for number in range(12)),
        tuple(str(number) for number in range(70)),
        ("$", "猫", "x" * 200),
    ],
)
def test_a_confusion_matrix(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path, table = tmp_path / "confusion.png", tmp_path / "confusion.csv"
    counts = np.diag(np.arange(len(classes))).tolist()
    rows = ([name, *row] for name, row in zip(classes, counts, strict=True))
    table.write_text(to_csv(["", *classes], rows))
    confusion_matrix(path, table=table, title="title")
    assert min(size(path)) > 300


def test_the_style_stays_inside(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    test_curves(tmp_path, 2, "accuracy")
    assert dict(mpl.rcParams) == before
