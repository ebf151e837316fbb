"""The conformance kit on a good layer, which passes, and on that layer broken in many ways."""

import keras
import numba
import numpy as np
import pytest

from cnnforge.ops import ArrayOp
from cnnforge.plugin import LayerSpec
from cnnforge.testing import LayerCase, layer_checks

FAULTS = (
    "none",
    "wrong gradient sign",
    "transposed weights",
    "unwritten edge",
    "padding off by one",
    "inputs modified",
    "bias gradient of one sample",
    "written outside",
    "gradient added to what was there",
)
CODE = {fault: code for code, fault in enumerate(FAULTS)}
SIGN, TRANSPOSED, EDGE, PADDING, MODIFIED, ONE_SAMPLE, OUTSIDE, ADDED = range(1, len(FAULTS))


@numba.njit(cache=True)
def column_mix(inputs, weights, bias, scale, fault, outputs):
    """A window of three rows, SAME padding: (N, H, W, C), (3, C, F) -> (N, H, W, F)."""
    count, rows, columns, channels = inputs.shape
    first = 0 if fault == PADDING else 1
    last = rows - 1 if fault == EDGE else rows
    for n in range(count):
        for row in range(last):
            for column in range(columns):
                for f in range(outputs.shape[3]):
                    total = np.float32(0)
                    for tap in range(3):
                        source = row + tap - first
                        if 0 <= source < rows:
                            for c in range(channels):
                                factor = weights[tap, c, f]
                                if fault == TRANSPOSED:
                                    factor = weights[tap, f, c]
                                total += inputs[n, source, column, c] * factor
                    outputs[n, row, column, f] = np.float32(scale) * total + bias[f]
    if fault == MODIFIED and count > 0:
        inputs[0, 0, 0, 0] = 0
    if fault == OUTSIDE and count > 0:
        outputs[count - 1, rows - 1, columns - 1, outputs.shape[3]] = 0


@numba.njit(cache=True)
def column_mix_backward(
    inputs, weights, scale, fault, grad_outputs, grad_inputs, grad_weights, grad_bias
):
    count, rows, columns, channels = inputs.shape
    sign = np.float32(-scale if fault == SIGN else scale)
    if fault != ADDED:
        grad_weights[:] = 0
    grad_inputs[:] = 0
    grad_bias[:] = 0
    for n in range(count):
        for row in range(rows):
            for column in range(columns):
                for f in range(grad_outputs.shape[3]):
                    gradient = grad_outputs[n, row, column, f]
                    if fault != ONE_SAMPLE or n == 0:
                        grad_bias[f] += gradient
                    for tap in range(3):
                        source = row + tap - 1
                        if 0 <= source < rows:
                            for c in range(channels):
                                grad_weights[tap, c, f] += (
                                    sign * inputs[n, source, column, c] * gradient
                                )
                                grad_inputs[n, source, column, c] += (
                                    np.float32(scale) * weights[tap, c, f] * gradient
                                )


def column_mix_shape(inputs, weights):
    return inputs[0], inputs[1], inputs[2], weights[2]


column_mix_op = ArrayOp(
    "mutants_column_mix",
    forward=column_mix,
    backward=column_mix_backward,
    inputs={"inputs": 4, "weights": 3, "bias": 1},
    outputs={"outputs": 4},
    output_shapes=column_mix_shape,
    attributes={"scale": 1.0, "fault": 0},
)


def oracle(layer, inputs, weights, bias):
    padded = np.pad(inputs, [(0, 0), (1, 1), (0, 0), (0, 0)])
    rows = inputs.shape[1]
    taps = [padded[:, tap : tap + rows] @ weights[tap] for tap in range(3)]
    return layer.scale * sum(taps) + bias


@keras.saving.register_keras_serializable("mutants")
class ColumnMix(keras.layers.Layer):
    """The good layer."""

    fault = "none"

    def __init__(self, filters, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        if filters < 1:
            raise ValueError(f"`filters` must be at least 1. Received: filters={filters}")
        self.filters, self.scale = filters, scale
        self.supports_jit = False

    def build(self, input_shape):
        self.mix = self.add_weight(shape=(3, input_shape[-1], self.filters), name="mix")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def mixed(self, inputs, weights, bias):
        arrays = [keras.ops.cast(it, "float32") for it in (inputs, weights, bias)]
        outputs = column_mix_op(*arrays, scale=float(self.scale), fault=CODE[self.fault])
        return keras.ops.cast(outputs, self.compute_dtype)

    def call(self, inputs):
        return self.mixed(inputs, self.mix, self.bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "scale": self.scale}


MUTANTS = {}


def mutant(check, *words):
    """Say which check fails for the class, and which words its message has."""

    def remember(kind):
        keras.saving.register_keras_serializable("mutants")(kind)
        MUTANTS[kind.__name__] = (kind, check, words)
        return kind

    return remember


@mutant("gradients_oracle", "the gradient of 'mix' has the opposite sign")
class WrongGradientSign(ColumnMix):
    fault = "wrong gradient sign"


@mutant("values_oracle", "it is as if 'mix' were transposed (axes 1 and 2)")
class TransposedWeights(ColumnMix):
    fault = "transposed weights"


@mutant(
    "every_element_written", "24 of 120 elements of 'outputs' were never written", "(0, 4, 0, 0)"
)
class UnwrittenEdge(ColumnMix):
    fault = "unwritten edge"


@mutant("values_oracle", "the output is shifted by one along axis 1")
class PaddingOffByOne(ColumnMix):
    fault = "padding off by one"


@mutant("every_element_written", "'column_mix' modified 'inputs'", "first at (0, 0, 0, 0)")
class OpModifiesInputs(ColumnMix):
    fault = "inputs modified"


@mutant("inputs_unchanged", "the inputs were modified by the forward pass", "first at (0, 0, 0, 0)")
class InputsModified(ColumnMix):
    fault = "inputs modified"


@mutant("gradients_oracle", "the gradient of 'bias'")
class BiasGradientOfOneSample(ColumnMix):
    fault = "bias gradient of one sample"


@mutant("every_element_written", "'column_mix' writes outside of 'outputs'")
class WritesOutside(ColumnMix):
    fault = "written outside"


@mutant("every_element_written", "'grad_weights'", "added to before", "'column_mix_backward'")
class AddsToWhatWasThere(ColumnMix):
    fault = "gradient added to what was there"


@mutant("config_round_trip", "get_config() has no 'scale'")
class MissingConfigKey(ColumnMix):
    def get_config(self):
        return {key: value for key, value in super().get_config().items() if key != "scale"}


@mutant("config_round_trip", "something that it was made with is not in get_config()")
class ConfigOfTheDefault(ColumnMix):
    def get_config(self):
        return {**super().get_config(), "scale": 1.0}


@mutant("no_state", "state is kept between calls", "the outputs")
class KeepsState(ColumnMix):
    largest = 0.0

    def call(self, inputs):
        self.largest = max(self.largest, float(keras.ops.max(inputs)))
        return super().call(inputs) + self.largest


@mutant("no_state", "something made of the old weights is kept")
class KeepsWeights(ColumnMix):
    kept = None

    def mixed(self, inputs, weights, bias):
        if self.kept is None:
            self.kept = keras.ops.copy(keras.ops.convert_to_tensor(bias))
        return super().mixed(inputs, weights, self.kept)


@mutant("determinism", "not deterministic", "the outputs")
class NotDeterministic(ColumnMix):
    def call(self, inputs):
        outputs = super().call(inputs)
        return outputs + 1e-6 * np.random.default_rng().standard_normal()


@mutant("precision", "'mixed_float16' the outputs have the wrong dtype: float32, expected float16")
class WrongDtype(ColumnMix):
    def call(self, inputs):
        return keras.ops.cast(super().call(inputs), "float32")


@mutant("precision", "cast its inputs to float32 and its outputs back")
class Float32Only(ColumnMix):
    def mixed(self, inputs, weights, bias):
        return column_mix_op(inputs, weights, bias, scale=float(self.scale))


@mutant("batch_sizes", "a batch of 3 fails")
class HardCodedBatch(ColumnMix):
    def call(self, inputs):
        outputs = super().call(inputs)
        return keras.ops.reshape(outputs, (2, *outputs.shape[1:]))


@mutant("batch_sizes", "samples affect each other")
class SamplesReachEachOther(ColumnMix):
    def call(self, inputs):
        return super().call(inputs) - keras.ops.mean(inputs)


@mutant("gradients_oracle", "the gradient of 'bias' is missing (None)")
class MissingGradient(ColumnMix):
    def mixed(self, inputs, weights, bias):
        return super().mixed(inputs, weights, keras.ops.stop_gradient(bias))


@mutant("training_step", "the weight 'bias' did not change")
class UntrainedWeight(MissingGradient):
    pass


@mutant("output_shape", "compute_output_shape((2, 5, 4, 3)) is (2, 4, 4, 3)")
class WrongOutputShape(ColumnMix):
    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] - 1, *input_shape[2:-1], self.filters)


@mutant("eager_equals_graph", "works eagerly and fails in a graph", "tensors have no values yet")
class EagerOnly(ColumnMix):
    def call(self, inputs):
        return super().call(inputs) * float(inputs.numpy().size > 0)


@mutant("bad_arguments", "filters=0 is accepted")
class AcceptsAnything(ColumnMix):
    def __init__(self, filters, scale=1.0, **kwargs):
        super().__init__(max(filters, 1), scale, **kwargs)


@mutant("bad_arguments", "a message that does not name both", "nonsense")
class SaysNothing(ColumnMix):
    def __init__(self, filters, scale=1.0, **kwargs):
        if filters < 1:
            raise ValueError("nonsense")
        super().__init__(filters, scale, **kwargs)


class Unregistered(ColumnMix):
    """Keras does not know its name."""


MUTANTS["Unregistered"] = (
    Unregistered,
    "registration",
    ("Unregistered is not registered with Keras", "register_keras_serializable"),
)


@mutant("save_and_load", "opened in a fresh process", "it cannot be opened", "unbuildable")
class Unbuildable(ColumnMix):
    def build_from_config(self, config):
        raise RuntimeError("unbuildable")


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
CASES = [
    LayerCase(
        arguments={"filters": 3, "scale": 0.5},
        input_shape=(2, 5, 4, 3),
        oracle=oracle,
        bad_arguments={"filters": 0},
    )
]


@pytest.mark.parametrize("check", layer_checks(ColumnMix, CASES, speed=True), ids=str)
def test_the_good_layer_passes(check):
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name):
    kind, wanted, words = MUTANTS[name]
    (check,) = [it for it in layer_checks(kind, CASES) if it.kind == wanted]
    with pytest.raises(AssertionError) as caught:
        check()
    for word in words:
        assert word in str(caught.value)


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
        check(WrongGradientSign)
    with pytest.raises(AssertionError, match=r"'bias' is missing \(None\)"):
        check(MissingGradient)


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
