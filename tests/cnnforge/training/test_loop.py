"""The training loop: results, exact resumption, events, and non-finite values."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from cnnforge import training
from cnnforge.data import ArraySamples, Dataset
from cnnforge.errors import CnnforgeError
from cnnforge.tasks.classification import Classification
from cnnforge.training import (
    BatchesDone,
    EpochBegun,
    EpochEnded,
    Event,
    Interrupted,
    StateStore,
    TrainingResult,
    TrainingState,
)

Run = Callable[..., tuple[TrainingResult, keras.Model]]


@pytest.fixture
def one_batch_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one batch, so that the loop can be stopped after any."""
    monkeypatch.setattr("cnnforge.data.prefetch.StepsPerCall.batches", 1, raising=False)
    monkeypatch.setattr("cnnforge.data.prefetch.MAX_BYTES", 1)


def stop_after(count: int) -> Callable[[], bool]:
    asked = iter(range(1_000_000))
    return lambda: next(asked) >= count - 1


def test_it_learns(run: Run) -> None:
    result, _ = run(epochs=10)
    history = result.state.history
    assert not result.interrupted
    assert [row.epoch for row in history] == list(range(1, 11))
    assert history[-1].loss < history[0].loss
    assert max(row.val_accuracy for row in history) > 0.8


def test_the_same_seed_gives_the_same_bits_and_another_others(
    run: Run, uninterrupted: TrainingState
) -> None:
    assert run()[0].state.digest() == uninterrupted.digest()
    assert run(seed=2)[0].state.digest() != uninterrupted.digest()


def test_the_state_holds_dropouts_seeds_and_batch_normalizations_statistics(run: Run) -> None:
    result, model = run(epochs=1)
    assert len(result.state.arrays) > len(model.variables) > len(model.weights)
    seeds = [it for it in result.state.arrays if it.shape == (2,) and it.dtype.kind in "iu"]
    assert len(seeds) == 1


def test_chunks_do_not_change_the_result(
    run: Run, uninterrupted: TrainingState, one_batch_chunks: None
) -> None:
    single = run()[0].state
    assert uninterrupted.digest() == single.digest()
    for a, b in zip(uninterrupted.history, single.history, strict=True):
        assert a.values == b.values


@pytest.mark.parametrize("asked", [4, 9, 11, 14])
def test_interrupted_and_resumed_equals_uninterrupted(
    run: Run, uninterrupted: TrainingState, tmp_path: Path, one_batch_chunks: None, asked: int
) -> None:
    """An epoch has 9 batches of training and 3 of validation: each kind of place is tried."""
    expected = uninterrupted
    store = StateStore(tmp_path / "last")
    stopped, _ = run(store=store, should_stop=stop_after(asked))
    assert stopped.interrupted
    saved, warnings = store.load()
    assert warnings == []
    assert saved is not None
    assert saved.digest() == stopped.state.digest() != expected.digest()
    resumed = run(store=store, resume_from=saved)[0].state
    assert resumed.digest() == expected.digest()
    for a, b in zip(resumed.history, expected.history, strict=True):
        times = {"seconds": 0, "images_per_second": 0, "waiting": 0}
        assert replace(a, **times) == replace(b, **times)
    assert resumed.best == expected.best


def test_more_epochs_go_on_where_fewer_ended(run: Run, uninterrupted: TrainingState) -> None:
    short = run(epochs=2)[0].state
    assert run(epochs=3, resume_from=short)[0].state.digest() == uninterrupted.digest()


def test_nothing_is_left_to_do(run: Run, uninterrupted: TrainingState) -> None:
    done = uninterrupted
    events: list[Event] = []
    again, _ = run(resume_from=done, listeners=[events.append])
    assert again.state.digest() == done.digest()
    assert events == []


def test_another_models_state_is_refused(run: Run, uninterrupted: TrainingState) -> None:
    done = uninterrupted
    with pytest.raises(CnnforgeError, match="saved by another model"):
        run(resume_from=replace(done, arrays=done.arrays[1:]))
    with pytest.raises(CnnforgeError, match="saved by another model"):
        run(resume_from=replace(done, arrays=[*done.arrays[:-1], np.zeros((7, 7))]))


def test_the_losses_are_those_of_keras(dataset: Dataset) -> None:
    """Without dropout or batch statistics, `fit` over the same order gives the same weights."""

    def build() -> keras.Model:
        training.prepare(3)
        return keras.Sequential(
            [
                keras.Input((6, 6, 1)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Flatten(),
                keras.layers.Dense(3, activation="softmax", kernel_regularizer="l2"),
            ]
        )

    ours = build()
    result = training.train(
        ours, Classification(dataset.classes), dataset, epochs=1, batch_size=16, seed=3
    )
    theirs = build()
    theirs.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    visit = training.order(3, 0, 70)
    images = dataset.train.fetch(visit).astype(np.float32)
    history = theirs.fit(
        images, dataset.train.labels[visit], batch_size=16, shuffle=False, verbose=0
    )
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    row = result.state.history[0]
    assert row.loss == pytest.approx(history.history["loss"][0], rel=1e-5)
    assert row.accuracy == pytest.approx(history.history["accuracy"][0])
    validation = theirs.evaluate(
        dataset.validation.fetch(np.arange(20)).astype(np.float32),
        dataset.validation.labels,
        verbose=0,
    )
    regularization = float(sum(theirs.losses))
    assert row.val_loss == pytest.approx(validation[0] - regularization, rel=1e-4)
    assert row.val_accuracy == pytest.approx(validation[1])


def test_listeners_hear_of_everything_in_order(run: Run, one_batch_chunks: None) -> None:
    events: list[Event] = []
    run(epochs=2, listeners=[events.append])
    kinds = [type(event) for event in events]
    assert kinds == 2 * [EpochBegun, *[BatchesDone] * 9, EpochEnded]
    batches = [event for event in events if isinstance(event, BatchesDone)]
    assert [event.batch for event in batches] == 2 * list(range(1, 10))
    assert all(event.images_per_second > 0 for event in batches)
    ended = [event for event in events if isinstance(event, EpochEnded)]
    assert ended[0].best
    assert batches[8].values["loss"] == pytest.approx(ended[0].metrics.loss)


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_the_share_of_waiting_is_measured(run: Run, one_batch_chunks: None, delay: float) -> None:
    fetch = ArraySamples.fetch

    def slow(samples: ArraySamples, indices: np.ndarray) -> np.ndarray:
        time.sleep(delay)
        return fetch(samples, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArraySamples, "fetch", slow)
        row = run(epochs=2)[0].state.history[1]
    assert 0 < row.waiting <= 1
    # Training a batch takes a few milliseconds, and reading it 50.
    assert row.waiting > 0.5 or not delay


def test_an_interruption_is_an_event(run: Run, one_batch_chunks: None) -> None:
    events: list[Event] = []
    run(listeners=[events.append], should_stop=stop_after(4))
    assert events[-1] == Interrupted(epoch=1, batch=4)


def test_the_best_epoch_is_saved_before_the_state(run: Run, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "last")
    states_then: list[int] = []

    def save_best() -> None:
        state, _ = store.load()
        assert state is not None
        states_then.append(state.epoch)

    ended: list[bool] = []
    listeners = [lambda event: ended.append(event.best) if isinstance(event, EpochEnded) else None]
    result, _ = run(epochs=6, store=store, save_best=save_best, listeners=listeners)
    assert states_then == [epoch for epoch, best in enumerate(ended) if best]
    best = result.state.best
    assert best is not None
    expected = max(result.state.history, key=lambda row: (row.val_accuracy, -row.val_loss))
    assert best.epoch == expected.epoch
    assert {f"val_{k}": v for k, v in best.values.items()}.items() <= expected.values.items()


class Poisoned(keras.layers.Layer):
    """Gives NaN for an image whose first pixel is 255."""

    def call(self, inputs):
        return keras.ops.where(inputs[:, :1, :1] >= 255.0, np.nan, inputs)


def test_a_loss_that_is_no_number_stops_and_the_last_state_is_finite(
    dataset: Dataset, tmp_path: Path, one_batch_chunks: None
) -> None:
    images = dataset.train.fetch(np.arange(70))
    images[:, 0, 0] = 0
    bad = training.order(0, 1, 70)[8 * 3]
    poisoned = images.copy()
    poisoned[bad, 0, 0] = 255
    parts = iter([images, poisoned])
    store = StateStore(tmp_path / "last")
    training.prepare(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            Poisoned(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )

    def with_images(images: np.ndarray) -> Dataset:
        names = list(dataset.train.names)
        return replace(dataset, train=ArraySamples(images, dataset.train.labels, names))

    task = Classification(dataset.classes)
    data = with_images(next(parts))
    first = training.train(model, task, data, epochs=1, batch_size=8, store=store)
    wrong = (
        r"the loss in epoch 2, batch 4 of 9 is not a finite number, first seen in the outputs of "
        r"layer 'poisoned\w*' \(Poisoned\), with inputs up to 255 in absolute value: lower"
    )
    with pytest.raises(CnnforgeError, match=wrong):
        training.train(
            model,
            task,
            with_images(next(parts)),
            epochs=3,
            batch_size=8,
            store=store,
            resume_from=first.state,
        )
    saved, _ = store.load()
    assert saved is not None
    assert saved.epoch == 1
    assert all(np.isfinite(array).all() for array in saved.arrays)


def test_a_weight_that_is_no_number_is_never_saved(run: Run, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "last")
    with pytest.raises(CnnforgeError, match="not a finite number"):
        run(learning_rate=1e38, store=store)
    saved, _ = store.load()
    assert saved is not None
    assert all(np.isfinite(array).all() for array in saved.arrays)


def test_an_error_while_reading_is_the_callers(run: Run, dataset: Dataset) -> None:
    class Failing(ArraySamples):
        def fetch(self, indices: np.ndarray) -> np.ndarray:
            if len(indices) > 1:
                raise CnnforgeError("the file is gone")
            return super().fetch(indices)

    images = dataset.train.fetch(np.arange(70))
    failing = Failing(images, dataset.train.labels, dataset.train.names)
    with pytest.raises(CnnforgeError, match="the file is gone"):
        run(dataset=replace(dataset, train=failing))


def test_long_epochs_are_saved_on_the_way(
    run: Run, tmp_path: Path, one_batch_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnforge.training.loop._SAVE_SECONDS", -1.0)
    saved: list[tuple[int, int]] = []

    class Spy(StateStore):
        def save(self, state):
            saved.append((state.epoch, state.batch))
            return super().save(state)

    run(epochs=1, store=Spy(tmp_path / "last"))
    assert [it for it in saved if it[1]][:9] == [(0, batch) for batch in range(1, 10)]
    assert saved[-1] == (1, 0)
