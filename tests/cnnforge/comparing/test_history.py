"""The fluctuation of a metric at the end of training, and what it says about seeds."""

from pathlib import Path

import numpy as np
import pytest

from cnnforge.comparing.history import fluctuation, history
from cnnforge.comparing.statistics import interval, mcnemar, with_fluctuation


def write(folder: Path, values: np.ndarray) -> Path:
    lines = [f"{epoch},{value}" for epoch, value in enumerate(values, 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,val_accuracy", *lines]) + "\n")
    return folder


def test_the_trend_does_not_count(tmp_path: Path) -> None:
    run = write(tmp_path, 0.5 + 0.01 * np.arange(12))
    assert fluctuation(run, "accuracy") == pytest.approx(0, abs=1e-9)
    assert history(run, "accuracy")[:2] == [(1.0, 0.5), (2.0, 0.51)]


def test_the_second_half_of_training_counts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    late = 0.9 + random.normal(0, 0.01, 400)
    run = write(tmp_path, np.concatenate([random.random(400), late]))
    assert fluctuation(run, "accuracy") == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("values", [[0.1, 0.5, 0.6], [0.1, np.nan, 0.3, 0.4], []])
def test_little_is_known_about_a_short_training(tmp_path: Path, values: list[float]) -> None:
    assert fluctuation(write(tmp_path, np.array(values)), "accuracy") is None


def test_a_damaged_file_gives_no_history(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,val_accuracy\n1,oops\n")
    assert history(tmp_path, "accuracy") == []
    assert history(tmp_path / "gone", "accuracy") == []
    assert fluctuation(tmp_path, "accuracy") is None


def test_one_known_fluctuation_stands_for_both() -> None:
    difference = (0.03, 0.01, 0.05)
    assert with_fluctuation(difference, None, None) is None
    known = with_fluctuation(difference, 0.01, None)
    assert known == with_fluctuation(difference, 0.01, 0.01)
    assert with_fluctuation(difference, 0.0, None).differs
    assert not with_fluctuation(difference, 0.02, None).differs
    assert with_fluctuation((0.0, 0.0, 0.0), 0.0, None).p == 1.0


def test_runs_whose_seeds_change_the_accuracy_raise_few_false_alarms() -> None:
    """McNemar's test alone does not know that seeds change the accuracy, here by one point."""
    random = np.random.default_rng(1)
    alone, together = 0, 0
    for _ in range(300):
        first, second = (random.random(1000) < 0.92 + random.normal(0, 0.01) for _ in range(2))
        test = mcnemar(int((first & ~second).sum()), int((second & ~first).sum()))
        difference = interval(second.astype(float) - first.astype(float))
        alone += test.differs
        together += test.differs and with_fluctuation(difference, 0.01, 0.01).differs
    assert alone > 30
    assert together <= 24
