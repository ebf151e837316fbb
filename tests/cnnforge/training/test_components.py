"""Callbacks and augmentations in the loop: exact resumption, and what is said when one fails."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge.callbacks import Callback, FinishedEpoch
from cnnforge.data import Dataset, Draws
from cnnforge.errors import PluginError, UnknownNameError, UsageError
from cnnforge.plugin import AugmentationSpec, CallbackSpec, hookimpl
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.tasks import Task
from cnnforge.tasks.classification import Classification
from cnnforge.training import StateStore, TrainingResult, TrainingState
from cnnforge.training.components import (
    check_mixing,
    make_augmentations,
    make_callbacks,
    mirror_notes,
    qualified,
)

Run = Callable[..., tuple[TrainingResult, keras.Model]]


class Diary(Callback):
    """Remembers everything, and lowers the learning rate."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.seen: list[FinishedEpoch] = []

    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        self.seen.append(epoch)
        self.rows.append([epoch.metrics.epoch, epoch.best])
        epoch.learning_rate *= 0.5

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def restore(self, state: Any) -> None:
        self.rows = state["rows"]


class Stopping(Callback):
    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        if epoch.metrics.epoch == 2:
            epoch.stop("two are enough")
            epoch.stop("never said")


def shake(images: np.ndarray, draws: Any) -> np.ndarray:
    return (images // 2 + draws.integers(0, 100)[:, None, None, None]).astype(np.uint8)


def stop_after(count: int) -> Callable[[], bool]:
    asked = iter(range(1_000_000))
    return lambda: next(asked) >= count - 1


def test_a_callback_sees_every_epoch(run: Run, tmp_path: Path) -> None:
    diary = Diary()
    result, model = run(callbacks={"diary": diary}, folder=tmp_path)
    assert [epoch.metrics for epoch in diary.seen] == list(result.state.history)
    assert [row[0] for row in diary.rows] == [1, 2, 3]
    assert diary.rows[0][1] is True
    assert (diary.seen[0].epochs, diary.seen[0].folder) == (3, tmp_path)
    assert diary.seen[0].model is model
    assert result.state.callbacks == {"diary": {"rows": diary.rows}}
    rates = [row.learning_rate for row in result.state.history]
    assert rates == pytest.approx([0.01, 0.005, 0.0025])


@pytest.mark.parametrize("stop", [1, 5, 13, 20])
def test_resumed_equals_uninterrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole, _ = run(callbacks={"diary": Diary()}, augmentations=[("shake", shake)])
    with monkeypatch.context() as patch:
        patch.setattr("cnnforge.data.prefetch.MAX_BYTES", 1)
        store = StateStore(tmp_path / "last")
        options = {"store": store, "augmentations": [("shake", shake)]}
        half, _ = run(callbacks={"diary": Diary()}, should_stop=stop_after(stop), **options)
    assert half.interrupted
    state, _ = store.load()
    resumed, _ = run(callbacks={"diary": Diary()}, resume_from=state, **options)
    assert resumed.state.digest() == whole.state.digest()
    assert resumed.state.callbacks == whole.state.callbacks


class Mixed:
    """Mixes each image with a sample that is drawn."""

    def partners(self, draws: Draws, count: int) -> np.ndarray:
        return draws.integers(0, count)

    def mix(
        self, images: np.ndarray, partners: np.ndarray, draws: Draws
    ) -> tuple[np.ndarray, np.ndarray]:
        weights = draws.beta(0.5, 0.5).astype(np.float32)
        weight = weights[:, None, None, None]
        return (weight * images + (1 - weight) * partners).astype(np.uint8), weights


@pytest.mark.parametrize("stop", [1, 13])
def test_resumed_equals_uninterrupted_with_mixed_images(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    task = Classification(dataset.classes, label_smoothing=0.1, class_weights=np.ones(3, "f4"))
    options = {"augmentations": [("shake", shake), ("mixed", Mixed())], "task": task}
    whole, _ = run(**options)
    plain, _ = run(augmentations=[("shake", shake)], task=task)
    assert whole.state.digest() != plain.state.digest()
    with monkeypatch.context() as patch:
        patch.setattr("cnnforge.data.prefetch.MAX_BYTES", 1)
        store = StateStore(tmp_path / "last")
        half, _ = run(store=store, should_stop=stop_after(stop), **options)
    assert half.interrupted
    resumed, _ = run(resume_from=store.load()[0], **options)
    assert resumed.state.digest() == whole.state.digest()


def test_a_task_that_cannot_mix_targets() -> None:
    check_mixing([("shake", shake)], Task())
    check_mixing([("mixed", Mixed())], Classification(("a", "b")))
    with pytest.raises(UsageError, match="'mixed' mixes images, and the task Task cannot mix"):
        check_mixing([("shake", shake), ("mixed", Mixed())], Task())


@pytest.mark.parametrize(
    ("augment", "classes", "advice"),
    [
        (("flip", "shift:0.1"), ("0", "1"), "but train with --augment shift:0.1"),
        (("flip",), ("a", "b"), "but train with --augment none"),
        (("flip", "shift:0.1"), ("0", "10"), ""),
        (("shift:0.1",), ("0", "1"), ""),
        (("flip",), (), ""),
    ],
)
def test_a_note_says_that_digits_are_flipped(
    augment: Sequence[str], classes: Sequence[str], advice: str
) -> None:
    notes = mirror_notes(augment, classes)
    assert [note.endswith(advice) for note in notes] == [True] * bool(advice)


def test_augmentation_changes_training_and_not_validation(
    run: Run, uninterrupted: TrainingState
) -> None:
    other, _ = run(augmentations=[("shake", shake)])
    assert other.state.digest() != uninterrupted.digest()
    none, _ = run(augmentations=[("same", lambda images, draws: images)])
    assert none.state.digest() == uninterrupted.digest()


def test_a_callback_ends_training(run: Run, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "last")
    result, _ = run(callbacks={"it": Stopping()}, store=store, should_stop=stop_after(10**6))
    assert not result.interrupted
    assert (result.state.epoch, result.state.stopped) == (2, "two are enough")
    state, _ = store.load()
    assert state is not None
    assert state.stopped == "two are enough"
    assert run(resume_from=state, callbacks={"it": Stopping()})[0].state.epoch == 2
    on, _ = run(resume_from=replace(state, stopped=""), callbacks={"it": Stopping()})
    assert on.state.epoch == 3


def test_a_state_from_before_there_were_callbacks(
    run: Run, uninterrupted: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnforge.training import state as module

    def old(values: dict[str, Any]) -> str:
        return dumps({k: v for k, v in values.items() if k not in ("callbacks", "stopped")})

    dumps = module.json.dumps
    with monkeypatch.context() as patch:
        patch.setattr(module, "json", SimpleNamespace(dumps=old))
        StateStore(tmp_path).save(uninterrupted)
    read, _ = StateStore(tmp_path).load()
    assert read is not None
    assert (read.callbacks, read.stopped) == ({}, "")


class Failing(Callback):
    def __init__(self, *, where: str) -> None:
        self.where = where

    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        if self.where == "epoch":
            raise RuntimeError("boom")

    def state(self) -> Any:
        if self.where == "state":
            raise RuntimeError("boom")
        return {"model": object()} if self.where == "unsaveable" else {}

    def restore(self, state: Any) -> None:
        raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("epoch", "the callback 'acme/it' failed: RuntimeError: boom"),
        ("state", "the callback 'acme/it' failed: RuntimeError: boom"),
        ("unsaveable", "state of the callback 'acme/it' cannot be saved: Object of type object"),
    ],
)
def test_a_callback_that_fails_is_named(run: Run, where: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        run(epochs=1, callbacks={"acme/it": Failing(where=where)})


def test_a_callback_that_cannot_restore_is_named(run: Run, uninterrupted: TrainingState) -> None:
    state = replace(uninterrupted, callbacks={"acme/it": {}})
    with pytest.raises(PluginError, match="the callback 'acme/it' failed: RuntimeError: boom"):
        run(resume_from=state, callbacks={"acme/it": Failing(where="restore")})


class Acme:
    """A plugin, as an object."""

    @hookimpl
    def cnnforge_callbacks(self) -> list[CallbackSpec]:
        names = ("diary", "number", "broken")
        return [CallbackSpec(name=it, target=f"{__name__}:{it}", summary="") for it in names]

    @hookimpl
    def cnnforge_augmentations(self) -> list[AugmentationSpec]:
        return [AugmentationSpec(name="number", target=f"{__name__}:number", summary="")]


def diary(argument: str | None) -> Callback:
    if argument == "bad":
        raise ValueError("expected anything but bad, got 'bad'")
    return Diary()


def number(argument: str | None) -> Any:
    return 7


def broken(argument: str | None) -> Callback:
    raise RuntimeError("boom")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    import sys

    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(**globals()))
    found = Plugins()
    found.register(Acme(), "acme")
    return found


def test_references_are_qualified(plugins: Plugins) -> None:
    names = qualified(["diary:a/b:c", "acme/number", "diary"], plugins.callbacks)
    assert names == ("acme/diary:a/b:c", "acme/number", "acme/diary")
    assert list(make_callbacks(["acme/diary:x"], plugins.callbacks)) == ["acme/diary:x"]
    with pytest.raises(UsageError, match="the callback 'acme/diary' is given twice"):
        qualified(["diary", "acme/diary"], plugins.callbacks)


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("dairy", UnknownNameError, "no callback named 'dairy'; did you mean 'diary'"),
        ("diary:bad", UsageError, "the callback 'diary:bad': expected anything but bad"),
        ("number", PluginError, "'number' is a int: its plugin must return a cnnforge.callbacks"),
        ("broken", PluginError, "the callback 'broken' failed: RuntimeError: boom"),
    ],
)
def test_callbacks_that_are_none(
    plugins: Plugins, reference: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_callbacks([reference], plugins.callbacks)


def test_an_augmentation_that_is_none(plugins: Plugins) -> None:
    with pytest.raises(PluginError, match="'number' is a int: its plugin must return a function"):
        make_augmentations(["number"], plugins.augmentations)
