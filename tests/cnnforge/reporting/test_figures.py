"""The figures: written, whole, and not in the way of anybody's matplotlib."""

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


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_curves(tmp_path: Path, epochs: int) -> None:
    path = tmp_path / "curves.png"
    falling = list(np.linspace(1, 0.1, epochs))
    training_curves(
        path,
        loss=falling,
        val_loss=falling,
        accuracy=falling[::-1],
        val_accuracy=falling[::-1],
        best_epoch=epochs,
        title="a run named $x_1$",
    )
    assert size(path)[0] > 1000


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
    path = tmp_path / "confusion.png"
    counts = np.diag(np.arange(len(classes)))
    confusion_matrix(path, confusion=counts, classes=classes, title="title")
    assert min(size(path)) > 300


def test_the_style_stays_inside(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    test_curves(tmp_path, 2)
    assert dict(mpl.rcParams) == before
