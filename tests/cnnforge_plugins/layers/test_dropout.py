"""`Dropout` against Keras' own under TensorFlow: the same bits from the same seed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.conversion import forge, lower
from cnnforge.data import ArraySamples, Dataset
from cnnforge.ops.audit import audit
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks.classification import Classification
from cnnforge.training import prepare, train
from cnnforge_plugins.layers import _fallback
from cnnforge_plugins.layers.dropout import Dropout

KINDS = (Dropout, keras.layers.Dropout)
SHAPES = [(3, 11, 9, 5), (250, 256), (7,), (0, 4), (2, 3, 4, 5, 6)]


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pair(rate=0.5, seed=1, **options):
    return [kind(rate, seed=seed, **options) for kind in KINDS]


def results(layer, inputs, *, graph, training=True, steps=3):
    """Outputs, gradient and the state of the seed after each of some steps."""

    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
        factors = tf.constant(values(*inputs.shape, seed=9))
        return outputs, tape.gradient(outputs, inputs, output_gradients=factors)

    step = tf.function(step, autograph=False) if graph else step
    found = []
    for _ in range(steps):
        found += [np.asarray(array) for array in step(tf.constant(inputs))]
        found += [np.asarray(variable) for variable in layer.variables]
    return found


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("rate", [0.25, 0.5, 0.999, 1e-9, 0, 1, 0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits(shape, rate, graph):
    for training in (True, False):
        ours, stock = (
            results(layer, values(*shape), graph=graph, training=training) for layer in pair(rate)
        )
        for got, expected in zip(ours, stock, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 2, 2**31 + 5, 2**40 + 3, -7])
def test_any_seed(seed):
    ours, stock = (layer(values(999), training=True) for layer in pair(seed=seed))
    assert np.asarray(ours).tobytes() == np.asarray(stock).tobytes()


def test_every_step_has_a_mask_of_its_own():
    layer = Dropout(0.5, seed=3)
    masks = [np.asarray(layer(np.ones(200, np.float32), training=True)) for _ in range(3)]
    assert len({mask.tobytes() for mask in masks}) == 3
    assert layer.seed_generator.state.numpy().tolist() == [3, 3]


def test_the_kernels_write_all_that_is_theirs():
    layer = Dropout(0.5, seed=3)
    with audit() as found:
        results(layer, values(3, 37), graph=False)
    assert not found.faults
    assert len(found.functions) == 2


def test_unknown_sizes():
    inputs = keras.Input((None, None, 3))
    models = [keras.Model(inputs, layer(inputs)) for layer in pair()]
    assert models[0].output_shape == (None, None, None, 3)
    for shape in [(1, 5, 7, 3), (4, 2, 3, 3)]:
        outputs = [np.asarray(model(values(*shape), training=True)) for model in models]
        assert outputs[0].tobytes() == outputs[1].tobytes()
        assert outputs[0].shape == shape


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_fit(run_eagerly):
    """Weights after some steps are the same bits, and so are those after the seeds were drawn."""
    found = []
    for kind in KINDS:
        initial = keras.initializers.RandomNormal(seed=1)
        model = keras.Sequential(
            [
                keras.Input((8, 7, 5)),
                kind(0.25, seed=4),
                keras.layers.Dense(4, kernel_initializer=initial),
                kind(0.5, seed=5),
            ]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=run_eagerly)
        before = model.get_weights()
        model.fit(values(9, 8, 7, 5), np.ones((9, 8, 7, 4)), 3, 2, 0, shuffle=False)
        assert np.abs(model.get_weights()[0] - before[0]).max() > 1e-3
        found.append([np.asarray(variable) for variable in model.variables])
    for ours, stock in zip(*found, strict=True):
        assert ours.tobytes() == stock.tobytes()


def network():
    parts = [keras.layers.Dense(6, name="dense"), keras.layers.Dropout(0.5, seed=2, name="drop")]
    return keras.Sequential([keras.Input((5,)), *parts])


def test_forge_and_lower_go_on_where_the_model_was():
    model = network()
    model(values(4, 5), training=True)
    forged = forge(model, "numba")
    assert type(forged.layers[1]) is Dropout
    lowered = lower(forged)
    assert type(lowered.layers[1]) is keras.layers.Dropout
    assert lowered.get_config() == model.get_config()
    outputs = [np.asarray(model(values(4, 5), training=True)) for model in (model, forged, lowered)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])
    later = lower(forged)
    outputs = [np.asarray(model(values(4, 5), training=True)) for model in (model, later)]
    np.testing.assert_array_equal(*outputs)


def test_training_resumes_exactly_and_equals_keras():
    """Nothing but the dropouts is exchanged: weights, moments and seeds are the same bits."""
    images = np.random.default_rng(0).integers(0, 255, (70, 6, 6, 1), np.uint8)
    samples = ArraySamples(images, np.arange(70) % 3, [str(n) for n in range(70)])
    dataset = Dataset("toy", ("a", "b", "c"), samples, samples, "0" * 64)

    def run(kind, **options):
        prepare(1)
        head = [keras.layers.Dense(16, activation="relu"), kind(0.5), keras.layers.Dense(3)]
        body = [keras.layers.Rescaling(1 / 255), kind(0.25), keras.layers.Flatten(), *head]
        model = keras.Sequential([keras.Input((6, 6, 1)), *body, keras.layers.Softmax()])
        options = {
            "batch_size": 8,
            "seed": 1,
            "optimizer": OptimizerOptions(learning_rate=0.01),
            **options,
        }
        return train(model, Classification(dataset.classes), dataset, **options).state

    whole = run(Dropout, epochs=2)
    assert whole.digest() == run(keras.layers.Dropout, epochs=2).digest()
    resumed = run(Dropout, epochs=2, resume_from=run(Dropout, epochs=1))
    assert resumed.digest() == whole.digest()


def test_a_saved_model_draws_what_keras_own_draws(tmp_path):
    found = []
    for kind in KINDS:
        model = keras.Sequential([keras.Input((50,)), kind(0.5, seed=2)])
        model(values(4, 50), training=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded.layers[0]) is kind
        found.append([np.asarray(loaded(values(4, 50), training=True)) for _ in range(2)])
    np.testing.assert_array_equal(*found)


def test_configuration():
    ours, stock = pair(0.3, seed=7, noise_shape=(None, 1), name="mine")
    assert ours.get_config() == stock.get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(copy) is Dropout
    assert copy.get_config() == ours.get_config()


@pytest.mark.parametrize(
    "options", [{"rate": 2}, {"rate": 0.5, "noise_shape": "all"}, {"rate": 0.5, "x": 1}], ids=str
)
def test_wrong_arguments(options):
    errors = []
    for kind in KINDS:
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(**options)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize(
    "options",
    [{"dtype": "float64"}, {"dtype": "mixed_float16"}, {"noise_shape": (None, 1)}],
    ids=str,
)
def test_framework_computes_what_no_kernel_fits_with_one_warning(options):
    ours, stock = pair(**options)
    x = values(30, 9)
    np.testing.assert_array_equal(ours(x), stock(x))
    with pytest.warns(_fallback.KernelUnavailableWarning, match="Dropout: no kernel for") as said:
        found = [ours(x, training=True) for _ in range(2)]
    assert len(said) == 1
    for result in found:
        assert result.dtype == ours.compute_dtype
        np.testing.assert_array_equal(result, stock(x, training=True))
