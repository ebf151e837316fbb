"""Callbacks that act after a number of epochs without improvement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnforge.callbacks import Callback, FinishedEpoch


class Patience(Callback):
    """Base class of callbacks that act if several epochs in succession are not the best so far.

    The best epoch is the one with the best value of the metric that the run monitors, which the
    option `cnnforge train --monitor METRIC` names.

    Args:
        patience: Number of epochs without improvement before the callback acts, 1 or more.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._waited = 0

    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        """Count the epochs without improvement. Call `act` after `patience` of them."""
        self._waited = 0 if epoch.best else self._waited + 1
        if self._waited >= self.patience:
            self._waited = 0
            self.act(epoch)

    def act(self, epoch: FinishedEpoch) -> None:
        """React to `patience` epochs without improvement. Each subclass defines this method."""
        raise NotImplementedError

    def state(self) -> Mapping[str, Any]:
        """Return the number of epochs without improvement, to save it with the run."""
        return {"waited": self._waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the number of epochs without improvement, when the run is resumed."""
        self._waited = state["waited"]


class EarlyStopping(Patience):
    """Ends training after a number of epochs without improvement."""

    def act(self, epoch: FinishedEpoch) -> None:
        """End training."""
        epochs = "1 epoch" if self.patience == 1 else f"{self.patience} epochs"
        epoch.stop(f"no improvement of {epoch.monitor} for {epochs}")


class HalveOnPlateau(Patience):
    """Halves the learning rate after a number of epochs without improvement."""

    def act(self, epoch: FinishedEpoch) -> None:
        """Halve the learning rate."""
        epoch.learning_rate = epoch.learning_rate / 2


def early_stopping(argument: str | None) -> Callback:
    """Make `EarlyStopping`.

    Args:
        argument: Number of epochs without improvement, as text; by default 10.

    Returns:
        The callback.

    Raises:
        ValueError: The argument is not a positive integer.
    """
    return EarlyStopping(_epochs(argument, 10))


def halve_on_plateau(argument: str | None) -> Callback:
    """Make `HalveOnPlateau`.

    Args:
        argument: Number of epochs without improvement, as text; by default 3.

    Returns:
        The callback.

    Raises:
        ValueError: The argument is not a positive integer.
    """
    return HalveOnPlateau(_epochs(argument, 3))


def _epochs(argument: str | None, default: int) -> int:
    if argument is None:
        return default
    if not (argument.isascii() and argument.isdigit() and int(argument)):
        raise ValueError(f"expected a number of epochs, 1 or more, got {argument!r}")
    return int(argument)
