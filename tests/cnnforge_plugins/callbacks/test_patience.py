"""Early stopping, and halving the learning rate."""

from types import SimpleNamespace
from typing import Any

import pytest

from cnnforge.callbacks import FinishedEpoch
from cnnforge_plugins.callbacks.patience import early_stopping, halve_on_plateau


def epoch(best: bool, optimizer: Any = None) -> FinishedEpoch:
    optimizer = optimizer or SimpleNamespace(rate=1.0)
    return FinishedEpoch(
        metrics=SimpleNamespace(),
        epochs=9,
        best=best,
        monitor="macro_f1",
        model=None,
        folder=None,
        read_learning_rate=lambda: optimizer.rate,
        write_learning_rate=lambda value: setattr(optimizer, "rate", value),
    )


def stops(callback: Any, best: str) -> list[str]:
    """Metrics after each epoch; `x` marks the best epoch so far."""
    said = []
    for letter in best:
        it = epoch(letter == "x")
        callback.epoch_ended(it)
        said.append(it.stopped)
    return said


def test_early_stopping():
    assert stops(early_stopping("2"), "x-x--") == [""] * 4 + [
        "no improvement of macro_f1 for 2 epochs"
    ]
    assert stops(early_stopping("1"), "x-") == ["", "no improvement of macro_f1 for 1 epoch"]
    assert not any(stops(early_stopping(None), "x" + 9 * "-"))
    assert stops(early_stopping(None), "x" + 10 * "-")[-1]


def test_what_was_waited_for_survives():
    before, after = early_stopping("3"), early_stopping("3")
    stops(before, "x--")
    after.restore(before.state())
    assert stops(after, "-") == ["no improvement of macro_f1 for 3 epochs"]


def test_halving():
    optimizer = SimpleNamespace(rate=1.0)
    callback = halve_on_plateau("2")
    rates = []
    for letter in "x----x--":
        callback.epoch_ended(epoch(letter == "x", optimizer))
        rates.append(optimizer.rate)
    assert rates == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("make", [early_stopping, halve_on_plateau])
@pytest.mark.parametrize("argument", ["", "0", "-1", "many", "1.5"])
def test_wrong_arguments(make, argument):
    with pytest.raises(ValueError, match=f"1 or more, got {argument!r}"):
        make(argument)
