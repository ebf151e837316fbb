"""A good layer, and that layer broken in many ways: each must be caught, and its cause named.

`MUTANTS` holds, for each broken class, the check that must fail first, words of its message, and
the checks that may fail besides, because what they say is true as well.
"""

import sys
from dataclasses import dataclass, field

import keras
import numba
import numpy as np

from cnnforge.ops import ArrayOp
from cnnforge.testing import LayerCase

FAULTS = (
    "none",
    "wrong gradient sign",
    "transposed weights",
    "unwritten edge",
    "padding off by one",
    "inputs modified",
    "bias gradient of one sample",
    "written after the end",
    "gradient added to what was there",
    "written before the front",
    "written after the end of a row",
    "read before the front",
    "read after the end",
    "read after the end of a row",
    "negative row",
    "odd columns",
    "batch of one",
    "one row",
    "gradient written after the end",
    "gradient read before the front",
    "gradient written after the end of a row",
    "never ends",
    "100 GB",
    "raises",
    "prints",
    "not a number",
    "gradient of odd columns",
    "gradient of a batch of one",
    "never ends, without arrays",
)
CODE = {fault: code for code, fault in enumerate(FAULTS)}
SIGN, TRANSPOSED, EDGE, PADDING, MODIFIED, ONE_SAMPLE, END, ADDED = range(1, 9)
FRONT, ROW_END, READ_FRONT, READ_END, READ_ROW_END, NEGATIVE, ODD, ONE, ONE_ROW = range(9, 18)
GRAD_END, GRAD_FRONT, GRAD_ROW_END, ENDLESS, HUGE, RAISES, PRINTS = range(18, 25)
NAN, GRAD_ODD, GRAD_ONE, SPINS = range(25, 29)


@numba.njit(cache=True)
def column_mix(inputs, weights, bias, scale, fault, outputs):
    """A window of three rows, SAME padding: (N, H, W, C), (3, C, F) -> (N, H, W, F)."""
    count, rows, columns, channels = inputs.shape
    first = 0 if fault == PADDING else 1
    last = rows - 1 if fault == EDGE else rows
    wrong = np.float32(0)
    if fault == ODD and columns % 2 == 1 and columns > 1:
        wrong = np.float32(1)
    if fault == ONE and count == 1:
        wrong = np.float32(1)
    if fault == ONE_ROW and rows == 1:
        wrong = np.float32(1)
    if fault == NAN and count > 1 and inputs[1, 0, 0, 0] != 0:
        wrong = np.float32(np.nan)
    for n in range(count):
        for row in range(last):
            for column in range(columns):
                for f in range(outputs.shape[3]):
                    total = wrong
                    for tap in range(3):
                        source = row + tap - first
                        if 0 <= source < rows or (fault == NEGATIVE and source < rows):
                            for c in range(channels):
                                factor = weights[tap, c, f]
                                if fault == TRANSPOSED:
                                    factor = weights[tap, f, c]
                                total += inputs[n, source, column, c] * factor
                    outputs[n, row, column, f] = np.float32(scale) * total + bias[f]
    if count > 0:
        if fault == MODIFIED:
            inputs[0, 0, 0, 0] = 0
        if fault == END:
            outputs[count, 0, 0, 0] = 0
        if fault == FRONT:
            outputs[-count - 1, 0, 0, 0] = 0
        if fault == ROW_END:
            outputs[0, 0, columns, 0] = outputs[0, 0, 0, 0]
        zero = np.float32(0)
        if fault == READ_FRONT:
            outputs[0, 0, 0, 0] += zero * inputs[0, -rows - 1, 0, 0]
        if fault == READ_END:
            outputs[0, 0, 0, 0] += zero * inputs[count, 0, 0, 0]
        if fault == READ_ROW_END:
            outputs[0, 0, 0, 0] += zero * inputs[0, 0, columns, 0]


@numba.njit(cache=True)
def column_mix_backward(
    inputs, weights, scale, fault, grad_outputs, grad_inputs, grad_weights, grad_bias
):
    count, rows, columns, channels = inputs.shape
    sign = np.float32(-scale if fault == SIGN else scale)
    if fault == GRAD_ODD and columns % 2 == 1 and columns > 1:
        sign = np.float32(2 * scale)
    if fault == GRAD_ONE and count == 1:
        sign = np.float32(2 * scale)
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
    if count > 0:
        if fault == GRAD_END:
            grad_bias[grad_bias.shape[0]] = 0
        if fault == GRAD_FRONT:
            grad_bias[0] += np.float32(0) * inputs[-count - 1, 0, 0, 0]
        if fault == GRAD_ROW_END:
            grad_inputs[0, 0, columns, 0] += np.float32(0)
        if fault == ENDLESS:
            while grad_bias[0] < 1e30:
                grad_bias[0] += np.float32(1e-30)
        if fault == SPINS:
            while count > 0:
                rows = (rows + 1) % 7
        if fault == HUGE:
            grad_bias[0] += np.empty(100 * 2**40, np.uint8)[0]
        if fault == RAISES:
            raise ZeroDivisionError("nothing to divide by")
        if fault == PRINTS:
            print("here", count)


def column_mix_shape(inputs, weights):
    return inputs[0], inputs[1], inputs[2], weights[2]


def one_row_less(inputs, weights):
    return inputs[0], inputs[1] - 1, inputs[2], weights[2]


def one_row_more(inputs, weights):
    return inputs[0], inputs[1] + 1, inputs[2], weights[2]


def one_less_if_odd(inputs, weights):
    return inputs[0], inputs[1], inputs[2] // 2 * 2 if inputs[2] > 4 else inputs[2], weights[2]


# Numba cannot load functions that call themselves from its disk cache.
@numba.njit
def dive(values, depth):
    if values[depth % 2] > 1e30:
        return depth
    return dive(values, depth + 1) + 1


@numba.njit
def deep_backward(inputs, weights, grad_outputs, grad_inputs, grad_weights, grad_bias):
    grad_bias[0] = dive(np.zeros(2), 0)


@numba.njit
def exits_backward(inputs, weights, grad_outputs, grad_inputs, grad_weights, grad_bias):
    with numba.objmode():
        sys.exit("enough")


def make_op(name, rule=column_mix_shape, backward=column_mix_backward):
    return ArrayOp(
        name,
        forward=column_mix,
        backward=backward,
        inputs={"inputs": 4, "weights": 3, "bias": 1},
        outputs={"outputs": 4},
        output_shapes=rule,
        attributes={"scale": 1.0, "fault": 0},
    )


column_mix_op = make_op("mutants_column_mix")


def oracle(layer, inputs, weights, bias, *others):
    padded = np.pad(inputs, [(0, 0), (1, 1), (0, 0), (0, 0)])
    rows = inputs.shape[1]
    taps = [padded[:, tap : tap + rows] @ weights[tap] for tap in range(3)]
    return layer.scale * sum(taps) + bias


@keras.saving.register_keras_serializable("mutants")
class ColumnMix(keras.layers.Layer):
    """The good layer."""

    fault = "none"
    op = column_mix_op

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
        outputs = self.op(*arrays, scale=float(self.scale), fault=CODE[self.fault])
        return keras.ops.cast(outputs, self.compute_dtype)

    def call(self, inputs):
        return self.mixed(inputs, self.mix, self.bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "scale": self.scale}


@dataclass
class Mutant:
    """A broken layer, and what must be said about it."""

    kind: type
    check: str
    words: tuple[str, ...]
    besides: tuple[str, ...] = ()
    cases: list = field(default_factory=lambda: CASES)
    reference: type | None = None


MUTANTS: dict[str, Mutant] = {}


def mutant(check, *words, besides=(), **options):
    """Say which check fails first for the class, and which words its message has."""

    def remember(kind):
        keras.saving.register_keras_serializable("mutants")(kind)
        MUTANTS[kind.__name__] = Mutant(kind, check, words, besides, **options)
        return kind

    return remember


def of_fault(name, fault, check, *words, besides=()):
    """Add the layer whose functions have the fault."""
    kind = type(name, (ColumnMix,), {"fault": fault, "__module__": __name__})
    globals()[name] = mutant(check, *words, besides=besides)(kind)


CASES = [
    LayerCase(
        arguments={"filters": 3, "scale": 0.5},
        input_shape=(2, 5, 4, 3),
        oracle=oracle,
        bad_arguments={"filters": 0},
    )
]

of_fault(
    "WrongGradientSign",
    "wrong gradient sign",
    "gradients_oracle",
    "the gradient of 'mix' has the opposite sign",
)
of_fault(
    "TransposedWeights",
    "transposed weights",
    "values_oracle",
    "it is as if 'mix' were transposed (axes 1 and 2)",
)
of_fault(
    "UnwrittenEdge",
    "unwritten edge",
    "every_element_written",
    "24 of 120 elements of 'outputs' were never written",
    "(0, 4, 0, 0)",
)
of_fault(
    "PaddingOffByOne",
    "padding off by one",
    "values_oracle",
    "the output is shifted by one along axis 1",
)
of_fault(
    "OpModifiesInputs",
    "inputs modified",
    "every_element_written",
    "'column_mix' modified 'inputs'",
    "first at (0, 0, 0, 0)",
)
of_fault(
    "BiasGradientOfOneSample",
    "bias gradient of one sample",
    "gradients_oracle",
    "the gradient of 'bias'",
)
of_fault(
    "AddsToWhatWasThere",
    "gradient added to what was there",
    "every_element_written",
    "'grad_weights'",
    "added to before",
    "'column_mix_backward'",
)
of_fault(
    "WritesAfterTheEnd",
    "written after the end",
    "index_in_range",
    "'column_mix'",
    "index 2 is outside of axis 0 of 'outputs'",
    "size 2",
    "outputs[count, 0, 0, 0] = 0",
)
of_fault(
    "WritesBeforeTheFront",
    "written before the front",
    "index_in_range",
    "'column_mix'",
    "index -3 is outside of axis 0 of 'outputs'",
)
of_fault(
    "WritesAfterARow",
    "written after the end of a row",
    "index_in_range",
    "'column_mix'",
    "index 4 is outside of axis 2 of 'outputs'",
)
of_fault(
    "ReadsBeforeTheFront",
    "read before the front",
    "index_in_range",
    "'column_mix'",
    "index -6 is outside of axis 1 of 'inputs'",
)
of_fault(
    "ReadsAfterTheEnd",
    "read after the end",
    "index_in_range",
    "'column_mix'",
    "index 2 is outside of axis 0 of 'inputs'",
)
of_fault(
    "ReadsAfterARow",
    "read after the end of a row",
    "index_in_range",
    "'column_mix'",
    "index 4 is outside of axis 2 of 'inputs'",
)
of_fault(
    "GradientAfterTheEnd",
    "gradient written after the end",
    "index_in_range",
    "'column_mix_backward'",
    "index 3 is outside of axis 0 of 'grad_bias'",
)
of_fault(
    "GradientReadsBeforeTheFront",
    "gradient read before the front",
    "index_in_range",
    "'column_mix_backward'",
    "index -3 is outside of axis 0 of 'inputs'",
)
of_fault(
    "GradientAfterARow",
    "gradient written after the end of a row",
    "index_in_range",
    "'column_mix_backward'",
    "index 4 is outside of axis 2 of 'grad_inputs'",
)
of_fault(
    "NegativeRow",
    "negative row",
    "values_oracle",
    "the negative index -1 of axis 1 of 'inputs' means 4",
    "'column_mix'",
)
of_fault(
    "WrongForOddColumns",
    "odd columns",
    "values_oracle",
    "for inputs of the shape (3, 6, 5, 3): the output",
)
of_fault(
    "WrongForABatchOfOne",
    "batch of one",
    "values_oracle",
    "for inputs of the shape (1, 5, 4, 3): the output",
)
of_fault(
    "WrongForOneRow",
    "one row",
    "values_oracle",
    "for inputs of the shape (2, 1, 1, 3): the output",
)
of_fault(
    "WrongGradientForOddColumns",
    "gradient of odd columns",
    "gradients_oracle",
    "for inputs of the shape (3, 6, 5, 3): the gradient of 'mix'",
)
of_fault(
    "WrongGradientForABatchOfOne",
    "gradient of a batch of one",
    "gradients_oracle",
    "for inputs of the shape (1, 5, 4, 3): the gradient of 'mix'",
)
of_fault("NotANumber", "not a number", "values_oracle", "values are not finite")
of_fault(
    "NeverEnds",
    "never ends",
    "runs",
    "the backward function 'column_mix_backward'",
    "has not ended after",
    "a loop without end",
)
of_fault(
    "NeverEndsWithoutArrays",
    "never ends, without arrays",
    "runs",
    "the backward function 'column_mix_backward'",
    "has not ended after",
    "a loop without end",
)
of_fault("AllocatesTooMuch", "100 GB", "runs", "'column_mix_backward'", "more memory than is left")
of_fault(
    "Raises",
    "raises",
    "runs",
    "ZeroDivisionError",
    "nothing to divide by",
    "column_mix_backward",
)
of_fault("Prints", "prints", "prints", "prints to stdout", "'here 2'")


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
        return self.op(inputs, weights, bias, scale=float(self.scale))


@mutant("output_shape", "for inputs of the shape (1, 5, 4, 3): the layer fails")
class HardCodedBatch(ColumnMix):
    def call(self, inputs):
        outputs = super().call(inputs)
        return keras.ops.reshape(outputs, (2, *outputs.shape[1:]))


@mutant("values_oracle", "sample 0 changes with the other samples: samples affect each other")
class SamplesReachEachOther(ColumnMix):
    def call(self, inputs):
        return super().call(inputs) - keras.ops.mean(inputs)


@mutant("gradients_oracle", "the gradient of 'bias' is missing (None)")
class MissingGradient(ColumnMix):
    def mixed(self, inputs, weights, bias):
        return super().mixed(inputs, weights, keras.ops.stop_gradient(bias))


@mutant("training_step", "the weight 'spare' did not change")
class UntrainedWeight(ColumnMix):
    def build(self, input_shape):
        super().build(input_shape)
        self.spare = self.add_weight(shape=(2,), name="spare")


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


MUTANTS["Unregistered"] = Mutant(
    Unregistered,
    "registration",
    ("Unregistered is not registered with Keras", "register_keras_serializable"),
)


@mutant("save_and_load", "opened in a fresh process", "it cannot be opened", "unbuildable")
class Unbuildable(ColumnMix):
    def build_from_config(self, config):
        raise RuntimeError("unbuildable")


@mutant("inputs_unchanged", "the weight 'bias' was modified by the forward pass")
class ChangesAWeight(ColumnMix):
    def call(self, inputs):
        self.bias.assign(self.bias + 1)
        return super().call(inputs) - self.bias + keras.ops.stop_gradient(self.bias)


@mutant(
    "output_shape",
    "the outputs have the shape (2, 4, 4, 3), those of the oracle (2, 5, 4, 3)",
    "the shape rule of the op is wrong",
)
class RuleOfOneRowLess(ColumnMix):
    op = make_op("mutants_one_row_less", one_row_less)

    def compute_output_shape(self, input_shape):
        return self.op.output_shape(input_shape, (3, input_shape[-1], self.filters))


@mutant(
    "output_shape",
    "the outputs have the shape (2, 6, 4, 3), those of the oracle (2, 5, 4, 3)",
)
class RuleOfOneRowMore(ColumnMix):
    op = make_op("mutants_one_row_more", one_row_more)

    def compute_output_shape(self, input_shape):
        return self.op.output_shape(input_shape, (3, input_shape[-1], self.filters))


@mutant(
    "output_shape",
    "for inputs of the shape (3, 6, 5, 3) the outputs have the shape (3, 6, 4, 3)",
)
class RuleWrongForOddColumns(ColumnMix):
    op = make_op("mutants_one_less_if_odd", one_less_if_odd)

    def compute_output_shape(self, input_shape):
        return self.op.output_shape(input_shape, (3, input_shape[-1], self.filters))


@mutant("output_shape", "compute_output_shape((3, 6, 5, 3)) is (3, 6, 4, 3)", "op.output_shape")
class OutputShapeWrongForOddColumns(ColumnMix):
    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], input_shape[2] // 2 * 2 or 1, self.filters)


@mutant(
    "output_shape",
    "fails on keras.Input for the shape (None, None, None, 3)",
    "TypeError",
    "op.output_shape",
)
class NoUnknownSizes(ColumnMix):
    def compute_output_shape(self, input_shape):
        return (input_shape[0], -(-input_shape[1] // 1), input_shape[2], self.filters)


@mutant(
    "index_in_range",
    "index 4 is outside of axis 1 of 'outputs', which has the size 4",
    "the shape rule 'one_row_less' gave the shape (2, 4, 4, 3)",
    cases=[LayerCase(arguments={"filters": 3}, input_shape=(2, 5, 4, 3))],
)
class RuleOfOneRowLessWithoutOracle(RuleOfOneRowLess):
    op = make_op("mutants_one_row_less_too", one_row_less)


@mutant(
    "builds",
    "the layer cannot be called with inputs of the shape",
    "ends the program by sys.exit()",
)
class EndsTheProgram(ColumnMix):
    def call(self, inputs):
        sys.exit("enough")


@mutant("runs", "the backward function 'deep_backward'", "calls itself without end")
class CallsItself(ColumnMix):
    op = make_op("mutants_deep", backward=deep_backward)


@mutant("runs", "the layer cannot run: it ends the program by sys.exit()")
class EndsTheProgramInItsGradient(ColumnMix):
    op = make_op("mutants_exits", backward=exits_backward)


@mutant("builds", "the layer cannot be called", "RecursionError")
class CallsItselfInPython(ColumnMix):
    def call(self, inputs):
        return self.call(inputs)


@mutant("builds", "cannot be called", "it asks for more memory than is left")
class AllocatesTooMuchInPython(ColumnMix):
    def call(self, inputs):
        np.empty(100 * 2**40, np.uint8).fill(0)
        return super().call(inputs)


@mutant("builds", "the layer cannot be made with (filters=3, scale=0.5)", "no luck")
class CannotBeMade(ColumnMix):
    def __init__(self, filters, scale=1.0, **kwargs):
        raise ValueError("no luck")


@mutant(
    "oracle",
    "the oracle computes in float32, expected float64",
    cases=[
        LayerCase(
            arguments={"filters": 3},
            input_shape=(2, 5, 4, 3),
            oracle=lambda *values: oracle(*values).astype(np.float32),
        )
    ],
)
class OracleInFloat32(ColumnMix):
    pass


class CannotBeBuilt(ColumnMix):
    def build(self, input_shape):
        raise RuntimeError("no room")


@mutant(
    "reference",
    "the reference CannotBeBuilt cannot be built",
    "no room",
    cases=[LayerCase(arguments={"filters": 3}, input_shape=(2, 5, 4, 3))],
    reference=CannotBeBuilt,
)
class HasABadReference(ColumnMix):
    pass


@mutant(
    "builds",
    "input_shape=(2, 5, 4, 3) and speed_shape=(32, 5, 3)",
    "contradict each other",
    cases=[LayerCase(arguments={"filters": 3}, input_shape=(2, 5, 4, 3), speed_shape=(32, 5, 3))],
)
class ContradictoryShapes(ColumnMix):
    pass


@mutant(
    "builds",
    "cannot be called with inputs of the shape (2, 5, 4, 3)",
    "no such shape",
    cases=[LayerCase(arguments={"filters": 3}, input_shape=(2, 5, 4, 3), speed_shape=(2, 5, 4, 6))],
)
class RefusesEachShape(ColumnMix):
    def call(self, inputs):
        raise ValueError("no such shape")


PARALLEL = ("none", "sum", "rows", "buffer", "neighbour", "second thread")
SUM, ROWS, BUFFER, NEIGHBOUR, SECOND = range(1, len(PARALLEL))


@numba.njit(parallel=True, cache=True)
def scaled(inputs, slope, fault, outputs):
    rows = inputs.shape[1]
    for task in numba.prange(inputs.shape[0] * rows):
        n, row = task // rows, task % rows
        for column in range(inputs.shape[2]):
            for c in range(inputs.shape[3]):
                value = inputs[n, row, column, c] * slope[c]
                if fault == NEIGHBOUR and row > 0:
                    value += np.float32(0) * outputs[n, row - 1, column, c]
                if fault == SECOND and numba.get_thread_id() == 1:
                    value += np.float32(1)
                outputs[n, row, column, c] = value


@numba.njit(parallel=True, cache=True)
def scaled_backward(inputs, slope, fault, grad_outputs, grad_inputs, grad_slope):
    rows, channels = inputs.shape[1], inputs.shape[3]
    tasks = inputs.shape[0] * rows
    partial = np.empty((tasks, channels), np.float32)
    buffer = np.empty(channels, np.float32)
    for c in range(channels):
        grad_slope[c] = 0
    for task in numba.prange(tasks):
        n, row = task // rows, task % rows
        for c in range(channels):
            partial[task, c] = 0
        for column in range(inputs.shape[2]):
            for c in range(channels):
                gradient = grad_outputs[n, row, column, c]
                if fault == BUFFER:
                    buffer[c] = gradient
                    gradient = buffer[c]
                if fault == SUM:
                    grad_slope[c] += gradient * inputs[n, row, column, c]
                else:
                    partial[task, c] += gradient * inputs[n, row, column, c]
                grad_inputs[n, row, column, c] = gradient * slope[c]
                if fault == ROWS and row > 0:
                    grad_inputs[n, row - 1, column, c] += np.float32(0)
    for task in range(tasks):
        for c in range(channels):
            grad_slope[c] += partial[task, c]


scaled_op = ArrayOp(
    "mutants_scaled",
    forward=scaled,
    backward=scaled_backward,
    inputs={"inputs": 4, "slope": 1},
    outputs={"outputs": 4},
    output_shapes=lambda inputs: inputs,
    attributes={"fault": 0},
)
PARALLEL_CASES = [
    LayerCase(
        arguments={}, input_shape=(2, 3, 4, 2), oracle=lambda layer, inputs, slope: inputs * slope
    )
]


@keras.saving.register_keras_serializable("mutants")
class Scaled(keras.layers.Layer):
    """The good layer, whose functions are parallel."""

    fault = "none"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False

    def build(self, input_shape):
        self.slope = self.add_weight(shape=(input_shape[-1],), name="slope")

    def call(self, inputs):
        tensors = [keras.ops.cast(it, "float32") for it in (inputs, self.slope)]
        outputs = scaled_op(*tensors, fault=PARALLEL.index(self.fault))
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return scaled_op.output_shape(input_shape)


@mutant(
    "races",
    "'scaled_backward'",
    "grad_slope[0] is read and written by the iterations 0 and 1",
    "grad_slope[c] += gradient",
    cases=PARALLEL_CASES,
)
class RaceOfASum(Scaled):
    fault = "sum"


@mutant(
    "races",
    "'scaled_backward'",
    "grad_inputs[0, 0, 0, 0] is",
    "by the iterations 0 and 1",
    cases=PARALLEL_CASES,
)
class RaceOfRows(Scaled):
    fault = "rows"


@mutant(
    "races",
    "'scaled_backward'",
    "an element of 'buffer' is written by the iterations 0 and 1",
    cases=PARALLEL_CASES,
)
class RaceOfABuffer(Scaled):
    fault = "buffer"


@mutant(
    "races",
    "'scaled'",
    "outputs[0, 0, 0, 0] is read and written by the iterations 0 and 1",
    cases=PARALLEL_CASES,
)
class RaceOfNeighbours(Scaled):
    fault = "neighbour"


@mutant(
    "determinism",
    "'scaled' gives one result with 1 thread and another with",
    "'outputs' differ",
    cases=PARALLEL_CASES,
)
class WrongInTheSecondThread(Scaled):
    fault = "second thread"
