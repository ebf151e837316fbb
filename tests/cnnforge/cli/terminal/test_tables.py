"""Tables of confused classes."""

import re

import numpy as np
import pytest

from cnnforge.cli.terminal.tables import show_details
from cnnforge.tasks import LOSS, Evaluation, Task
from cnnforge.tasks.classification.metrics import evaluate
from cnnforge.tasks.classification.task import Classification


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def plain(capsys):
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


def shown(capsys, classes, pairs):
    """Return the lines that are printed for pairs of a true and a predicted class."""
    labels, predicted = np.array(pairs).T
    result = evaluate(np.eye(len(classes))[predicted], labels, classes)
    show_details(Classification(classes), result)
    lines = plain(capsys)
    assert max(map(len, lines)) <= 80
    return lines


def test_matrix(capsys):
    lines = shown(capsys, ["cat", "dog"], [(0, 0), (0, 0), (0, 1), (1, 1)])
    assert lines[1] == "images of each true class (row) by predicted class (column)"
    assert [line.split() for line in lines[2:] if "─" not in line] == [
        ["cat", "dog"],
        ["cat", "2", "1"],
        ["dog", "1"],
    ]


def test_long_names_are_numbers_above_the_columns(capsys):
    names = [f"a class with a long name {number}" for number in range(10)]
    lines = shown(capsys, names, [(0, 9), *[(n, n) for n in range(10)] * 500])
    assert lines[2].split() == [str(number) for number in range(1, 11)]
    assert lines[4].startswith("1 a class with a l..  ")
    assert lines[4].split()[-2:] == ["500", "1"]


def test_many_classes_are_pairs(capsys):
    names = [f"class {number}" for number in range(11)]
    lines = shown(capsys, names, [(3, 7), (3, 7), (3, 3), (1, 2), *[(n, n) for n in range(11)]])
    assert lines[1] == "3 of 15 images are wrong, most often:"
    assert [line.split("  ")[0] for line in lines[4:]] == ["class 3", "class 1"]
    assert lines[4].split()[-2:] == ["2", "50.0%"]


def test_a_narrow_terminal_has_pairs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    names = [f"a class with a long name {number}" for number in range(10)]
    lines = shown(capsys, names, [(0, 9), *[(n, n) for n in range(10)]])
    assert lines[1] == "1 of 11 images are wrong, most often:"
    assert max(map(len, lines)) <= 50


def test_nothing_is_confused(capsys):
    assert shown(capsys, ["a", "b"], [(0, 0), (1, 1)])[1] == (
        "no class is confused: all 2 images are right"
    )


def test_another_task_shows_its_table(capsys):
    class Other(Task):
        def table(self, evaluation) -> tuple[list[str], list[list[object]]]:
            return ["class", "error"], [[str(number), "0.5"] for number in range(25)]

    evaluation = Evaluation(samples=1, metrics={LOSS.name: 1.0})
    show_details(Other(), evaluation)
    lines = plain(capsys)
    assert len([line for line in lines if "0.5" in line]) == 20
    assert lines[-1] == "and 5 more; 'cnnforge evaluate' shows them"
    show_details(Task(), evaluation)
    assert capsys.readouterr().out == ""
