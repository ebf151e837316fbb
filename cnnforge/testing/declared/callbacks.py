"""Check the callbacks that a plugin declares."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.callbacks import Callback, EpochMetrics, FinishedEpoch
from cnnforge.errors import one_line
from cnnforge.plugin import CallbackSpec
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.testing.cases import Check
from cnnforge.testing.declared.making import make

_EPOCHS = 3
# The metrics of a classification. The second epoch is the best one.
_ACCURACY = (0.5, 0.8, 0.7)


def callback_checks(
    callback: str | CallbackSpec, plugins: Plugins | None = None, *, argument: str | None = None
) -> list[Check]:
    """List the checks of a callback.

    Args:
        callback: The name of a declared callback, qualified or short; or its spec.
        plugins: Plugins that declare the callback; by default the installed ones.
        argument: Text for the argument of `make`, as after the colon in `--callback NAME:ARGUMENT`.

    Returns:
        The checks.

    Raises:
        UnknownNameError: No plugin declares such a callback.
        AmbiguousNameError: Several plugins declare such a callback.
    """
    plugins = plugins or discover()
    spec = plugins.callbacks[callback] if isinstance(callback, str) else callback
    targets = Check("targets", "", partial(_targets, spec, argument))
    epochs = Check("epochs", "", partial(_epochs, spec, argument), (targets,))
    return [targets, epochs, Check("resume", "", partial(_resume, spec, argument), (epochs,))]


def _make(spec: CallbackSpec, argument: str | None) -> Callback | str:
    expected = "a cnnforge.callbacks.Callback"
    return make(spec, argument, lambda made: isinstance(made, Callback), expected)


def _targets(spec: CallbackSpec, argument: str | None) -> str:
    """Require that `make` returns a callback."""
    made = _make(spec, argument)
    return made if isinstance(made, str) else ""


class _Training:
    """A training run of three epochs, without training.

    Attributes:
        learning_rate: Learning rate of the next step.
        stopped: Reasons why callbacks ended training, by number of the epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.learning_rate = folder, 0.01
        self.stopped: dict[int, str] = {}
        self.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    def end(self, callback: Callback, number: int) -> None:
        """Call a callback for the end of an epoch. Its number is from 1."""
        accuracy = _ACCURACY[number - 1]
        values = {"loss": 1 - accuracy, "accuracy": accuracy}
        values |= {f"val_{name}": value for name, value in values.items()}
        epoch = FinishedEpoch(
            metrics=EpochMetrics(number, values, self.learning_rate, 1.0, 1000.0),
            epochs=_EPOCHS,
            best=accuracy == max(_ACCURACY[:number]),
            monitor="accuracy",
            model=self.model,
            folder=self.folder,
            read_learning_rate=lambda: self.learning_rate,
            write_learning_rate=partial(setattr, self, "learning_rate"),
        )
        before = [weight.copy() for weight in self.model.get_weights()]
        try:
            callback.epoch_ended(epoch)
        except Exception as error:
            raise AssertionError(
                f"epoch_ended() fails after epoch {number}: {one_line(error)}"
            ) from error
        if not all(map(np.array_equal, before, self.model.get_weights())):
            raise AssertionError(
                "epoch_ended() changes the weights of the model, which have been validated: a "
                "callback must not change the model"
            )
        if epoch.stopped:
            self.stopped[number] = epoch.stopped

    @property
    def effects(self) -> tuple[Any, ...]:
        """Return the effects of the callback on the run."""
        return self.learning_rate, self.stopped


def _epochs(spec: CallbackSpec, argument: str | None) -> str:
    """Require that a callback can be called for three epochs, and that its state is plain."""
    callback = _make(spec, argument)
    if isinstance(callback, str):
        return "not run"
    with tempfile.TemporaryDirectory() as folder:
        training = _Training(Path(folder))
        for number in range(1, _EPOCHS + 1):
            training.end(callback, number)
            _plain_state(callback)
    return ""


def _plain_state(callback: Callback) -> Any:
    state = callback.state()
    try:
        again = json.loads(json.dumps(state, allow_nan=True))
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"state() returns {state!r:.200}, which cannot be saved ({error}): return a dictionary "
            "of numbers, strings, None, and lists and dictionaries of these"
        ) from error
    if again != state and "nan" not in repr(state).lower():
        raise AssertionError(
            f"state() returns {state!r:.200}, which is {again!r:.200} when it is read again: use "
            "lists in place of tuples, and strings as keys"
        )
    return again


def _resume(spec: CallbackSpec, argument: str | None) -> str:
    """Require that a run that is resumed after each epoch has the effects of one without a stop."""
    callback = _make(spec, argument)
    if isinstance(callback, str):
        return "not run"
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = _Training(Path(folder)), _Training(Path(folder))
        for number in range(1, _EPOCHS + 1):
            whole.end(callback, number)
        state: Any = None
        for number in range(1, _EPOCHS + 1):
            fresh = _make(spec, argument)
            assert isinstance(fresh, Callback)
            if state is not None:
                try:
                    fresh.restore(state)
                except Exception as error:
                    raise AssertionError(
                        f"restore() fails with the state after epoch {number - 1}: "
                        f"{one_line(error)}"
                    ) from error
            resumed.end(fresh, number)
            state = _plain_state(fresh)
    if whole.effects != resumed.effects:
        raise AssertionError(
            f"a run that is resumed after every epoch ends with the learning rate and the reasons "
            f"to stop {resumed.effects}, one without a stop with {whole.effects}: return all that "
            "the callback remembers from state(), and set it in restore()"
        )
    if state != _plain_state(callback):
        raise AssertionError(
            f"a callback that is resumed after every epoch has the state {state!r:.200}, one "
            f"without a stop {callback.state()!r:.200}: restore() must set all that state() returns"
        )
    return ""
