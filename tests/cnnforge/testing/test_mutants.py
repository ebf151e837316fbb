"""The conformance kit on a good layer, which passes, and on that layer broken in many ways."""

import keras
import numba
import pytest
from halved_layer import Halved
from mutant_layers import CASES, MUTANTS, PARALLEL_CASES, ColumnMix, Scaled
from repeat_mutants import TIME_LIMIT, failures, fault

from cnnforge.ops.audit import traces
from cnnforge.plugin import LayerSpec
from cnnforge.testing import LayerCase, layer_checks


class Convolution(keras.layers.Conv2D):
    """Stands for a layer of Keras'."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, keras.ops.flip(kernel, (0, 1)))


@keras.ops.custom_gradient
def doubled_gradient(inputs):
    return inputs, lambda upstream: 2 * upstream


class Skewed(keras.layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, doubled_gradient(kernel))


class OtherWeights(keras.layers.Conv2D):
    def build(self, input_shape):
        super().build(input_shape)
        self.extra = self.add_weight(shape=())


class ForgetsHalf(keras.layers.BatchNormalization):
    """As good a layer for predictions; what it learns of batches is wrong."""

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        if training:
            self.moving_mean.assign(self.moving_mean * 0.5)
        return outputs


class SmallVariance(keras.layers.BatchNormalization):
    """Divides by one less than the number of rows, in training only."""

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        rows = keras.ops.size(inputs) // inputs.shape[-1]
        rows = keras.ops.cast(rows, "float32")
        return outputs * keras.ops.sqrt((rows - 1) / rows) if training else outputs


CONVOLUTION = [LayerCase(arguments={"filters": 3, "kernel_size": 3}, input_shape=(2, 6, 5, 3))]
BESIDE_KERAS = {
    "values_reference": (Convolution, "it is as if 'kernel' were reversed along axes 0 and 1"),
    "gradients_reference": (Skewed, "the gradient of 'kernel' is 2 times what it should be"),
    "forge_and_lower": (OtherWeights, "the layer has 3 weights, its reference 2"),
}


@pytest.mark.parametrize("check", layer_checks(ColumnMix, CASES, speed=True), ids=str)
def test_the_good_layer_passes(check):
    check()


@pytest.mark.parametrize(
    "check",
    [it for it in layer_checks(Scaled, PARALLEL_CASES) if it.kind != "save_and_load"],
    ids=str,
)
def test_the_good_parallel_layer_passes(check):
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name, monkeypatch):
    mutant = MUTANTS[name]
    if name == "WrongInTheSecondThread" and numba.get_num_threads() == 1:
        pytest.skip("there is one thread")
    if name.startswith("NeverEnds"):
        monkeypatch.setattr(traces, "TIME_LIMIT", TIME_LIMIT)
    assert fault(mutant, failures(mutant)) is None


def test_there_are_enough_mutants():
    assert len(MUTANTS) >= 40


@pytest.mark.parametrize("wanted", BESIDE_KERAS)
def test_a_mutant_beside_its_reference_is_caught(wanted):
    kind, words = BESIDE_KERAS[wanted]
    checks = layer_checks(kind, CONVOLUTION, reference=keras.layers.Conv2D)
    (check,) = [it for it in checks if it.kind == wanted]
    with pytest.raises(AssertionError) as caught:
        check()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (ForgetsHalf, "what training=True leaves in 'moving_mean' is 0.5 times what it should be"),
        (SmallVariance, "with training=True the output is 0.99"),
    ],
)
def test_what_is_wrong_only_in_training_is_caught(kind, words):
    cases = [LayerCase(arguments={}, input_shape=(3, 5, 4, 6), terms=4)]
    checks = layer_checks(kind, cases, reference=keras.layers.BatchNormalization)
    for check in checks:
        if check.kind in ("values_reference", "gradients_reference", "training_step"):
            check()
    (check,) = [it for it in checks if it.kind == "training_reference"]
    with pytest.raises(AssertionError, match="training=True") as caught:
        check()
    assert words in str(caught.value)


def test_gradients_without_oracle_and_reference():
    (case,) = CASES
    cases = [LayerCase(arguments=case.arguments, input_shape=case.input_shape)]

    def check(kind):
        (found,) = [it for it in layer_checks(kind, cases) if it.kind.startswith("gradients")]
        return found()

    assert "to 5 % only" in check(ColumnMix)
    with pytest.raises(AssertionError, match="'mix' has the opposite sign"):
        check(MUTANTS["WrongGradientSign"].kind)
    with pytest.raises(AssertionError, match=r"'bias' is missing \(None\)"):
        check(MUTANTS["MissingGradient"].kind)


def test_sizes_that_an_oracle_refuses_are_named():
    def oracle(layer, inputs):
        if inputs.shape[1] == 2 or inputs.shape[0] == 3:
            raise ValueError
        return inputs / 2

    cases = [LayerCase(arguments={}, input_shape=(2, 3, 4, 1), oracle=oracle)]
    for check in layer_checks(Halved, cases):
        if check.kind in ("values_oracle", "gradients_oracle"):
            sizes = "(2, 2, 2, 1), (3, 4, 5, 1)"
            note = f"not at {sizes}: the oracle refuses inputs of this size"
            assert check.alone() == ("ok", note)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "no_such_module:Layer"}, "No module named 'no_such_module'"),
        ({"target": "collections:NoSuchLayer"}, "NoSuchLayer"),
        ({"target": "collections:Counter"}, "expected a subclass of keras.Layer"),
        ({"reference": "keras.layers:NoSuchLayer"}, "NoSuchLayer"),
        ({"cases": "collections:NO_CASES"}, "NO_CASES"),
        ({"cases": None}, "names no cases"),
        ({"benchmarks": "collections:NO_BENCHMARKS"}, "NO_BENCHMARKS"),
        ({"work": "math:pi"}, "expected a function"),
        ({"torch": "math:no_such_peer"}, "no_such_peer"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(sorted(value.items())),
)
def test_an_unresolved_target_is_caught(change, words):
    good = {"target": "keras.layers:Dense", "cases": "cnnforge_test_cases:CASES"}
    spec = LayerSpec(name="mutant", summary="", **{**good, **change})
    checks = list(layer_checks(spec, CASES if "cases" not in change else None))
    assert str(checks[0]) == "targets"
    with pytest.raises(AssertionError) as caught:
        checks[0]()
    assert words in str(caught.value)
