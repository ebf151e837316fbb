"""Checks of callbacks: the built-in ones pass, and mistakes are named."""

from __future__ import annotations

import pytest

from cnnforge.callbacks import Callback
from cnnforge.plugin import CallbackSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import callback_checks


class Counter(Callback):
    """Halves the rate after every second epoch; each subclass breaks one thing."""

    def __init__(self):
        self.epochs = 0

    def epoch_ended(self, epoch):
        self.epochs += 1
        if self.epochs % 2 == 0:
            epoch.learning_rate /= 2

    def state(self):
        return {"epochs": self.epochs}

    def restore(self, state):
        self.epochs = state["epochs"]


class Forgets(Counter):
    def state(self):
        return {}

    def restore(self, state):
        pass


class RestoresNothing(Counter):
    def restore(self, state):
        pass


class RestoreFails(Counter):
    def restore(self, state):
        self.epochs = state["epoch"]


class KeepsTuples(Counter):
    def state(self):
        return {"epochs": self.epochs, "last": (1, 2)}


class KeepsObjects(Counter):
    def state(self):
        return {"epochs": self.epochs, "self": self}


class ChangesTheModel(Counter):
    def epoch_ended(self, epoch):
        epoch.model.set_weights([weight + 1 for weight in epoch.model.get_weights()])


class Raises(Counter):
    def epoch_ended(self, epoch):
        if epoch.metrics.epoch == 2:
            epoch.metrics.val_auc  # noqa: B018


MADE = {}


def make(argument):
    return MADE["kind"]()


def failures(kind):
    MADE["kind"] = kind
    spec = CallbackSpec(name="mine", target=f"{__name__}:make", summary="one", plugin="test")
    found = {}
    for check in callback_checks(spec):
        status, message = check.result()
        if status == "failed":
            found[check.kind] = message
    return found


def test_a_sound_callback_passes():
    assert failures(Counter) == {}


@pytest.mark.parametrize(
    ("kind", "check", "text"),
    [
        (lambda: 3, "targets", "returns a int, expected a cnnforge.callbacks.Callback"),
        (Forgets, "resume", "return all that the callback remembers from state"),
        (RestoresNothing, "resume", "resumed after every epoch"),
        (RestoreFails, "resume", r"restore\(\) fails with the state after epoch 1: KeyError"),
        (KeepsTuples, "epochs", "use lists in place of tuples"),
        (KeepsObjects, "epochs", "cannot be saved"),
        (ChangesTheModel, "epochs", "must not change the model"),
        (Raises, "epochs", r"epoch_ended\(\) fails after epoch 2: .*this epoch has no 'val_auc'"),
    ],
)
def test_a_mistake_is_named(kind, check, text):
    found = failures(kind)
    assert list(found) == [check]
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(found[check])


@pytest.mark.parametrize("name", discover().callbacks.names())
@pytest.mark.parametrize("argument", [None, "1"])
def test_the_built_in_callbacks_pass(name, argument):
    for check in callback_checks(name, argument=argument):
        check()
