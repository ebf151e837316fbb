"""`DepthwiseConv2D` against Keras' own layer: values, gradients, and all that Keras does with it.

Keras' layer in float64 is the reference of values and gradients, as in test_conv2d.py.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_layers import outputs_and_gradients, values

from cnnforge.testing import assert_close
from cnnforge_plugins.layers import _fallback
from cnnforge_plugins.layers.depthwise_conv2d import DepthwiseConv2D

BATCH, HEIGHT, WIDTH, CHANNELS = 3, 11, 9, 5
CASES = {
    "plain": {"kernel_size": 3},
    "same": {"kernel_size": 3, "padding": "same"},
    "even window": {"kernel_size": (2, 4), "padding": "same"},
    "1x1": {"kernel_size": 1},
    "multiplier": {"kernel_size": 3, "depth_multiplier": 3},
    "multiplier, relu, same": {
        "kernel_size": (3, 2),
        "depth_multiplier": 2,
        "activation": "relu",
        "padding": "same",
    },
    "strides": {"kernel_size": 3, "strides": 2},
    "strides, same": {"kernel_size": (3, 2), "strides": 3, "padding": "same"},
    "dilation": {"kernel_size": (3, 2), "dilation_rate": (2, 3)},
    "dilation, same": {"kernel_size": 3, "dilation_rate": 2, "padding": "same"},
    # Keras' Conv2D refuses this, its DepthwiseConv2D does not.
    "strides, dilation": {"kernel_size": 3, "strides": 2, "dilation_rate": 3},
    "no bias": {"kernel_size": 3, "use_bias": False},
    "relu": {"kernel_size": 3, "activation": "relu"},
    "relu, no bias": {"kernel_size": 3, "activation": "relu", "use_bias": False},
    "tanh": {"kernel_size": 3, "activation": "tanh"},
    "softmax": {"kernel_size": 3, "activation": "softmax"},
}


def images(*shape):
    return values(*(shape or (BATCH, HEIGHT, WIDTH, CHANNELS)))


def pair(dtype="float64", **options):
    """Ours, and Keras' own in `dtype`, with the same weights."""
    ours = DepthwiseConv2D(**options)
    stock = keras.layers.DepthwiseConv2D(dtype=dtype, **options)
    for layer in (ours, stock):
        layer.build((None, None, None, CHANNELS))
    weights = [values(*v.shape, seed=i) / v.shape[0] / 2 for i, v in enumerate(ours.weights)]
    ours.set_weights(weights)
    stock.set_weights(weights)
    return ours, stock


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_values_and_gradients(options, graph):
    ours, stock = pair(**options)
    got = outputs_and_gradients(ours, images(), graph=graph)
    expected = outputs_and_gradients(stock, images(), graph=graph)
    height, width, _, multiplier = ours.kernel.shape
    pixels = int(np.prod(got[0].shape[:3]))
    terms = [height * width, height * width * multiplier, pixels, pixels]
    assert len(got) == len(expected) == 2 + len(ours.trainable_variables)
    for result, want, count in zip(got, expected, terms, strict=False):
        assert_close(result, want, count)


def test_strides_that_differ_are_those_of_conv2d_in_groups():
    ours, _ = pair(kernel_size=3, strides=(2, 3), padding="same", depth_multiplier=2)
    stock = keras.layers.Conv2D(
        2 * CHANNELS, 3, strides=(2, 3), padding="same", groups=CHANNELS, dtype="float64"
    )
    stock.build(images().shape)
    stock.set_weights([ours.kernel.numpy().reshape(3, 3, 1, -1), ours.bias.numpy()])
    assert_close(ours(images()), stock(images()), 9)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_shapes(options):
    ours, stock = pair("float32", **options)
    for shape in [(None, None, None, CHANNELS), (None, 12, 13, CHANNELS), (2, 7, None, CHANNELS)]:
        assert ours.compute_output_shape(shape) == stock.compute_output_shape(shape)
        symbolic = [layer(keras.Input(batch_shape=shape)).shape for layer in (ours, stock)]
        assert symbolic[0] == symbolic[1]
    assert ours(images()).shape == stock(images()).shape


def test_unknown_sizes():
    inputs = keras.Input((None, None, CHANNELS))
    ours, stock = pair(kernel_size=3, strides=2, padding="same", activation="relu")
    model = keras.Model(inputs, ours(inputs))
    for shape in ((1, 17, 4), (2, 5, 9)):
        x = images(*shape, CHANNELS)
        assert_close(model.predict(x, verbose=0), np.asarray(stock(x)), 9)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    ours, _ = pair(kernel_size=3, activation="relu")
    x = images(batch, HEIGHT, WIDTH, CHANNELS)
    outputs, grad_inputs, *grad_weights = outputs_and_gradients(ours, x, graph=True)
    assert outputs.shape == (batch, HEIGHT - 2, WIDTH - 2, CHANNELS)
    assert grad_inputs.shape == x.shape
    assert all(gradient.any() == bool(batch) for gradient in grad_weights)


WRONG = [
    {"kernel_size": 0},
    {"kernel_size": (3, 3, 3)},
    {"strides": 0},
    {"padding": "valdi"},
    {"padding": "causal"},
    {"data_format": "last"},
    {"depth_multiplier": 0},
    {"activation": "rely"},
    {"colour": 1},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_wrong_arguments(options):
    errors = []
    for kind in (DepthwiseConv2D, keras.layers.DepthwiseConv2D):
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(**{"kernel_size": 3} | options)(images())
        errors.append((caught.type, str(caught.value).split("Received")[0]))
    assert errors[0][0] == errors[1][0]
    # Keras names the layer, by its class or its own name, where calling it failed.
    assert errors[0][1].replace("_1", "") == errors[1][1].replace("_1", "")


@pytest.mark.parametrize("shape", [(9, 9, CHANNELS), (2, 9, 9, CHANNELS + 1), (2, 9)])
def test_wrong_inputs(shape):
    for layer in pair("float32", kernel_size=3):
        with pytest.raises(ValueError, match="incompatible with the layer"):
            layer(images(*shape))


def test_a_window_that_does_not_fit_is_an_error():
    for layer in pair("float32", kernel_size=5):
        assert layer(images(2, 5, 5, CHANNELS)).shape == (2, 1, 1, CHANNELS)
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match=r"empty|[Nn]egative"
        ):
            layer(images(2, 3, 5, CHANNELS))


def test_configuration():
    options = {
        "kernel_size": (3, 2),
        "strides": 2,
        "padding": "same",
        "depth_multiplier": 2,
        "activation": "relu",
        "depthwise_regularizer": keras.regularizers.L2(0.1),
        "bias_constraint": keras.constraints.NonNeg(),
        "name": "mine",
        "trainable": False,
    }
    ours, stock = DepthwiseConv2D(**options), keras.layers.DepthwiseConv2D(**options)
    assert ours.get_config() == stock.get_config()
    for layer in (ours, stock):
        layer.build((None, 8, 8, 4))
    assert [(v.name, v.shape) for v in ours.weights] == [(v.name, v.shape) for v in stock.weights]
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert type(copy) is DepthwiseConv2D
    assert copy.get_config() == ours.get_config()


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_one_step_of_fit(run_eagerly):
    moved = []
    for layer in pair("float32", kernel_size=3, activation="relu", depth_multiplier=2):
        model = keras.Sequential([keras.Input((HEIGHT, WIDTH, CHANNELS)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=run_eagerly)
        before = model.get_weights()
        target = values(*model.compute_output_shape((BATCH, HEIGHT, WIDTH, CHANNELS)), seed=5)
        model.fit(images(), target, batch_size=BATCH, verbose=0)
        moved.append([b - a for a, b in zip(before, model.get_weights(), strict=True)])
    for ours, stock in zip(*moved, strict=True):
        assert np.abs(stock).max() > 1e-4
        # A step is a difference of weights of about 1, rounded to float32 before and after.
        np.testing.assert_allclose(ours, stock, atol=4 * np.finfo(np.float32).eps)


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize("policy", ["mixed_float16", "float64", "bfloat16"])
def test_other_dtypes_are_the_frameworks(policy):
    ours, stock = (
        kind(3, dtype=policy) for kind in (DepthwiseConv2D, keras.layers.DepthwiseConv2D)
    )
    stock.build(images().shape)
    with pytest.warns(_fallback.KernelUnavailableWarning) as said:
        results = [ours(images()), ours(images())]
    assert len(said) == 1
    message = f"DepthwiseConv2D: no kernel for the dtype {ours.compute_dtype} "
    assert str(said[0].message).startswith(message)
    stock.set_weights(ours.get_weights())
    for result in results:
        assert result.dtype == ours.compute_dtype
        np.testing.assert_array_equal(result, stock(images()))


@pytest.mark.usefixtures("fresh_warnings")
def test_channels_first_is_the_frameworks():
    x = images(2, CHANNELS, HEIGHT, WIDTH)
    ours, stock = (
        kind(3, data_format="channels_first")
        for kind in (DepthwiseConv2D, keras.layers.DepthwiseConv2D)
    )
    ours.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(ours.get_weights())

    def result(layer):
        # TensorFlow computes it on graphics cards only.
        try:
            return np.asarray(layer(x))
        except tf.errors.OpError as error:
            return type(error).__name__

    with pytest.warns(_fallback.KernelUnavailableWarning, match="channels_first") as said:
        results = [result(ours), result(ours)]
    assert len(said) == 1
    for got in results:
        np.testing.assert_array_equal(got, result(stock))


LOAD = """
import sys
import numpy as np
import cnnforge_plugins.layers.depthwise_conv2d
import cnnforge_plugins.layers.global_average_pooling2d
import keras

path, folder = sys.argv[1:]
model = keras.saving.load_model(path)
assert type(model.layers[0]).__module__ == "cnnforge_plugins.layers.depthwise_conv2d"
assert type(model.layers[1]).__module__ == "cnnforge_plugins.layers.global_average_pooling2d"
expected = np.load(folder + "/expected.npy")
np.testing.assert_array_equal(np.asarray(model(np.load(folder + "/inputs.npy"))), expected)
print("loaded")
"""


def test_saving_and_loading(tmp_path):
    from cnnforge_plugins.layers.global_average_pooling2d import GlobalAveragePooling2D

    model = keras.Sequential(
        [
            keras.Input((None, None, CHANNELS)),
            DepthwiseConv2D(3, depth_multiplier=2, activation="relu", padding="same"),
            GlobalAveragePooling2D(keepdims=True),
        ]
    )
    np.save(tmp_path / "inputs.npy", images())
    np.save(tmp_path / "expected.npy", np.asarray(model(images())))
    model.save(tmp_path / "model.keras")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "model.keras"), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "loaded", done.stderr[-2000:]
