"""A network that is run step by step gives what the network gives."""

import keras
import numpy as np
import pytest

from cnnforge.errors import UsageError
from cnnforge.explaining.steps import Replay, all_values, divide, gradients, run

RANDOM = np.random.default_rng(2)
layers = keras.layers


def shared() -> keras.Model:
    """A model in a model, a layer that is called twice, and an operator."""
    inside = keras.Sequential(
        [keras.Input((12, 12, 3)), layers.Conv2D(3, 3, padding="same", activation="relu")]
    )
    conv = layers.Conv2D(3, 3, padding="same", activation="tanh", name="twice")
    inputs = keras.Input((12, 12, 3))
    x = inside(layers.Rescaling(1 / 255)(inputs))
    x = conv(conv(x)) + x
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


def test_steps_equal_the_network() -> None:
    model = shared()
    images = RANDOM.integers(0, 256, (5, 12, 12, 3)).astype(np.float32)
    want = np.asarray(model(images, training=False))
    steps = divide(model)
    names = [(it.name, it.activation) for it in steps if it.name == "twice"]
    assert names == [("twice", None), ("twice", "tanh")] * 2
    np.testing.assert_array_equal(run(Replay(steps), images), want)
    values = all_values(steps, images[0])
    assert [each.shape for each in values] == [step.shape for step in steps]
    np.testing.assert_allclose(values[-1], want[0], atol=1e-6)


def test_gradients_of_values_in_between() -> None:
    tf = pytest.importorskip("tensorflow")
    steps = divide(shared())
    images = RANDOM.integers(0, 256, (1, 12, 12, 3)).astype(np.float32)
    scores, (found, _) = gradients(Replay(steps[:-1], watched=[4]), images, [2, 0])
    with tf.GradientTape() as tape:
        values = [tf.constant(images)]
        tape.watch(values[0])
        for step in steps[1:-1]:
            values.append(step.call(values))
        score = values[-1][:, 2]
    picture, middle = tape.gradient(score, [values[0], values[4]])
    np.testing.assert_allclose(found[0], picture, atol=1e-8)
    np.testing.assert_allclose(found[1], middle, atol=1e-7)
    assert scores.shape == (1, 4)


def test_other_networks_are_refused() -> None:
    one, two = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    with pytest.raises(UsageError, match="has 2 inputs and 1 outputs, expected one picture"):
        divide(keras.Model([one, two], layers.Flatten()(one + two)))

    class Own(keras.Model):
        pass

    with pytest.raises(UsageError, match="is a Own, expected a Sequential or Functional"):
        divide(Own())
