"""The layer with the first non-finite value is named."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from cnnforge import training
from cnnforge.errors import CnnforgeError
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks.classification import Classification
from cnnforge.training import nonfinite


class SteepAtZero(keras.layers.Layer):
    """Adds nothing; its gradient is infinity times nothing."""

    def call(self, inputs):
        return inputs + keras.ops.sqrt(inputs * 0.0)


class BadAtRest(keras.layers.Layer):
    """Gives no numbers but in training."""

    def call(self, inputs, training=False):
        return inputs if training else inputs * float("nan")


class Endless(keras.regularizers.Regularizer):
    """Adds infinity to the loss."""

    def __call__(self, x):
        return keras.ops.sum(x) * 0.0 + float("inf")


def fail(dataset, *layers, learning_rate=0.01, **options):
    """Train a model with some layers between two others; return the error."""
    training.prepare(0)
    inner = keras.Sequential([keras.Input((8,)), *layers], name="inner")
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(8, name="before"),
            inner,
            keras.layers.Dense(3, activation="softmax", name="after"),
        ]
    )
    with pytest.raises(CnnforgeError, match="is not a finite number") as raised:
        training.train(
            model,
            Classification(dataset.classes),
            dataset,
            epochs=2,
            batch_size=8,
            optimizer=OptimizerOptions(learning_rate=learning_rate),
            **options,
        )
    return str(raised.value)


def test_a_gradient(dataset):
    # Its loss is finite: what it does to the weights shows in the next batch.
    error = fail(dataset, SteepAtZero())
    assert error.startswith("the loss in epoch 1, batch 2 of 9 is not")
    assert "first seen in the gradient of " in error
    assert "before/bias, in batch 1: lower" in error


def test_outputs_that_are_wrong_without_training_only(dataset):
    error = fail(dataset, BadAtRest(name="resting"))
    assert error.startswith("the validation loss after epoch 1, batch 9 of 9 is not")
    assert "the outputs of layer 'resting' (BadAtRest), with inputs up to" in error


def test_a_regularizer(dataset):
    error = fail(dataset, keras.layers.Dense(8, kernel_regularizer=Endless()))
    assert error.startswith("the loss in epoch 1, batch 1 of 9 is not")
    assert "the regularization losses of the layers: lower" in error


def test_weights_that_are_too_large(dataset):
    error = fail(dataset, learning_rate=1e38)
    assert "the outputs of layer 'before' (Dense), with inputs up to 0.855 and weights" in error


def test_a_step_that_is_too_large():
    stepped = SimpleNamespace(path="conv1/kernel")
    trainer = SimpleNamespace(gradients=lambda *_: [np.ones(2)], variables=lambda: [stepped])
    model = SimpleNamespace(trainable_variables=[stepped])
    found = nonfinite._first_gradient(trainer, model, None, None, [np.array([1, np.inf])])
    assert found == "conv1/kernel, after a step with finite gradients"


def test_random_numbers_are_those_of_the_batch_that_failed(dataset):
    class Drawn(keras.layers.Layer):
        """Fails for one draw in 20 or so."""

        def __init__(self):
            super().__init__(name="drawn")
            self.seed_generator = keras.random.SeedGenerator(3)

        def call(self, inputs):
            drawn = keras.random.uniform((), seed=self.seed_generator)
            return keras.ops.where(drawn < 0.05, float("nan"), inputs)

    assert "the outputs of layer 'drawn' (Drawn), with" in fail(dataset, Drawn())


def test_what_goes_wrong_while_it_is_looked_for_hides_no_error(dataset, monkeypatch):
    monkeypatch.setattr(nonfinite, "find_in_training", lambda *_: 1 / 0)
    assert "is not a finite number: lower" in fail(dataset, SteepAtZero())


def test_an_interrupt_ends_the_search(dataset, monkeypatch):
    asked = []

    def should_stop():
        # Training asks after each chunk, and no chunk ends without an error.
        asked.append(1)
        return True

    error = fail(dataset, SteepAtZero(), should_stop=should_stop)
    assert "is not a finite number: lower" in error
    assert len(asked) == 1


def test_a_layer_is_left_as_it_was(dataset):
    model = keras.Sequential([keras.Input((6, 6, 1)), layer := BadAtRest()])
    trainer = training.phases.Trainer(
        model, Classification(dataset.classes), keras.optimizers.Adam(0.01), 8
    )
    assert "BadAtRest" in nonfinite.find_in_prediction(
        trainer, model, [np.ones((2, 6, 6, 1), np.uint8)]
    )
    assert "call" not in vars(layer)
