"""Rows of a table that are packed are the rows that were given."""

import pytest

from cnnforge.errors import RunError
from cnnforge.prediction.packed_rows import PackedRows
from cnnforge.tasks.classification import Prediction


def prediction(number):
    if number % 7 == 0:
        return Prediction(f"{number}.png", error="it is not an image")
    return Prediction(f"{number}.png", (("a", number / 2000), ("b", 0.5)), true_label="a")


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1500])
def test_rows_are_those_that_were_given(count):
    given = [prediction(number) for number in range(count)]
    rows = PackedRows()
    rows.extend(given[:700])
    rows.extend(iter(given[700:]))
    assert len(rows) == count
    assert list(rows) == list(rows) == given
    for part in (slice(None, 3), slice(500, 530), slice(None, None, -400), slice(2000, None)):
        assert rows[part] == given[part]
    if count:
        assert (rows[0], rows[-1], rows[count // 2]) == (given[0], given[-1], given[count // 2])
    with pytest.raises(IndexError):
        rows[count]


def test_rows_take_little_memory():
    given = [prediction(number) for number in range(5120)]
    rows = PackedRows()
    rows.extend(given)
    # A row takes 430 bytes if it is not packed.
    assert rows._end < 40 * len(given)
    assert not rows._last


def test_rows_that_cannot_be_pickled():
    class Own:
        def __init__(self, number):
            self.number = number

    given = [Own(number) for number in range(600)]
    rows = PackedRows()
    rows.extend(given)
    assert list(rows) == given
    assert rows[3] is given[3]


def test_many_rows_are_in_a_file(monkeypatch):
    monkeypatch.setattr("cnnforge.prediction.packed_rows._IN_MEMORY", 1000)
    given = [prediction(number) for number in range(1500)]
    rows = PackedRows()
    rows.extend(given)
    assert rows._file._rolled
    assert list(rows) == given
    rows.extend(given[:600])
    assert rows[1400:] == [*given[1400:], *given[:600]]


def test_a_full_disk_is_named(monkeypatch):
    def fails(_):
        raise OSError(28, "No space left on device")

    rows = PackedRows()
    monkeypatch.setattr(rows._file, "write", fails)
    with pytest.raises(RunError, match=r"\(No space left on device\): free some space, or set TMP"):
        rows.extend(map(prediction, range(512)))
