"""The certificate: right layers pass, each kind of wrong layer is caught and named."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.conversion import forge
from cnnforge.conversion.certificate import certify, certify_layer
from cnnforge.conversion.oracle_certificate import compare_with_oracle
from cnnforge.conversion.workloads import Workload
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.plugin_host.registry import Registry
from cnnforge.testing import LayerCase
from cnnforge.testing.conformance import subject_spec
from cnnforge_plugins.layers._fallback import KernelUnavailableWarning
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.models.lenet import build

layers = keras.layers
SHAPE = (9, 8, 3)


@pytest.fixture(scope="module")
def installed():
    return discover().layers


def stack(*parts, shape=SHAPE):
    return keras.Sequential([keras.Input(shape), *parts])


def test_lenet_passes(installed):
    model = forge(build((28, 28, 1), 10), "numba")
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    checks = certify(model, layers=installed)
    assert all(check.passed for check in checks)
    assert [(it.layer, it.kind, it.provider, it.input_shape, it.dtype) for it in checks] == [
        ("conv1", "Conv2D+MaxPooling2D", "builtin/conv_block2d", (2, 28, 28, 1), "float32"),
        ("dropout1", "Dropout", "builtin/dropout", (2, 14, 14, 8), "float32"),
        ("conv2", "Conv2D+MaxPooling2D", "builtin/conv_block2d", (2, 14, 14, 8), "float32"),
        ("dropout2", "Dropout", "builtin/dropout", (2, 7, 7, 16), "float32"),
        ("dense", "Dense", "builtin/dense", (2, 784), "float32"),
        ("dropout3", "Dropout", "builtin/dropout", (2, 256), "float32"),
        ("probabilities", "Dense", "builtin/dense", (2, 256), "float32"),
    ]
    terms = {it.tensor: it.terms for it in checks[2].results}
    # Of each window of the pool one value has a gradient. Rounded weights may be zero, and count
    # for nothing.
    assert terms["grad_kernel"] == terms["grad_bias"] == 2 * 7 * 7
    assert 60 <= terms["outputs"] <= 3 * 3 * 8
    assert 30 <= terms["grad_inputs"] <= 3 * 3 * 16 // 4
    # A fused layer is checked with numbers whose sums are exact: no tie is decided by rounding.
    assert [it.max_error for it in checks[0].results if it.tensor == "outputs"] == [0]
    assert all(it.max_error < it.allowed for it in checks[0].results)
    # Dropout drops, and both drop the same.
    dropped = [it for check in checks if check.kind == "Dropout" for it in check.results]
    assert [(it.tensor, it.max_error) for it in dropped] == [("outputs", 0), ("grad_inputs", 0)] * 3
    assert all(it.allowed > 0 for it in dropped)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, activation="relu", padding="same", strides=2),
        layers.Conv2D(6, 1, strides=(2, 1), use_bias=False),
        layers.Conv2D(6, (2, 3), dilation_rate=2, groups=3, activation="tanh"),
        layers.Conv2D(4, 5, padding="same", activation="softmax"),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.AveragePooling2D((2, 3), padding="same"),
    ],
    ids=lambda layer: layer.name,
)
def test_options(installed, layer, seed):
    (check,) = certify(forge(stack(layer), "numba"), layers=installed, seed=seed, batch=3)
    assert check.passed, check
    assert check.input_shape == (3, *SHAPE)
    expected = {"outputs", "grad_inputs"} | {f"grad_{it.name}" for it in layer.weights}
    assert {it.tensor for it in check.results} == expected


def test_windows_that_mostly_meet_padding(installed):
    model = forge(stack(layers.Conv2D(4, 7, padding="same"), shape=(2, 2, 3)), "numba")
    (check,) = certify(model, layers=installed)
    assert check.passed, check


@pytest.mark.parametrize("kind", ["DepthwiseConv2D", "Conv2D"])
def test_a_channel_that_is_much_larger_than_the_others(installed, kind):
    # Pretrained networks have such channels. Rounding errors are those of the large values.
    arguments = (3,) if kind == "DepthwiseConv2D" else (64, 3)
    model = forge(stack(getattr(layers, kind)(*arguments), shape=(12, 12, 64)), "numba")
    (layer,) = model.layers
    kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
    kernel[:, :, 0] *= 1000
    layer.kernel.assign(kernel)
    (check,) = certify(model, layers=installed)
    assert check.passed, check
    assert check.provider.startswith("builtin/")


def test_every_shape_of_a_shared_layer(installed):
    first, second = keras.Input((8, 8, 2)), keras.Input((5, None, 2))
    shared = layers.Conv2D(2, 3, name="shared")
    model = keras.Model([first, second], [shared(first), shared(first), shared(second)])
    checks = certify(forge(model, "numba"), layers=installed)
    assert sorted(it.input_shape for it in checks) == [(2, 5, 32, 2), (2, 8, 8, 2)]
    assert all(it.passed for it in checks)


def test_a_layer_inside_a_layer(installed):
    inputs = keras.Input((3, *SHAPE))
    model = keras.Model(inputs, layers.TimeDistributed(Conv2D(2, 3, name="inner"))(inputs))
    (check,) = certify(model, layers=installed)
    assert check.passed
    assert (check.layer, check.input_shape) == ("inner", (2, *SHAPE))


@pytest.mark.filterwarnings("ignore", category=KernelUnavailableWarning)
@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float64"])
def test_other_dtypes(installed, policy):
    model = forge(
        stack(layers.Conv2D(4, 3, dtype=policy), layers.MaxPooling2D(dtype=policy)), "numba"
    )
    checks = certify(model, layers=installed)
    assert len(checks) == 2
    for check in checks:
        assert check.passed, check
        assert check.dtype == policy.removeprefix("mixed_")


class Halved(layers.Layer):
    factor = 0.5

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(input_shape[-1],), name="shift")

    def call(self, inputs):
        return self.factor * (inputs + self.shift)


class Broken(Halved):
    factor = 0.6


@keras.ops.custom_gradient
def wrong_gradient(values):
    return values, lambda upstream: 2 * upstream


class WrongGradient(Halved):
    def call(self, inputs):
        return wrong_gradient(super().call(inputs))


def halved_oracle(layer, inputs, shift):
    if inputs.shape[1] == 3:
        raise ValueError("not for three rows")
    return 0.5 * (inputs + shift)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Halved, []),
        (Broken, ["outputs", "grad_inputs", "grad_shift"]),
        (WrongGradient, ["grad_inputs", "grad_shift"]),
    ],
)
def test_a_layer_without_a_reference_is_compared_with_its_oracle(monkeypatch, kind, wrong):
    case = LayerCase(arguments={}, input_shape=(2, 4, 4, 3), oracle=halved_oracle)
    known = Registry(LayerSpec)
    spec = LayerSpec(name="halved", target="mine:Halved", summary="", cases="mine:CASES")
    known.add("mine", [spec])
    monkeypatch.setattr(LayerSpec, "load", lambda self: kind)
    monkeypatch.setattr(LayerSpec, "load_cases", lambda self: (case,))
    (check,) = certify(stack(kind(name="half"), shape=(6, 5, 2)), layers=known)
    assert (check.layer, check.kind, check.provider) == ("half", "its oracle", "mine/halved")
    assert check.input_shape == (2, 6, 5, 2)
    assert [result.tensor for result in check.results] == ["outputs", "grad_inputs", "grad_shift"]
    assert [result.tensor for result in check.results if not result.ok] == wrong
    assert check.passed == (not wrong)
    # An oracle need not compute other sizes than those of its cases.
    assert certify(stack(kind(), shape=(3, 5, 2)), layers=known) == []


def test_models_without_plugin_layers(installed):
    assert certify(stack(layers.Conv2D(2, 3)), layers=installed) == []


class OtherDropout(layers.Dropout):
    """As good a dropout in a prediction; in training it drops other elements."""

    def call(self, inputs, training=False):
        return super().call(inputs[::-1], training=training)[::-1]


class NoDropout(layers.Dropout):
    """One that forgets to drop."""

    def call(self, inputs, training=False):
        return inputs


class Wrong(layers.Conv2D):
    """A convolution with a fault that `fault` names."""

    fault = ""

    def call(self, inputs):
        outputs = super().call(inputs)
        if self.fault == "outputs":
            return outputs * 1.0001
        if self.fault == "one output":
            return outputs + tf.one_hot(0, outputs.shape[-1]) * 1e-4
        if self.fault == "nan":
            return outputs / tf.cast(tf.not_equal(outputs, tf.reduce_max(outputs)), outputs.dtype)
        if self.fault == "shape":
            return outputs[:, 1:]
        if self.fault == "error":
            raise ZeroDivisionError("no such shape")
        if self.fault == "gradients":
            return outputs + _skewed(outputs)
        if self.fault == "no gradient":
            return super().convolution_op(inputs, tf.stop_gradient(self.kernel)) + self.bias
        return outputs


@tf.custom_gradient
def _skewed(values):
    """Zero, with a gradient as if it were a thousandth of its argument."""
    return tf.zeros_like(values), lambda upstream: upstream * 1e-3


@pytest.fixture
def wrong(monkeypatch):
    monkeypatch.setitem(sys.modules, "acme_wrong", sys.modules[__name__])
    found = Registry(LayerSpec)
    spec = LayerSpec(
        name="wrong", target="acme_wrong:Wrong", summary="", reference="keras.layers:Conv2D"
    )
    found.add("acme", [spec])
    return found


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        ("", set()),
        ("outputs", {"outputs", "grad_inputs", "grad_kernel"}),
        ("one output", {"outputs"}),
        ("nan", {"outputs"}),
        ("shape", {"outputs"}),
        ("gradients", {"grad_inputs", "grad_kernel"}),
        ("no gradient", {"grad_kernel"}),
    ],
)
def test_a_wrong_layer_is_caught(wrong, monkeypatch, fault, caught):
    model = forge(stack(layers.Conv2D(8, 3, name="suspect")), "numba", layers=wrong)
    monkeypatch.setattr(Wrong, "fault", fault)
    (check,) = certify(model, layers=wrong)
    assert check.passed == (not fault)
    assert check.provider == "acme/wrong"
    failed = {it.tensor for it in check.results if not it.ok}
    assert caught <= failed if fault else not failed
    assert json.loads(json.dumps(check.to_json(), allow_nan=False))["passed"] == (not fault)


def test_a_layer_that_raises_is_a_failed_check(wrong, monkeypatch):
    model = forge(stack(layers.Conv2D(2, 3)), "numba", layers=wrong)
    monkeypatch.setattr(Wrong, "fault", "error")
    (check,) = certify(model, layers=wrong)
    assert not check.passed
    assert "ZeroDivisionError" in check.error
    assert "no such shape" in check.error
    assert "\n" not in check.error


def test_json(installed):
    (check,) = certify(forge(stack(layers.MaxPooling2D(name="pool")), "numba"), layers=installed)
    values = json.loads(json.dumps(check.to_json(), allow_nan=False))
    assert values == {
        "layer": "pool",
        "kind": "MaxPooling2D",
        "provider": "builtin/max_pooling2d",
        "input_shape": [2, *SHAPE],
        "dtype": "float32",
        "error": "",
        "passed": True,
        "results": [
            {
                "tensor": name,
                "terms": terms,
                "max_error": 0.0,
                "allowed": pytest.approx(4 * 2**-23 * size, rel=0.5),
                "ok": True,
            }
            for name, terms, size in (("outputs", 4, 4), ("grad_inputs", 1, 1))
        ],
    }


class Bell(layers.Layer):
    """A formula of several operations for each element, each of which is rounded."""

    def call(self, inputs):
        return inputs * keras.ops.exp(-keras.ops.square(1.7 * inputs))


class OtherBell(Bell):
    """The same with operations in another order, so rounded differently."""

    def call(self, inputs):
        return inputs * keras.ops.exp(-1.7 * (1.7 * inputs) * inputs)


def test_a_formula_is_rounded_more_than_once():
    spec = subject_spec(OtherBell, Bell)
    checked = certify_layer(Workload(spec, OtherBell, Bell, {}, (8, 28, 28, 8)))
    assert checked.passed, checked
    assert {it.terms for it in checked.results} == {4}


def test_near_ties_behind_a_pool_are_no_error(installed):
    """Rounding decides the position of some maxima; both answers are right."""
    seed = 31  # one of those whose random numbers have such a window
    keras.utils.set_random_seed(seed)
    model = forge(
        keras.Sequential(
            [
                keras.Input((32, 32, 64)),
                layers.Conv2D(64, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(),
            ]
        ),
        "numba",
    )
    (check,) = certify(model, layers=installed, batch=16, seed=seed)
    assert check.kind == "Conv2D+MaxPooling2D"
    assert check.passed


def test_values_near_a_bend_are_no_error():
    """Of many values, some are so close to 0 that a finite difference is not the slope there."""

    def oracle(layer, inputs):
        return np.maximum(inputs, 0.25 * inputs)

    layer, shape = layers.LeakyReLU(0.25), (2, 64, 64, 64)
    layer.build(shape)
    for seed in (4, 5):  # With these seeds, the finite differences of some values are wrong.
        for name, _, error, allowed in compare_with_oracle(layer, oracle, shape, seed):
            assert error <= allowed, name


@pytest.mark.parametrize(
    ("shape", "checked"), [((6, 5, 3), (2, 6, 5, 3)), ((2, 3, 4), (6, 2, 3, 4)), ((5,), (32, 5))]
)
@pytest.mark.parametrize("options", [{}, {"scale": False, "momentum": 0.0}], ids=str)
def test_batch_normalization(installed, shape, checked, options):
    """Outputs and moving averages in training, for enough values that they differ."""
    layer = layers.BatchNormalization(**options)
    model = forge(stack(layer, shape=shape), "numba")
    for seed in range(5):
        (check,) = certify(model, layers=installed, seed=seed)
        assert check.passed, check
        assert check.input_shape == checked
        averages = ["moving_mean", "moving_variance"]
        gradients = [f"grad_{it.name}" for it in layer.trainable_weights]
        names = [it.tensor for it in check.results]
        assert names == ["outputs", "grad_inputs", *gradients, *averages]
        assert {it.terms for it in check.results} == {np.prod(checked[:-1])}
        assert all(it.allowed > 0 for it in check.results)
    assert not model.layers[0].moving_mean.numpy().any()
    model.layers[0].trainable = False
    (check,) = certify(model, layers=installed)
    assert check.passed
    assert [it.tensor for it in check.results] == ["outputs", "grad_inputs"]


class OtherMomentum(layers.BatchNormalization):
    """Right in every step; what it predicts with is not."""

    def call(self, inputs, training=None, mask=None):
        if training:
            self.momentum = 0.999
        return super().call(inputs, training=training, mask=mask)


def test_what_is_remembered_wrong_is_caught(monkeypatch):
    monkeypatch.setitem(sys.modules, "acme_wrong", sys.modules[__name__])
    known = Registry(LayerSpec)
    reference = "keras.layers:BatchNormalization"
    target = "acme_wrong:OtherMomentum"
    known.add("acme", [LayerSpec(name="norm", target=target, summary="", reference=reference)])
    (check,) = certify(stack(OtherMomentum()), layers=known)
    assert not check.passed
    failed = [it.tensor for it in check.results if not it.ok]
    assert failed == ["moving_mean", "moving_variance"]


@pytest.mark.parametrize("kind", [OtherDropout, NoDropout])
def test_what_is_wrong_only_in_training_is_caught(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "acme_wrong", sys.modules[__name__])
    known, name = Registry(LayerSpec), kind.__name__
    spec = LayerSpec(
        name="drop", target=f"acme_wrong:{name}", summary="", reference="keras.layers:Dropout"
    )
    known.add("acme", [spec])
    (check,) = certify(stack(kind(0.5)), layers=known)
    assert not check.passed
    assert not check.error
