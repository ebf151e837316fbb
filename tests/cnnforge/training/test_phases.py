"""Training in two phases: first the head on features of the frozen backbone, then everything."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge.callbacks import Callback
from cnnforge.data import Dataset, Draws, prefetch
from cnnforge.errors import CnnforgeError, RunError, UsageError
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks.classification import Classification
from cnnforge.training import FeaturesKept, FineTuning, StateStore, prepare, train
from cnnforge.training import features as features_module
from cnnforge.training.phases import split

TWO_FROZEN = FineTuning(freeze_epochs=2, backbone_rate=0.1)


def build() -> keras.Model:
    """A backbone with batch normalization and dropout, and a head with dropout."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )


def trained(dataset: Dataset, **options: Any) -> Any:
    prepare(1)
    model = build()
    optimizer = OptimizerOptions(learning_rate=0.01, **options.pop("optimizer", {}))
    keywords = {"epochs": 4, "batch_size": 8, "seed": 1, "fine_tuning": TWO_FROZEN, **options}
    task = Classification(dataset.classes)
    return train(model, task, dataset, optimizer=optimizer, **keywords), model


def unchanged(images: np.ndarray, draws: Draws) -> np.ndarray:
    return images


def stop_after(count: int) -> Any:
    asked = iter(range(count))
    return lambda: next(asked, None) is None


@pytest.fixture(scope="module")
def whole(dataset: Dataset) -> Any:
    return trained(dataset)[0].state


def test_the_backbone_keeps_every_bit_while_it_is_frozen(dataset: Dataset) -> None:
    prepare(1)
    before = build()
    result, model = trained(dataset, epochs=2, optimizer={"ema": 0.9})
    backbone, head = split(model)
    for old, new in zip(split(before)[0].variables, backbone.variables, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    assert not np.array_equal(split(before)[1].weights[0], head.weights[0])
    first, last = result.state.history[0], result.state.history[-1]
    assert last.val_loss < first.val_loss


def test_then_everything_is_trained(dataset: Dataset, whole: Any) -> None:
    two = trained(dataset, epochs=2)[0].state
    pairs = list(zip(two.arrays, whole.arrays, strict=True))
    assert sum(not np.array_equal(old, new) for old, new in pairs) > 10


@pytest.mark.parametrize("frozen", [0, 2])
def test_batch_normalization_of_the_backbone_stays_as_it_was(dataset: Dataset, frozen: int) -> None:
    prepare(1)
    before = build()
    tuning = FineTuning(freeze_epochs=frozen, backbone_rate=0.1)
    _, model = trained(dataset, fine_tuning=tuning)
    same = [
        np.array_equal(old.numpy(), new.numpy())
        for old, new in zip(before.weights, model.weights, strict=True)
    ]
    # Kernel and bias, the four weights of batch normalization, and two layers again.
    assert same == [False] * 2 + [True] * 4 + [False] * 4
    _, model = trained(dataset, fine_tuning=FineTuning())
    for old, new in zip(before.weights, model.weights, strict=True):
        assert not np.array_equal(old.numpy(), new.numpy())


def test_the_features_are_those_that_the_frozen_backbone_computes(dataset: Dataset) -> None:
    """An augmentation that changes nothing only prevents that features are kept."""
    events: list[Any] = []
    kept = trained(dataset, epochs=2, listeners=[events.append])[0].state
    (told,) = [event for event in events if isinstance(event, FeaturesKept)]
    assert (told.images, told.bytes, told.on_disk) == (90, 90 * 16 * 4, False)
    del events[:]
    options = {"epochs": 2, "listeners": [events.append]}
    again = trained(dataset, augmentations=[("none", unchanged)], **options)[0].state
    assert not any(isinstance(event, FeaturesKept) for event in events)
    for one, other in zip(kept.arrays, again.arrays, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_many_features_are_kept_in_a_file(
    dataset: Dataset, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "MAX_IN_MEMORY", 1000)
    events: list[Any] = []
    result, _ = trained(dataset, folder=tmp_path, listeners=[events.append])
    assert next(event for event in events if isinstance(event, FeaturesKept)).on_disk
    assert result.state.digest() == whole.digest()
    assert list(tmp_path.iterdir()) == []

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features_module.os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"MB of features cannot be kept in .*: No space left"):
        trained(dataset, folder=tmp_path)


@pytest.mark.parametrize("asked", [2, 17, 35, 36, 40])
def test_a_run_is_resumed_bit_for_bit_in_both_phases(
    dataset: Dataset,
    whole: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
) -> None:
    """Features are computed in 12 chunks; an epoch has 9 batches, and validation has 3."""
    monkeypatch.setattr(prefetch, "MAX_BYTES", 1)
    store = StateStore(tmp_path / "last")
    stopped, _ = trained(dataset, store=store, should_stop=stop_after(asked))
    assert stopped.interrupted
    saved, _ = store.load()
    assert saved is not None
    assert trained(dataset, resume_from=saved)[0].state.digest() == whole.digest()


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_more_epochs_go_on_where_fewer_ended(dataset: Dataset, whole: Any, epochs: int) -> None:
    short = trained(dataset, epochs=epochs)[0].state
    assert trained(dataset, resume_from=short)[0].state.digest() == whole.digest()


def test_each_phase_has_its_own_schedule(dataset: Dataset) -> None:
    result, _ = trained(dataset, optimizer={"schedule": "cosine", "warmup_epochs": 1})
    rates = [row.learning_rate for row in result.state.history]
    assert rates[1] < 0.001  # the end of the first
    assert rates[2] == pytest.approx(0.01)  # after the warmup of the second
    assert rates[3] < 0.001
    with pytest.raises(UsageError, match="warmup_epochs must be less than epochs, which is 2"):
        trained(dataset, optimizer={"warmup_epochs": 2})


class Halve(Callback):
    def epoch_ended(self, epoch: Any) -> None:
        epoch.learning_rate = epoch.learning_rate / 2


def test_a_callback_sets_the_rate_of_the_phase(dataset: Dataset) -> None:
    result, _ = trained(dataset, callbacks={"halve": Halve()})
    rates = [row.learning_rate for row in result.state.history]
    assert rates == pytest.approx([0.01, 0.005, 0.01, 0.005])


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_the_backbone_has_its_own_rate(dataset: Dataset, name: str) -> None:
    """One step with half the rate moves the weights half as far, weight decay included."""

    def step(rate: float) -> list[np.ndarray]:
        tuning = FineTuning(backbone_rate=rate)
        options = {"optimizer": name} | ({} if name == "adam" else {"weight_decay": 0.1})
        prepare(1)
        before = [each.numpy() for each in build().weights]
        keywords = {"epochs": 1, "batch_size": 70, "fine_tuning": tuning}
        _, model = trained(dataset, optimizer=options, **keywords)
        after = [each.numpy() for each in model.weights]
        return [new - old for old, new in zip(before, after, strict=True)]

    slow, fast = step(0.1), step(0.2)
    for one, other in zip(slow[:-2], fast[:-2], strict=True):
        np.testing.assert_allclose(one, other / 2, rtol=1e-2, atol=1e-6)
    for one, other in zip(slow[-2:], fast[-2:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def with_neck() -> keras.Model:
    """A backbone with two sizes of features, a neck that joins them, and a head."""
    layers = keras.layers
    image = keras.Input((6, 6, 1))
    fine = layers.Conv2D(3, 3, padding="same", name="fine")(layers.Rescaling(1 / 255)(image))
    fine = layers.ReLU()(layers.BatchNormalization(name="norm")(fine))
    coarse = layers.Conv2D(4, 3, name="coarse")(layers.MaxPooling2D()(fine))
    coarse = layers.UpSampling2D(6)(layers.Conv2D(2, 1, name="neck_coarse")(coarse))
    joined = layers.Add()([coarse, layers.Conv2D(2, 1, name="neck_fine")(fine)])
    outputs = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, name="head")(joined))
    return keras.Model(image, layers.Dense(3, activation="softmax", name="probabilities")(outputs))


def with_neck_trained(dataset: Dataset, **options: Any) -> Any:
    prepare(1)
    model = with_neck()
    keywords = {"epochs": 4, "batch_size": 8, "seed": 1, "fine_tuning": TWO_FROZEN, **options}
    optimizer = OptimizerOptions(learning_rate=0.01)
    task = Classification(dataset.classes)
    return train(model, task, dataset, optimizer=optimizer, **keywords), model


@pytest.mark.parametrize("epochs", [2, 4])
def test_what_comes_before_a_neck_is_frozen(dataset: Dataset, epochs: int) -> None:
    prepare(1)
    before = with_neck()
    result, model = with_neck_trained(dataset, epochs=epochs)
    changed = {
        new.path.split("/")[0]
        for old, new in zip(before.weights, model.weights, strict=True)
        if not np.array_equal(old, new)
    }
    later = {"fine", "coarse"} if epochs == 4 else set()
    assert changed == {"neck_coarse", "neck_fine", "head", "probabilities", *later}
    assert result.state.history[-1].val_loss < result.state.history[0].val_loss


@pytest.mark.parametrize("asked", [2, 40])
def test_a_run_with_a_neck_is_resumed_bit_for_bit(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    monkeypatch.setattr(prefetch, "MAX_BYTES", 1)
    whole = with_neck_trained(dataset)[0].state
    store = StateStore(tmp_path / "last")
    stopped, _ = with_neck_trained(dataset, store=store, should_stop=stop_after(asked))
    assert stopped.interrupted
    saved, _ = store.load()
    assert saved is not None
    assert (len(saved.history) < 2) == (asked == 2)
    assert with_neck_trained(dataset, resume_from=saved)[0].state.digest() == whole.digest()


def test_a_model_without_a_backbone_is_refused(dataset: Dataset) -> None:
    layers = keras.layers
    flat = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")]
    )
    with pytest.raises(UsageError, match="has no backbone that can be frozen"):
        train(flat, Classification(dataset.classes), dataset, epochs=1, fine_tuning=TWO_FROZEN)


def test_a_diverged_head_is_named(dataset: Dataset) -> None:
    prepare(1)
    model = build()
    model.layers[-1].kernel.assign(np.full((16, 3), 3e38, np.float32))
    task = Classification(dataset.classes)
    with pytest.raises(CnnforgeError, match="is not a finite number, first seen in the outputs of"):
        train(model, task, dataset, epochs=1, fine_tuning=TWO_FROZEN)
