"""Batch normalization and the ReLU after it, which a training step computes as one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.conversion import PREVIOUS, forge, implementations, lower
from cnnforge.conversion.certificate import certify
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import assert_close
from cnnforge_plugins.layers.batch_normalization import BatchNormalization
from cnnforge_plugins.layers.batch_normalization_relu import (
    BatchNormalizationReLU,
    NormalizedActivation,
    NormalizedReLU,
)

LAYERS = {
    "relu": lambda: keras.layers.ReLU(),
    "relu6": lambda: keras.layers.ReLU(6.0),
    "activation-relu": lambda: keras.layers.Activation("relu"),
    "activation-relu6": lambda: keras.layers.Activation("relu6"),
}
OTHERS = {
    "leaky": lambda: keras.layers.ReLU(negative_slope=0.1),
    "threshold": lambda: keras.layers.ReLU(threshold=1.0),
    "limit": lambda: keras.layers.ReLU(3.0),
    "tanh": lambda: keras.layers.Activation("tanh"),
}


def model(activation):
    layers = [
        keras.Input((4, 5, 3)),
        keras.layers.BatchNormalization(name="norm", gamma_initializer="random_normal"),
        activation,
        keras.layers.Conv2D(2, 3, name="conv"),
    ]
    made = keras.Sequential(layers)
    # Otherwise no output would reach 6.
    made.layers[0].gamma.assign([9.0, -7.0, 0.5])
    return made


def step(made, images, graph=True):
    """The outputs, the gradients and the new moving averages of a training step."""

    def compute(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = made(images, training=True)
            loss = keras.ops.sum(outputs * outputs)
        return outputs, tape.gradient(loss, [images, *made.trainable_variables])

    outputs, gradients = (tf.function(compute, autograph=False) if graph else compute)(images)
    averages = [keras.ops.convert_to_numpy(it) for it in made.non_trainable_variables]
    return [np.array(outputs), *map(np.array, gradients), *averages]


def images(count=3):
    return tf.constant(np.random.default_rng(0).standard_normal((count, 4, 5, 3)), tf.float32)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_training_step_is_that_of_keras(name, graph):
    stock = model(LAYERS[name]())
    forged = forge(stock, "numba")
    assert type(forged.layers[0]) is BatchNormalization
    assert type(forged.layers[1]) in (NormalizedReLU, NormalizedActivation)
    assert [row.provider for row in implementations(forged)][1] == PREVIOUS
    for found, expected in zip(
        step(forged, images(), graph), step(stock, images(), graph), strict=True
    ):
        assert_close(found, expected, 3000)
    # A prediction, and a batch of another size.
    assert_close(forged(images(2)), stock(images(2)), 100)


@pytest.mark.parametrize("name", LAYERS)
def test_the_outputs_before_the_relu_are_not_computed(name):
    forged = forge(model(LAYERS[name]()), "numba")

    def train(batch):
        with tf.GradientTape() as tape:
            loss = keras.ops.sum(forged(batch, training=True))
        return tape.gradient(loss, forged.trainable_variables)

    spec = tf.TensorSpec((None, 4, 5, 3))
    graph = tf.function(train, autograph=False).get_concrete_function(spec).graph
    needed, waiting = set(), [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    kinds = [op.type for op in needed]
    assert kinds.count("Cnnforge>BatchNorm") == kinds.count("Cnnforge>BatchMoments") == 1
    assert not {"Relu", "Relu6", "ReluGrad", "Relu6Grad"} & set(kinds)


def test_both_outputs_of_the_pair_exist_if_they_are_read():
    stock = model(keras.layers.ReLU())
    forged = forge(stock, "numba")
    both = [
        keras.Model(it.inputs, [it.layers[0].output, it.layers[1].output]) for it in (stock, forged)
    ]
    expected, found = (
        tf.function(lambda batch, it=it: it(batch, training=True), autograph=False)(images())
        for it in both
    )
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 100)
    assert np.min(found[0]) < 0 <= np.min(found[1])


def test_a_frozen_normalization_keeps_its_averages():
    stock = model(keras.layers.ReLU())
    stock.layers[0].trainable = False
    forged = forge(stock, "numba")
    for found, expected in zip(step(forged, images()), step(stock, images()), strict=True):
        assert_close(found, expected, 3000)


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_are_left_to_keras(name):
    stock = model(OTHERS[name]())
    forged = forge(stock, "numba")
    assert type(forged.layers[1]) is type(stock.layers[1])
    assert_close(forged(images(), training=True), stock(images(), training=True), 100)


@pytest.mark.parametrize("name", LAYERS)
def test_certificate_saving_and_lowering(name, tmp_path):
    stock = model(LAYERS[name]())
    forged = forge(stock, "numba")
    checks = certify(forged, layers=discover().layers)
    assert [check.passed for check in checks] == [True, True]
    assert checks[0].provider.startswith("builtin/batch_normalization_")
    forged.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    lowered = lower(loaded)
    assert [type(it) for it in lowered.layers] == [type(it) for it in stock.layers]
    assert_close(lowered(images()), stock(images()), 100)


def test_a_limit_that_the_kernel_does_not_know():
    with pytest.raises(ValueError, match="must be 6 or None"):
        BatchNormalizationReLU(max_value=3)
