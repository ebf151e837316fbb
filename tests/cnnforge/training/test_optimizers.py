"""Optimizers: exact resumption under every option, averaged weights, rates that callbacks set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge import training
from cnnforge.callbacks import Callback, FinishedEpoch
from cnnforge.data import Dataset
from cnnforge.errors import UsageError
from cnnforge.optimizer_options import OPTIMIZERS, OptimizerOptions
from cnnforge.tasks.classification import Classification, evaluate
from cnnforge.training import BatchesDone, Event, StateStore, TrainingResult, TrainingState
from cnnforge.training.optimizers import build

Run = Callable[..., tuple[TrainingResult, keras.Model]]


@pytest.fixture
def one_batch_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one batch, so that the loop can be stopped after any."""
    monkeypatch.setattr("cnnforge.data.prefetch.StepsPerCall.batches", 1, raising=False)
    monkeypatch.setattr("cnnforge.data.prefetch.MAX_BYTES", 1)


def stop_after(count: int) -> Callable[[], bool]:
    asked = iter(range(1_000_000))
    return lambda: next(asked) >= count - 1


def small() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def arrays(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(it)) for it in variables]


def state_of(dataset: Dataset, options: dict[str, Any], **others: Any) -> TrainingState:
    training.prepare(1)
    options = {"learning_rate": 0.01, **options}
    return training.train(
        small(),
        Classification(dataset.classes),
        dataset,
        epochs=2,
        batch_size=8,
        optimizer=OptimizerOptions(**options),
        **others,
    ).state


@pytest.fixture(scope="module")
def plain(dataset: Dataset) -> TrainingState:
    return state_of(dataset, {})


OPTIONS = [
    *({"optimizer": name} for name in OPTIMIZERS if name not in ("adam", "adadelta")),
    {"optimizer": "adadelta", "learning_rate": 1.0},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "rmsprop", "momentum": 0.9},
    {"optimizer": "adamw", "weight_decay": 0.1},
    {"optimizer": "sgd", "weight_decay": 0.1},
    {"schedule": "cosine"},
    {"schedule": "step:1"},
    {"schedule": "one_cycle"},
    {"warmup_epochs": 1},
    {"schedule": "cosine", "warmup_epochs": 1},
    {"clip_norm": 0.01},
    {"ema": 0.9},
    {"optimizer": "sgd", "momentum": 0.9, "schedule": "one_cycle", "clip_norm": 1.0, "ema": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda it: "-".join(map(str, it.values())))
def test_interrupted_in_mid_epoch_and_resumed_equals_uninterrupted(
    dataset: Dataset, plain: TrainingState, one_batch_chunks: None, options: dict[str, Any]
) -> None:
    whole = state_of(dataset, options)
    assert whole.digest() != plain.digest()
    assert whole.history[1].loss < whole.history[0].loss
    half = state_of(dataset, options, should_stop=stop_after(16))
    assert (half.epoch, half.batch) == (1, 3)
    resumed = state_of(dataset, options, resume_from=half)
    assert resumed.digest() == whole.digest()
    for a, b in zip(resumed.history, whole.history, strict=True):
        assert (a.loss, a.val_loss, a.learning_rate) == (b.loss, b.val_loss, b.learning_rate)


@pytest.mark.parametrize("asked", [4, 9, 11, 14])
def test_an_average_is_resumed_from_every_kind_of_place(
    run: Run, tmp_path: Path, one_batch_chunks: None, asked: int
) -> None:
    """An epoch has 9 batches of training and 3 of validation, which are computed by the average."""
    options = {"ema": 0.8, "schedule": "cosine", "epochs": 2}
    whole = run(**options)[0].state
    store = StateStore(tmp_path / "last")
    assert run(**options, store=store, should_stop=stop_after(asked))[0].interrupted
    # What was saved during the validation, when the model had the average.
    half, _ = store.load()
    resumed = run(**options, resume_from=half)[0].state
    assert resumed.digest() == whole.digest()
    assert resumed.best == whole.best


def test_an_average_is_validated_and_saved_and_does_not_change_training(
    dataset: Dataset, one_batch_chunks: None
) -> None:
    training.prepare(1)
    model = small()
    steps: list[list[np.ndarray]] = []
    saved: list[list[np.ndarray]] = []

    def trainable() -> list[np.ndarray]:
        return arrays(model.trainable_variables)

    def listen(event: Event) -> None:
        if isinstance(event, BatchesDone):
            steps.append(trainable())

    state = training.train(
        model,
        Classification(dataset.classes),
        dataset,
        epochs=1,
        batch_size=8,
        optimizer=OptimizerOptions(learning_rate=0.01, ema=0.8),
        listeners=[listen],
        save_best=lambda: saved.append(trainable() + arrays(model.non_trainable_weights)),
    ).state
    average = steps[0]
    for step in steps[1:]:
        average = [0.8 * a + 0.2 * b for a, b in zip(average, step, strict=True)]
    for found, expected in zip(saved[0], average, strict=False):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    # Neither the weights nor the statistics of the model itself are changed.
    statistics = arrays(model.non_trainable_weights)
    for found, expected in zip(trainable() + statistics, steps[-1] + saved[0][4:], strict=True):
        np.testing.assert_array_equal(found, expected)
    training.prepare(1)
    other = small()
    options = OptimizerOptions(learning_rate=0.01)
    task = Classification(dataset.classes)
    training.train(other, task, dataset, epochs=1, batch_size=8, optimizer=options)
    for found, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    # What was saved is what was validated.
    for variable, value in zip(model.trainable_variables, saved[0], strict=False):
        variable.assign(value)
    images = dataset.validation.fetch(np.arange(20)).astype(np.float32)
    outputs = model.predict(images, verbose=0)
    loss = evaluate(outputs, dataset.validation.labels, dataset.classes).loss
    assert state.history[0].val_loss == pytest.approx(loss, rel=1e-5)


class Halving(Callback):
    """Halves the rate after the first epoch."""

    def epoch_ended(self, epoch: FinishedEpoch) -> None:
        if epoch.metrics.epoch == 1:
            epoch.learning_rate /= 2


@pytest.mark.parametrize(
    "options",
    [{}, {"warmup_epochs": 1}, *({"schedule": it} for it in ("cosine", "step:1", "one_cycle"))],
    ids=str,
)
def test_a_callback_that_halves_the_rate_halves_all_that_follow(
    dataset: Dataset, one_batch_chunks: None, options: dict[str, Any]
) -> None:
    expected = [row.learning_rate for row in state_of(dataset, options).history]
    whole = state_of(dataset, options, callbacks={"it": Halving()})
    rates = [row.learning_rate for row in whole.history]
    assert rates == pytest.approx([expected[0], expected[1] / 2], rel=1e-5)
    half = state_of(dataset, options, callbacks={"it": Halving()}, should_stop=stop_after(16))
    resumed = state_of(dataset, options, callbacks={"it": Halving()}, resume_from=half)
    assert resumed.digest() == whole.digest()


def test_the_graph_follows_the_schedule(dataset: Dataset) -> None:
    """`fit` with Keras' own schedule over the same order gives the same weights."""
    training.prepare(3)
    ours = small()
    options = OptimizerOptions(
        optimizer="sgd", momentum=0.9, learning_rate=0.1, schedule="cosine", clip_norm=0.5
    )
    task = Classification(dataset.classes)
    training.train(ours, task, dataset, epochs=1, batch_size=8, seed=3, optimizer=options)
    training.prepare(3)
    theirs = small()
    rates = keras.optimizers.schedules.CosineDecay(0.1, 9)
    theirs.compile(
        keras.optimizers.SGD(rates, momentum=0.9, global_clipnorm=0.5),
        "sparse_categorical_crossentropy",
    )
    visit = training.order(3, 0, 70)
    images = dataset.train.fetch(visit).astype(np.float32)
    theirs.fit(images, dataset.train.labels[visit], batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_default_is_adam_with_a_constant_rate() -> None:
    """Its variables are those that states of cnnforge 0.1 hold."""
    optimizer, rate = build(OptimizerOptions(), batches=9, epochs=2)
    assert type(optimizer).__name__ == "Adam"
    expected = keras.optimizers.Adam(0.001).get_config()
    found = optimizer.get_config()
    assert {**found, "name": ""} == {**expected, "name": ""}
    assert [it.name for it in optimizer.variables] == ["iteration", "learning_rate"]
    assert rate.next == rate.last == pytest.approx(0.001)


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UsageError, match="warmup_epochs must be less than epochs, which is 2"):
        build(OptimizerOptions(warmup_epochs=2), batches=9, epochs=2)
