"""Callbacks that wait some epochs for a better one, and then do something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnforge.callbacks import Callback, FinishedEpoch


class Patience(Callback):
    """Counts the epochs since the best one; a base class.

    The best epoch is the one that the run keeps, by the metric that the run monitors
    (`cnnforge train --monitor METRIC`).

    Args:
        patience: How many epochs without a better one are put up with.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._waited = 0

    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        """Count, and act when patience is at an end."""
        self._waited = 0 if epoch.best else self._waited + 1
        if self._waited >= self.patience:
            self._waited = 0
            self.act(epoch)

    def act(self, epoch: FinishedEpoch) -> None:
        """Do what was waited for."""
        raise NotImplementedError

    def state(self) -> Mapping[str, Any]:
        """Return the count."""
        return {"waited": self._waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the count over."""
        self._waited = state["waited"]


class EarlyStopping(Patience):
    """Ends training when it has not improved for some epochs."""

    def act(self, epoch: FinishedEpoch) -> None:
        """End it."""
        epochs = "1 epoch" if self.patience == 1 else f"{self.patience} epochs"
        epoch.stop(f"no better epoch for {epochs}, by {epoch.monitor}")


class HalveOnPlateau(Patience):
    """Halves the learning rate when training has not improved for some epochs."""

    def act(self, epoch: FinishedEpoch) -> None:
        """Halve it."""
        epoch.learning_rate = epoch.learning_rate / 2


def early_stopping(argument: str | None) -> Callback:
    """Make `EarlyStopping`.

    Args:
        argument: How many epochs it waits; 10 without.

    Returns:
        The callback.

    Raises:
        ValueError: The argument is no such number.
    """
    return EarlyStopping(_epochs(argument, 10))


def halve_on_plateau(argument: str | None) -> Callback:
    """Make `HalveOnPlateau`.

    Args:
        argument: How many epochs it waits; 3 without.

    Returns:
        The callback.

    Raises:
        ValueError: The argument is no such number.
    """
    return HalveOnPlateau(_epochs(argument, 3))


def _epochs(argument: str | None, otherwise: int) -> int:
    if argument is None:
        return otherwise
    if not (argument.isascii() and argument.isdigit() and int(argument)):
        raise ValueError(f"expected a number of epochs, 1 or more, got {argument!r}")
    return int(argument)
