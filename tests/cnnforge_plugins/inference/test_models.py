"""Plans of whole networks give the logits, probabilities and classes of Keras."""

import functools

import keras
import numpy as np
import pytest

from cnnforge_kernels.plan import Plan, optimize
from cnnforge_plugins.inference.builder import express
from cnnforge_plugins.models import (
    efficientnet_lite0,
    keras_applications,
    lenet,
    mobilenet_small,
    resnet,
    vgg11,
)

# Images that are not slow in continuous integration.
COUNT = 6
BUILT_IN = {
    "lenet": (lenet.build, (28, 28, 1)),
    "resnet20": (resnet.resnet20, (32, 32, 3)),
    "resnet32": (resnet.resnet32, (32, 32, 3)),
    "resnet56": (resnet.resnet56, (32, 32, 3)),
    "resnet110": (resnet.resnet110, (32, 32, 3)),
    "vgg11": (vgg11.build, (32, 32, 3)),
    "mobilenet_small": (mobilenet_small.build, (32, 32, 3)),
    "efficientnet_lite0": (efficientnet_lite0.build, (32, 32, 3)),
    "efficientnet_lite0, gray": (efficientnet_lite0.build, (32, 32, 1)),
    "keras:MobileNetV2": (
        functools.partial(keras_applications.build, argument="MobileNetV2"),
        (32, 32, 3),
    ),
}
# The smallest size of each network of keras.applications. Slow in continuous integration: those
# with many layers.
APPLICATIONS = {
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "EfficientNetB0": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "VGG16": 32,
    "ResNet50": 32,
    "Xception": 71,
    "InceptionV3": 75,
    "NASNetMobile": 32,
    "EfficientNetV2B0": 32,
}
QUICK = ("MobileNetV3Small", "ResNet50V2")


def randomize(model):
    """Give weights and statistics values as if trained, else folding is hardly tested."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif kind in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.8, 1.3, weight.shape))


def logits_of(model):
    """Return the model without its last softmax, which shares its weights."""
    last = model.layers[-1]
    if isinstance(last, keras.layers.Activation):
        return keras.Model(model.inputs, last.input)
    assert last.activation is keras.activations.softmax
    changed = {"activation": "linear", "name": "logits"}
    plain = keras.layers.Dense.from_config({**last.get_config(), **changed})
    logits = keras.Model(model.inputs, plain(last.input))
    plain.set_weights(last.get_weights())
    return logits


def check(model, images):
    """Compare logits, probabilities and classes of a plan with those of Keras."""
    logits = logits_of(model)
    # Both are computed at the same time, and not compiled: TensorFlow's graph of a large network
    # takes longer than the network.
    both = keras.Model(model.input, [model.output, logits.output])
    expected, expected_logits = map(np.asarray, both(images, training=False))
    probabilities = Plan(optimize(express(model))).predict(images)
    assert np.abs(probabilities - expected).max() <= 1e-5
    result = Plan(optimize(express(logits))).predict(images)
    assert np.abs(result - expected_logits).max() <= 1e-4 * np.abs(expected_logits).max()
    best = np.sort(expected, 1)
    clear = best[:, -1] - best[:, -2] > 1e-4
    np.testing.assert_array_equal(probabilities.argmax(1)[clear], expected.argmax(1)[clear])


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_model(name):
    keras.utils.set_random_seed(0)
    make, shape = BUILT_IN[name]
    model = make(shape, 10)
    randomize(model)
    check(model, np.random.default_rng(0).integers(0, 256, (COUNT, *shape), np.uint8))


def chosen():
    """Mark the networks whose many kernels take long to compile."""
    for name in APPLICATIONS:
        yield name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", list(chosen()))
def test_application(name):
    keras.utils.set_random_seed(0)
    shape = (APPLICATIONS[name], APPLICATIONS[name], 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    randomize(model)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, *shape), np.uint8)
    raw = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    check(model, images if raw else (images / 127.5 - 1).astype(np.float32))
