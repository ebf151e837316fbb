"""A pair of another plugin that one layer computes: what its author writes, and its checks."""

import sys

import keras
import numba
import numpy as np
import pytest

from cnnforge.conversion import PREVIOUS, forge, implementations, lower
from cnnforge.conversion.certificate import certify
from cnnforge.ops import ArrayOp
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.testing import LayerCase, assert_close, layer_checks

register = keras.saving.register_keras_serializable("acme_pairs")


@numba.njit
def positive(inputs, outputs):
    outputs[:] = np.maximum(inputs, np.float32(0))


@numba.njit
def positive_backward(outputs, grad_outputs, grad_inputs):
    for i in range(outputs.size):
        grad_inputs.flat[i] = grad_outputs.flat[i] if outputs.flat[i] > 0 else 0


@numba.njit
def scaled(inputs, factor, outputs):
    outputs[:] = np.float32(factor) * np.maximum(inputs, np.float32(0))


@numba.njit
def scaled_backward(inputs, factor, grad_outputs, grad_inputs):
    for i in range(inputs.size):
        grad_inputs.flat[i] = factor * grad_outputs.flat[i] if inputs.flat[i] > 0 else 0


arrays = {
    "inputs": {"inputs": 4},
    "outputs": {"outputs": 4},
    "output_shapes": lambda inputs: inputs,
}
positive_op = ArrayOp("acme_positive", forward=positive, backward=positive_backward, **arrays)
scaled_op = ArrayOp(
    "acme_scaled", forward=scaled, backward=scaled_backward, attributes={"factor": 1.0}, **arrays
)


@register
class ReLU(keras.layers.ReLU):
    def call(self, inputs):
        return positive_op(inputs)


@register
class ScaleAfterReLU(keras.layers.Rescaling):
    wrong = 1.0

    def call(self, inputs):
        found = positive_op.call_of(inputs)
        if found is None:
            return super().call(inputs)
        return scaled_op(*found[0], factor=self.scale * self.wrong)


class _Both(keras.layers.Layer):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}

    def compute_output_shape(self, input_shape):
        return input_shape


@register
class StockScaledReLU(_Both):
    def call(self, inputs):
        return keras.ops.relu(inputs) * self.scale


@register
class ScaledReLU(_Both):
    def call(self, inputs):
        return scaled_op(inputs, factor=self.scale)

    @classmethod
    def fuse(cls, relu, rescaling):
        if rescaling.offset or relu.max_value is not None:
            return None
        return cls(rescaling.scale, name=relu.name)

    def split(self):
        return keras.layers.ReLU(name=self.name), keras.layers.Rescaling(self.scale)


CASES = [
    LayerCase(
        arguments={"scale": 0.5},
        input_shape=(2, 3, 4, 5),
        oracle=lambda layer, x: np.maximum(x, 0) * layer.scale,
    )
]
SPEC = LayerSpec(
    name="scaled_relu",
    target="acme_pairs:ScaledReLU",
    summary="ReLU and a factor",
    reference="acme_pairs:StockScaledReLU",
    fuses=("keras.layers:ReLU", "keras.layers:Rescaling"),
    places=("acme_pairs:ReLU", "acme_pairs:ScaleAfterReLU"),
    cases="acme_pairs:CASES",
)


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(sys.modules, "acme_pairs", sys.modules[__name__])
    found = Registry(LayerSpec)
    found.add("acme", [SPEC])
    return found


def model():
    return keras.Sequential(
        [
            keras.Input((3, 4, 2)),
            keras.layers.ReLU(name="on"),
            keras.layers.Rescaling(0.5, name="scale"),
            keras.layers.ReLU(6.0, name="six"),
            keras.layers.Rescaling(2.0, name="double"),
        ]
    )


def test_forge_and_lower(known):
    forged = forge(model(), "numba", layers=known)
    kinds = [type(it) for it in forged.layers]
    assert kinds == [ReLU, ScaleAfterReLU, keras.layers.ReLU, keras.layers.Rescaling]
    rows = [(it.layer, it.kind, it.provider) for it in implementations(forged, layers=known)]
    assert rows[:2] == [
        ("on", "ReLU", "acme/scaled_relu"),
        ("scale", "Rescaling", PREVIOUS),
    ]
    assert forge(forged, "numba", layers=known) is forged
    (check,) = certify(forged, layers=known)
    assert check.passed
    assert (check.layer, check.kind) == ("on", "ReLU+Rescaling")
    inputs = np.random.default_rng(0).standard_normal((2, 3, 4, 2)).astype(np.float32)
    expected = model()(inputs)
    for got in (forged(inputs), forged.predict(inputs, verbose=0)):
        assert_close(got, expected, 4)
    lowered = lower(forged, layers=known)
    assert [type(it) for it in lowered.layers] == [type(it) for it in model().layers]
    np.testing.assert_array_equal(lowered(inputs), expected)


def failed(check):
    try:
        check()
    except AssertionError as error:
        return str(error)
    return ""


def test_the_checks_pass_and_find_a_pair_that_is_wrong_in_a_graph(known, monkeypatch):
    def conversion():
        (check,) = [check for check in layer_checks(SPEC) if check.kind == "forge_and_lower"]
        return failed(check)

    assert conversion() == ""
    monkeypatch.setattr(ScaleAfterReLU, "wrong", 1.01)
    assert "the output in a graph" in conversion()


@pytest.mark.parametrize("missing", ["fuses", "places"])
def test_a_spec_needs_both(missing):
    pair = {"fuses": SPEC.fuses, "places": SPEC.places, missing: None}
    with pytest.raises(ValueError, match="give both of them, or none"):
        LayerSpec(name="pair", target="acme:Pair", summary="", **pair)


@register
class Edges(keras.layers.Conv2D):
    """The stock layer under another name."""


def test_the_checks_name_a_class_that_weight_files_do_not_fit():
    case = LayerCase(arguments={"filters": 2, "kernel_size": 3}, input_shape=(2, 5, 6, 3))
    checks = layer_checks(Edges, [case], reference=keras.layers.Conv2D)
    (conversion,) = (check for check in checks if "forge_and_lower" in str(check))
    assert "name the class Conv2D" in conversion()
