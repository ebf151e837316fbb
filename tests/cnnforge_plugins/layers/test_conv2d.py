"""`Conv2D` against Keras' own layer: the constructor, the values, and all that Keras does with it.

Keras' layer in float64 is the reference of values and gradients: its own rounding is then no part
of the difference, and the tolerance is the formula of `cnnforge.testing` with K as it stands.
"""

import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_layers import outputs_and_gradients, values

import cnnforge.ops
from cnnforge.testing import assert_close
from cnnforge_plugins.layers import _fallback
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.layers.pooling import AveragePooling2D, MaxPooling2D

BATCH, HEIGHT, WIDTH, CHANNELS, FILTERS = 3, 11, 9, 4, 6
CASES = {
    "plain": {"kernel_size": 3},
    "same": {"kernel_size": 3, "padding": "same"},
    "even window": {"kernel_size": (2, 4), "padding": "same"},
    "1x1": {"kernel_size": 1},
    "strides": {"kernel_size": 3, "strides": (2, 3)},
    "strides, same": {"kernel_size": (3, 2), "strides": 2, "padding": "same"},
    "1x1, strides": {"kernel_size": 1, "strides": (2, 1)},
    "dilation": {"kernel_size": (3, 2), "dilation_rate": (2, 3)},
    "dilation, same": {"kernel_size": 3, "dilation_rate": 2, "padding": "same"},
    "groups": {"kernel_size": 3, "groups": 2},
    "groups, strides": {"kernel_size": 3, "groups": 2, "strides": 2, "padding": "same"},
    "no bias": {"kernel_size": 3, "use_bias": False},
    "relu": {"kernel_size": 3, "activation": "relu"},
    "relu, no bias": {"kernel_size": 3, "activation": "relu", "use_bias": False},
    "linear": {"kernel_size": 3, "activation": "linear"},
    "tanh": {"kernel_size": 3, "activation": "tanh"},
    "softmax": {"kernel_size": 3, "activation": "softmax"},
}


def images(*shape):
    return values(*(shape or (BATCH, HEIGHT, WIDTH, CHANNELS)))


def pair(dtype="float64", **options):
    """Ours, and Keras' own in `dtype`, with the same weights."""
    ours = Conv2D(FILTERS, **options)
    stock = keras.layers.Conv2D(FILTERS, dtype=dtype, **options)
    for layer in (ours, stock):
        layer.build((None, None, None, CHANNELS))
    weights = [values(*v.shape, seed=i) / v.shape[0] / 2 for i, v in enumerate(ours.weights)]
    ours.set_weights(weights)
    stock.set_weights(weights)
    return ours, stock


def terms(layer, outputs):
    """K of the outputs, the gradient of the inputs, and those of the weights."""
    height, width, channels, filters = layer.kernel.shape
    pixels = int(np.prod(outputs.shape[:3]))
    return height * width * channels, height * width * filters // layer.groups, pixels, pixels


def assert_like_stock(ours, stock, inputs, *, graph=False):
    got = outputs_and_gradients(ours, inputs, graph=graph)
    expected = outputs_and_gradients(stock, inputs, graph=graph)
    assert len(got) == len(expected) == 2 + len(ours.trainable_variables)
    for result, want, count in zip(got, expected, terms(ours, got[0]), strict=False):
        assert_close(result, want, count)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_values_and_gradients(options, graph):
    assert_like_stock(*pair(**options), images(), graph=graph)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_shapes(options):
    ours, stock = pair("float32", **options)
    for shape in [(None, None, None, CHANNELS), (None, 12, 13, CHANNELS), (2, 7, None, CHANNELS)]:
        assert ours.compute_output_shape(shape) == stock.compute_output_shape(shape)
        symbolic = [layer(keras.Input(batch_shape=shape)).shape for layer in (ours, stock)]
        assert symbolic[0] == symbolic[1]
    assert ours(images()).shape == stock(images()).shape


@pytest.mark.parametrize("known", [(None, None), (None, 9), (11, None)])
def test_unknown_sizes(known):
    inputs = keras.Input((*known, CHANNELS))
    ours, stock = pair(kernel_size=3, strides=2, padding="same", activation="relu")
    model = keras.Model(inputs, ours(inputs))
    height, width = (size or 17 for size in known)
    for batch in (1, 2):
        x = images(batch, height, width, CHANNELS)
        expected = np.asarray(stock(x))
        assert_close(model(x), expected, 9 * CHANNELS)
        assert_close(model.predict(x, verbose=0), expected, 9 * CHANNELS)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    ours, stock = pair(kernel_size=3, activation="relu")
    x = images(batch, HEIGHT, WIDTH, CHANNELS)
    if batch:
        assert_like_stock(ours, stock, x, graph=True)
        return
    outputs, grad_inputs, *grad_weights = outputs_and_gradients(ours, x, graph=True)
    assert outputs.shape == (0, HEIGHT - 2, WIDTH - 2, FILTERS)
    assert grad_inputs.shape == x.shape
    assert all(not gradient.any() for gradient in grad_weights)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_nan_reaches_what_it_should_and_nothing_else(activation):
    ours, stock = pair(kernel_size=3, activation=activation)
    x = images()
    x[1, 4, 4, 2] = np.nan
    got, expected = np.asarray(ours(x)), np.asarray(stock(x))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert 0 < np.isnan(got).sum() < got.size
    clean = ~np.isnan(expected)
    assert_close(got[clean], expected[clean], 9 * CHANNELS)


WRONG = [
    {"filters": 0},
    {"filters": 2.5},
    {"kernel_size": 0},
    {"kernel_size": (3, 3, 3)},
    {"strides": 0},
    {"strides": 2, "dilation_rate": 2},
    {"padding": "valdi"},
    {"padding": "causal"},
    {"data_format": "last"},
    {"groups": 0},
    {"groups": 4},
    {"filters": 3, "groups": 3},
    {"activation": "rely"},
    {"kernel_size": 30},
    {"colour": 1},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_wrong_arguments(options):
    errors = []
    for kind in (Conv2D, keras.layers.Conv2D):
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(**{"filters": FILTERS, "kernel_size": 3} | options).build(images().shape)
        errors.append((caught.type, str(caught.value).split("Received")[0]))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("shape", [(9, 9, CHANNELS), (2, 9, 9, CHANNELS + 1), (2, 9)])
def test_wrong_inputs(shape):
    ours, stock = pair("float32", kernel_size=3)
    for layer in (ours, stock):
        with pytest.raises(ValueError, match="incompatible with the layer"):
            layer(images(*shape))


@pytest.mark.parametrize("height", [3, 4])
def test_a_window_that_does_not_fit_is_an_error(height):
    for layer in pair("float32", kernel_size=5):
        assert layer(images(2, 5, 5, CHANNELS)).shape == (2, 1, 1, FILTERS)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"empty|negative"):
            layer(images(2, height, 5, CHANNELS))


def test_a_window_that_does_not_fit_unknown_inputs_is_an_error():
    ours, _ = pair(kernel_size=5)
    call = tf.function(ours, [tf.TensorSpec((None, None, None, CHANNELS))], autograph=False)
    assert call(images(2, 5, 5, CHANNELS)).shape == (2, 1, 1, FILTERS)
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty output"):
        call(images(2, 4, 5, CHANNELS))


def test_configuration():
    options = {
        "filters": 6,
        "kernel_size": (3, 2),
        "strides": 2,
        "padding": "same",
        "groups": 2,
        "activation": "relu",
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "bias_constraint": keras.constraints.NonNeg(),
        "name": "mine",
        "trainable": False,
    }
    ours, stock = Conv2D(**options), keras.layers.Conv2D(**options)
    assert ours.get_config() == stock.get_config()
    again = Conv2D.from_config(ours.get_config())
    assert again.get_config() == ours.get_config()
    for layer in (ours, stock):
        layer.build((None, 8, 8, 4))
    assert [(v.name, v.shape) for v in ours.weights] == [(v.name, v.shape) for v in stock.weights]
    # Any instance goes through Keras' serialisation.
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(copy) is Conv2D


def test_regularizers_and_constraints():
    options = {
        "kernel_size": 3,
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "bias_regularizer": "l1",
        "activity_regularizer": keras.regularizers.L2(0.01),
        "kernel_constraint": keras.constraints.MaxNorm(0.01),
    }
    ours, stock = pair("float32", **options)
    losses = []
    for layer in (ours, stock):
        layer(images())
        losses.append([float(loss) for loss in layer.losses])
        model = keras.Sequential([layer])
        model.compile("sgd", "mse")
        model.fit(images(), np.zeros(layer(images()).shape), verbose=0)
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    norms = np.sqrt((ours.kernel.numpy() ** 2).sum((0, 1, 2)))
    # MaxNorm acts along the first axis; what counts is that it acted, and on both alike.
    assert norms.max() < 0.01 * np.sqrt(3 * 3 * CHANNELS)
    np.testing.assert_allclose(ours.kernel.numpy(), stock.kernel.numpy(), atol=1e-6)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_one_step_of_fit(run_eagerly):
    weights = []
    for layer in pair("float32", kernel_size=3, activation="relu"):
        model = keras.Sequential([keras.Input((HEIGHT, WIDTH, CHANNELS)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=run_eagerly)
        before = model.get_weights()
        target = values(*model.compute_output_shape((BATCH, HEIGHT, WIDTH, CHANNELS)), seed=5)
        model.fit(images(), target, batch_size=BATCH, verbose=0)
        weights.append([b - a for a, b in zip(before, model.get_weights(), strict=True)])
    for ours, stock in zip(*weights, strict=True):
        assert np.abs(stock).max() > 1e-4
        # A step is a difference of weights of about 1, rounded to float32 before and after.
        np.testing.assert_allclose(ours, stock, atol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("layer", [Conv2D(FILTERS, 3), MaxPooling2D(2), AveragePooling2D(2)])
def test_xla_is_refused_and_not_needed(layer):
    model = keras.Sequential([keras.Input(images().shape[1:]), layer])
    model.compile("sgd", "mse", jit_compile="auto")
    assert model.jit_compile is False
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)


def test_lora():
    ours, stock = pair("float32", kernel_size=3)
    for layer in (ours, stock):
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(values(*layer.lora_kernel_b.shape, seed=4))
    stock.lora_kernel_a.assign(ours.lora_kernel_a)
    before = np.asarray(Conv2D.call(ours, tf.constant(images())))
    assert [v.path.rpartition("/")[2] for v in ours.trainable_variables] == [
        "bias",
        "lora_kernel_a",
        "lora_kernel_b",
    ]
    got = outputs_and_gradients(ours, images(), graph=True)
    expected = outputs_and_gradients(stock, images(), graph=True)
    pixels = int(np.prod(got[0].shape[:3]))
    # Four times K where both sides have the rounding of float32. The gradients of the two factors
    # have a sum of their own, over the filters and over the taps.
    counts = [9 * CHANNELS, 9 * FILTERS, pixels, pixels + FILTERS, pixels + 9 * CHANNELS]
    for result, want, count in zip(got, expected, counts, strict=True):
        assert_close(result, want, 4 * count)
    np.testing.assert_array_equal(before, got[0])


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize("kind", [Conv2D, MaxPooling2D, AveragePooling2D])
@pytest.mark.parametrize("policy", ["mixed_float16", "float64", "bfloat16"])
def test_other_dtypes_are_the_frameworks(kind, policy):
    arguments = (FILTERS, 3) if kind is Conv2D else (2,)
    ours = kind(*arguments, dtype=policy)
    stock = getattr(keras.layers, kind.__name__)(*arguments, dtype=policy)
    stock.build(images().shape)
    with pytest.warns(_fallback.KernelUnavailableWarning) as said:
        results = [ours(images()), ours(images()), kind(*arguments, dtype=policy)(images())]
    message = f"{kind.__name__}: no kernel for the dtype {ours.compute_dtype} "
    assert len(said) == 1
    assert str(said[0].message).startswith(message)
    stock.set_weights(ours.get_weights())
    expected = stock(images())
    for result in results[:2]:
        assert result.dtype == expected.dtype == ours.compute_dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize("kind", [Conv2D, MaxPooling2D, AveragePooling2D])
def test_channels_first_is_the_frameworks(kind):
    arguments = (FILTERS, 3) if kind is Conv2D else (2,)
    ours = kind(*arguments, data_format="channels_first")
    stock = getattr(keras.layers, kind.__name__)(*arguments, data_format="channels_first")
    x = images(2, CHANNELS, HEIGHT, WIDTH)
    ours.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(ours.get_weights())

    def result(layer):
        # TensorFlow computes some of them on graphics cards only.
        try:
            return np.asarray(layer(x))
        except tf.errors.OpError as error:
            return type(error).__name__

    with pytest.warns(_fallback.KernelUnavailableWarning, match="channels_first") as said:
        results = [result(ours), result(ours)]
    assert len(said) == 1
    for got in results:
        np.testing.assert_array_equal(got, result(stock))


@pytest.mark.usefixtures("fresh_warnings")
def test_float32_says_nothing():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", _fallback.KernelUnavailableWarning)
        Conv2D(FILTERS, 3)(images())
        Conv2D(FILTERS, 3)(images().astype(np.float64))  # Keras casts it to the layer's dtype
    assert not [w for w in said if w.category is _fallback.KernelUnavailableWarning]


def saved_model():
    return keras.Sequential(
        [
            keras.Input((None, None, CHANNELS)),
            Conv2D(FILTERS, 3, activation="relu", padding="same"),
            MaxPooling2D(2),
            Conv2D(FILTERS, 3, use_bias=False),
            AveragePooling2D((2, 1), padding="same"),
        ]
    )


LOAD = """
import sys
import numpy as np
import cnnforge_plugins.layers.conv2d, cnnforge_plugins.layers.pooling
import keras, tensorflow as tf
import cnnforge.ops

kind, path, folder = sys.argv[1:]
inputs, expected = np.load(folder + "/inputs.npy"), np.load(folder + "/expected.npy")
if kind == "keras":
    model = keras.saving.load_model(path)
    assert type(model.layers[0]).__module__ == "cnnforge_plugins.layers.conv2d"
    call = model
else:
    cnnforge.ops.register()
    loaded = tf.saved_model.load(path)
    call = loaded.serve
np.testing.assert_array_equal(np.asarray(call(inputs)), expected)
print("loaded", kind)
"""


@pytest.mark.parametrize("kind", ["keras", "export"])
def test_saving_and_loading(tmp_path, kind):
    model = saved_model()
    x = images()
    expected = np.asarray(model(x))
    np.save(tmp_path / "inputs.npy", x)
    np.save(tmp_path / "expected.npy", expected)
    if kind == "keras":
        path = tmp_path / "model.keras"
        model.save(path)
        again = keras.saving.load_model(path)
        assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
        np.testing.assert_array_equal(again(x), expected)
    else:
        path = tmp_path / "exported"
        with pytest.warns(UserWarning, match="cnnforge.conversion.lower"):
            model.export(path, verbose=False)
        cnnforge.ops.register()
        loaded = tf.saved_model.load(path)
        np.testing.assert_array_equal(loaded.serve(x), expected)
    output = subprocess.run(
        [sys.executable, "-c", LOAD, kind, str(path), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert output.stdout.strip() == f"loaded {kind}", output.stderr[-2000:]


SURVIVE = """
import keras
import numpy as np
import tensorflow as tf
from cnnforge_plugins.layers.conv2d import Conv2D

random = np.random.default_rng(0)
inputs = tf.constant(random.standard_normal((3, 16, 14, 5)), tf.float32)
layer = Conv2D(6, 1, strides=(2, 2))
layer.build(inputs.shape)
optimizer = keras.optimizers.SGD(0.01)
optimizer.build(layer.trainable_variables)

@tf.function
def step():
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(layer(inputs) ** 2)
    optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
    return loss

losses = [float(step()) for _ in range(300)]
assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0], losses[::50]
print("survived")
"""


def test_it_trains_where_tensorflow_with_onednn_crashes():
    """TF 2.21 corrupts memory in its own gradient of these weights, and dies within 300 calls."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    output = subprocess.run(
        [sys.executable, "-c", SURVIVE], env=environment, capture_output=True, text=True
    )
    assert output.returncode == 0, output.stderr[-2000:]
    assert output.stdout.strip() == "survived"
