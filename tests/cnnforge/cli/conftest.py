"""Fixtures of the tests of commands."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not draw the figures of a run, which takes a third of the time of a short training.

    Their files are written. Fixtures of a module begin before this one, so their runs have figures.
    """

    def write(path: Path, *_: Any, **__: Any) -> list[str]:
        path.write_bytes(b"")
        return []

    monkeypatch.setattr("cnnforge.training.session.training_curves", write)
    monkeypatch.setattr("cnnforge.tasks.confusion.confusion_matrix", write)
    for name in ("curves", "truth_and_found", "labels"):
        monkeypatch.setattr(f"cnnforge.tasks.detection.figures.{name}", write)
