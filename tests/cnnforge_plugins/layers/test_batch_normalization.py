"""`BatchNormalization` against Keras' own: training, what it leaves behind, and all around it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.conversion import forge, lower
from cnnforge.data import ArraySamples, Dataset
from cnnforge.ops.audit import audit
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks.classification import Classification
from cnnforge.testing import assert_close
from cnnforge.training import prepare, train
from cnnforge_plugins.layers import _fallback
from cnnforge_plugins.layers.batch_normalization import BatchNormalization

KINDS = (BatchNormalization, keras.layers.BatchNormalization)
SHAPES = [(40, 5), (7, 11, 3), (3, 11, 9, 16), (2, 3, 5, 4, 24), (5, 8, 8, 130)]


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pair(channels, rank=4, dtype="float64", **options):
    """Ours, and Keras' own in `dtype`, with the same weights and averages."""
    ours = BatchNormalization(**options)
    stock = keras.layers.BatchNormalization(dtype=dtype, **options)
    for layer in (ours, stock):
        layer.build((*[None] * (rank - 1), channels))
        for seed, weight in enumerate(layer.weights):
            weight.assign(1 + values(channels, seed=10 + seed) / 4)
    return ours, stock


def step(layer, inputs, *, graph, training=True):
    """Outputs, and the gradients of the inputs and the weights."""

    def run(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
            factors = tf.cast(values(*outputs.shape, seed=9), outputs.dtype)
            loss = tf.reduce_sum(outputs * factors)
        weights = [variable.value for variable in layer.trainable_variables]
        return [outputs, *tape.gradient(loss, [inputs, *weights])]

    run = tf.function(run, autograph=False) if graph else run
    return [np.asarray(array) for array in run(tf.constant(inputs, layer.dtype))]


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(
    "options", [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}], ids=str
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training(shape, options, graph):
    """Outputs and gradients of every step, and the averages after some of them."""
    ours, stock = pair(shape[-1], len(shape), momentum=0.7, epsilon=1e-2, **options)
    rows = np.prod(shape[:-1])
    for number in range(3):
        inputs = values(*shape, seed=number) * np.float32(1 + number) + np.float32(number)
        found, expected = (step(layer, inputs, graph=graph) for layer in (ours, stock))
        assert len(found) == 4 - len(options)
        for got, exact in zip(found, expected, strict=True):
            assert_close(got, exact, rows)
        for got, exact in zip(ours.weights, stock.weights, strict=True):
            assert_close(got.numpy(), exact.numpy(), rows)
    assert abs(ours.moving_variance.numpy() - 1).max() > 1


@pytest.mark.parametrize("kind", ["prediction", "frozen", "default"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_by_the_averages(kind, graph):
    """Outputs and gradients where nothing is learnt of the batch, and nothing moves."""
    ours, stock = pair(5)
    for layer in (ours, stock):
        layer.trainable = kind != "frozen"
    training = {"prediction": False, "frozen": True, "default": None}[kind]
    before = [variable.numpy() for variable in ours.weights]
    found, expected = (
        step(layer, values(3, 7, 6, 5), graph=graph, training=training) for layer in (ours, stock)
    )
    assert len(found) == (2 if kind == "frozen" else 4)
    for got, exact in zip(found, expected, strict=True):
        assert_close(got, exact, 3 * 7 * 6)
    for got, as_before in zip(ours.weights, before, strict=True):
        np.testing.assert_array_equal(got, as_before)


def test_gradients_of_the_averages():
    """Keras lets gradients through to them, too."""
    layers, found = pair(4), []
    for layer in layers:
        averages = [layer.moving_mean.value, layer.moving_variance.value]
        with tf.GradientTape() as tape:
            tape.watch(averages)
            outputs = layer(tf.constant(values(6, 3, 3, 4), layer.dtype))
            loss = tf.reduce_sum(outputs * tf.cast(values(6, 3, 3, 4, seed=9), outputs.dtype))
        found.append(tape.gradient(loss, averages))
    for got, exact in zip(*found, strict=True):
        assert_close(got.numpy(), exact.numpy(), 54)


def test_averages_move_by_keras_arithmetic():
    """From moments that both compute without rounding: the same bits."""
    inputs = np.array([[-1, 2], [3, 6], [-1, 2], [3, 6]], np.float32)
    ours, stock = pair(2, 2, dtype="float32", momentum=0.99)
    for _ in range(50):
        for layer in (ours, stock):
            layer(inputs, training=True)
        for got, expected in zip(ours.weights, stock.weights, strict=True):
            assert got.numpy().tobytes() == expected.numpy().tobytes()
    assert ours.moving_mean.numpy()[0] != pytest.approx(1 + values(2, seed=12)[0] / 4)


def test_the_kernels_write_all_that_is_theirs():
    ours, _ = pair(5)
    with audit() as found:
        step(ours, values(3, 7, 6, 5), graph=False)
    assert not found.faults
    assert len(found.functions) == 3


@pytest.mark.parametrize("axis", [-1, 3])
def test_unknown_sizes(axis):
    inputs = keras.Input((None, None, 6))
    layers = [kind(axis=axis) for kind in KINDS]
    models = [keras.Model(inputs, layer(inputs)) for layer in layers]
    assert models[0].output_shape == models[1].output_shape == (None, None, None, 6)
    symbolic = keras.Model(inputs, BatchNormalization(axis=axis)(inputs, training=True))
    assert symbolic.output_shape == (None, None, None, 6)
    for shape in [(1, 5, 7, 6), (4, 2, 3, 6)]:
        ours, stock = (np.asarray(model(values(*shape), training=True)) for model in models)
        assert_close(ours, stock, 4 * np.prod(shape[:-1]))


def test_a_graph_that_leaves_everything_open_but_the_rank():
    layer = BatchNormalization()
    expected = np.asarray(layer(values(3, 4, 5, 6), training=True))
    signature = [tf.TensorSpec((None, None, None, None), tf.float32)]
    run = tf.function(
        lambda inputs: layer(inputs, training=True), input_signature=signature, autograph=False
    )
    np.testing.assert_array_equal(run(values(3, 4, 5, 6)), expected)


def test_errors_are_keras_own():
    calls = [
        lambda kind: kind(axis=[1, 2]),
        lambda kind: kind(momentum="much"),
        lambda kind: kind(colour=1),
        lambda kind: kind(axis=4)(values(2, 3, 4, 5)),
        lambda kind: kind(name="norm")(keras.Input((3, None))),
        lambda kind: layer_built_for_rank_4(kind)(values(2, 5), training=True),
        lambda kind: layer_built_for_rank_4(kind)(values(2, 3, 4, 6), training=True),
        lambda kind: layer_built_for_rank_4(kind)(values(2, 3, 4, 5), mask=np.ones((2, 3))),
    ]
    for call in calls:
        errors = []
        for kind in KINDS:
            with pytest.raises((ValueError, TypeError, IndexError)) as caught:
                call(kind)
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]


def layer_built_for_rank_4(kind):
    layer = kind(name="norm")
    layer.build((None, 3, 4, 5))
    return layer


@pytest.mark.parametrize("shape", [(1, 6), (6,), (0, 6), (4, 0), (2, 0, 3, 6)], ids=str)
def test_few_values_and_none(shape):
    ours, stock = (kind() for kind in KINDS)
    outputs = [np.asarray(layer(values(*shape), training=True)) for layer in (ours, stock)]
    assert outputs[0].shape == shape
    np.testing.assert_allclose(*outputs, atol=1e-6)
    for got, expected in zip(ours.weights, stock.weights, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_nan_stays_in_its_channel():
    x = values(2, 5, 6, 3)
    x[1, 2, 3, 2] = np.nan
    layer = BatchNormalization()
    found = np.isnan(layer(x, training=True))
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(3) == 2, x.shape))
    np.testing.assert_array_equal(np.isnan(layer.moving_mean), np.arange(3) == 2)


def network(kind):
    normal = keras.initializers.RandomNormal
    parts = [
        keras.layers.Dense(6, use_bias=False, kernel_initializer=normal(seed=1)),
        kind(momentum=0.8, name="norm"),
        keras.layers.ReLU(),
        keras.layers.Dense(4, kernel_initializer=normal(seed=2)),
    ]
    return keras.Sequential([keras.Input((8, 7, 5)), *parts])


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_fit(run_eagerly):
    """Keras' own loop, in graphs too: weights and averages move as with Keras' own layer."""
    found = []
    for kind in KINDS:
        model = network(kind)
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=run_eagerly)
        before = model.get_weights()
        model.fit(1 + values(9, 8, 7, 5), np.ones((9, 8, 7, 4)), 3, 2, 0, shuffle=False)
        found.append([new - old for new, old in zip(model.get_weights(), before, strict=True)])
    for ours, stock in zip(*found, strict=True):
        assert np.abs(stock).max() > 1e-3
        np.testing.assert_allclose(ours, stock, atol=1e-4 * np.abs(stock).max())


def test_steps_in_one_call():
    """Keras unrolls or loops over several steps inside one graph: each sees the averages before."""
    found = []
    for kind in KINDS:
        model = network(kind)
        model.compile(keras.optimizers.SGD(0.01), "mse", steps_per_execution=3)
        model.fit(1 + values(9, 8, 7, 5), np.ones((9, 8, 7, 4)), 3, 1, 0, shuffle=False)
        found.append(model.get_layer("norm"))
    for ours, stock in zip(found[0].weights, found[1].weights, strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-5, atol=1e-6)


def test_stateless_call():
    """Keras calls this if variables must not change: the averages are returned."""
    results = []
    for layer in pair(5, dtype="float32"):
        trained = [variable.value for variable in layer.trainable_variables]
        averages = [variable.value * 2 for variable in layer.non_trainable_variables]
        before = layer.moving_mean.numpy()
        inputs = tf.constant(values(3, 7, 6, 5))
        outputs, moved = layer.stateless_call(trained, averages, inputs, training=True)
        np.testing.assert_array_equal(layer.moving_mean, before)
        assert np.abs(np.asarray(moved[0]) - np.asarray(averages[0])).min() > 1e-3
        results.append([np.asarray(array) for array in (outputs, *moved)])
    for ours, stock in zip(*results, strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-5, atol=1e-5)


def test_forge_and_lower_go_on_where_the_model_was():
    model = network(keras.layers.BatchNormalization)
    model(values(3, 8, 7, 5), training=True)
    forged = forge(model, "numba")
    assert type(forged.get_layer("norm")) is BatchNormalization
    forged(values(3, 8, 7, 5, seed=1), training=True)
    lowered = lower(forged)
    assert type(lowered.get_layer("norm")) is keras.layers.BatchNormalization
    assert lowered.get_config() == model.get_config()
    for ours, theirs in zip(forged.weights, lowered.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    inputs = values(3, 8, 7, 5, seed=2)
    assert_close(np.asarray(forged(inputs)), np.asarray(lowered(inputs)), 16)
    assert np.abs(np.asarray(lowered(inputs)) - np.asarray(model(inputs))).max() > 1e-3


def test_training_resumes_exactly():
    """With moving averages in the state; and the bits are the same every time."""
    images = np.random.default_rng(0).integers(0, 255, (70, 6, 6, 1), np.uint8)
    samples = ArraySamples(images, np.arange(70) % 3, [str(n) for n in range(70)])
    dataset = Dataset("toy", ("a", "b", "c"), samples, samples, "0" * 64)

    def run(**options):
        prepare(1)
        head = [keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Softmax()]
        body = [keras.layers.Conv2D(3, 3), BatchNormalization(), keras.layers.ReLU()]
        model = keras.Sequential([keras.Input((6, 6, 1)), *body, *head])
        options = {
            "batch_size": 8,
            "seed": 1,
            "optimizer": OptimizerOptions(learning_rate=0.01),
            **options,
        }
        return train(model, Classification(dataset.classes), dataset, **options).state

    whole = run(epochs=2)
    assert whole.digest() == run(epochs=2).digest()
    assert run(epochs=2, resume_from=run(epochs=1)).digest() == whole.digest()


def test_a_saved_model_is_the_same(tmp_path):
    model = network(BatchNormalization)
    model(values(3, 8, 7, 5), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is BatchNormalization
    inputs = values(3, 8, 7, 5, seed=1)
    for training in (False, True):
        np.testing.assert_array_equal(
            loaded(inputs, training=training), model(inputs, training=training)
        )
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_configuration():
    options = {"momentum": 0.9, "epsilon": 1e-5, "center": False, "name": "mine"}
    ours, stock = (kind(**options) for kind in KINDS)
    assert ours.get_config() == stock.get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(copy) is BatchNormalization
    assert copy.get_config() == ours.get_config()
    assert not ours.supports_jit  # XLA compiles no op of ours.
    regularized = BatchNormalization(gamma_regularizer="l2")
    regularized(values(3, 5), training=True)
    assert len(regularized.losses) == 1


# (N, H, W) booleans.
MASK = np.arange(3 * 8 * 6).reshape(3, 8, 6) % 3 > 0
UNAVAILABLE = {
    "float64": ({"dtype": "float64"}, {}, "the dtype float64"),
    "float16": ({"dtype": "float16"}, {}, "the dtype float16"),
    "mixed_float16": ({"dtype": "mixed_float16"}, {}, "the dtype float16"),
    "mixed_bfloat16": ({"dtype": "mixed_bfloat16"}, {}, "the dtype bfloat16"),
    "axis": ({"axis": 1}, {}, r"axis=1 \(the kernels need the last one\)"),
    "negative axis": ({"axis": -2}, {}, "axis=-2"),
    "mask": ({}, {"mask": MASK}, r"a mask \(every row counts\)"),
    "renorm": ({"renorm": True}, {}, "renorm=True"),
    "synchronized": ({"synchronized": True}, {}, "synchronized=True"),
}


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize("name", UNAVAILABLE)
def test_framework_computes_what_no_kernel_fits_with_one_warning(name):
    options, arguments, reason = UNAVAILABLE[name]
    ours, stock = (kind(**options) for kind in KINDS)
    x = values(3, 8, 6, 5)
    text = f"BatchNormalization: no kernel for {reason}.*: the framework's own is used"
    with pytest.warns(_fallback.KernelUnavailableWarning, match=text) as said:
        results = [ours(x, training=True, **arguments) for _ in range(2)]
    assert len(said) == 1
    for result in results:
        assert result.dtype == ours.compute_dtype
        np.testing.assert_array_equal(result, stock(x, training=True, **arguments))
    for got, expected in zip(ours.weights, stock.weights, strict=True):
        np.testing.assert_array_equal(got, expected)
    # A prediction asks for less; of what is the framework's there, nothing is said any more.
    predicted, expected = ours(x, **arguments), np.asarray(stock(x, **arguments))
    if "dtype" in options or "axis" in options or arguments:
        np.testing.assert_array_equal(predicted, expected)
    else:
        assert_close(np.asarray(predicted), expected, 16)


@pytest.mark.usefixtures("fresh_warnings")
def test_a_mask_comes_from_the_layer_before():
    x = values(4, 7, 5)
    x[1, 3:] = 0
    results = []
    for kind in KINDS:
        layer = kind()
        model = keras.Sequential([keras.Input((7, 5)), keras.layers.Masking(), layer])
        if kind is BatchNormalization:
            with pytest.warns(_fallback.KernelUnavailableWarning, match="a mask"):
                outputs = model(x, training=True)
        else:
            outputs = model(x, training=True)
        results.append([np.asarray(outputs), layer.moving_mean.numpy()])
    for ours, stock in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, stock)


@pytest.mark.usefixtures("fresh_warnings")
def test_integers_are_the_frameworks():
    x = np.arange(30, dtype=np.int32).reshape(6, 5)
    ours, stock = (kind() for kind in KINDS)
    with pytest.warns(_fallback.KernelUnavailableWarning, match="the dtype int32"):
        outputs = ours(x, training=True)
    np.testing.assert_array_equal(outputs, stock(x, training=True))
