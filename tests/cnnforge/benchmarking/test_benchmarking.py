"""Timing, work, peaks, cases and comparison; no time is asserted, machines differ."""

import copy
import csv
import json
import math
import time
from dataclasses import replace
from importlib import import_module
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge import benchmarking
from cnnforge.benchmarking import Case, Workload, parse_shape, work
from cnnforge.benchmarking import cases as cases_module
from cnnforge.conversion import forge
from cnnforge.conversion.certificate import certify_layer
from cnnforge.conversion.workloads import model_workloads, timed_passes
from cnnforge.errors import PluginError, UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import LayerCase

layers = keras.layers
# Other tests compile its kernels too.
SHAPE = (2, 28, 28, 4)


@pytest.fixture(scope="module")
def installed():
    return discover().layers


class Slow:
    """Sleeps; counts how often it was asked to repeat itself."""

    def __init__(self):
        self.counts = []

    def __call__(self):
        self.repeat(1)

    def repeat(self, count):
        self.counts.append(count)
        time.sleep(1e-4 * count)


def test_functions_take_turns():
    order = []
    timings, times = benchmarking.interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        rounds=4,
        warm_up=1,
        seconds=0,
    )
    assert "".join(order[-8:]) == "abbaabba"
    assert timings["a"].rounds == 4
    assert times["a"].shape == times["b"].shape == (4,)
    assert timings["b"].p20 <= timings["b"].median <= timings["b"].p80


def test_a_function_repeats_itself():
    slow = Slow()
    benchmarking.interleave({"slow": slow}, rounds=3, warm_up=0, seconds=0.05)
    assert slow.counts[-3:] == [slow.counts[-1]] * 3
    assert slow.counts[-1] > 1


def test_rounds_end_at_the_limit():
    _, times = benchmarking.interleave({"slow": Slow()}, rounds=10**6, limit=0.05)
    assert 3 <= len(times["slow"]) < 10**6


def test_a_clock_of_its_own():
    asked = []

    def clock(function, count):
        asked.append((function, count))
        return 0.5 * count

    timings, _ = benchmarking.interleave({"one": int}, rounds=4, warm_up=0, measure=clock)
    assert timings["one"].median == 0.5
    assert asked == [(int, 1)] * 5


def test_the_ratio_is_taken_round_by_round():
    reference, ours = np.array([2.0, 40.0, 6.0]), np.array([1.0, 10.0, 2.0])
    assert benchmarking.ratio(reference, ours)[0] == 3.0


@pytest.mark.parametrize(
    ("text", "batch_size", "shape"),
    [
        (None, None, None),
        (None, 3, None),
        ("2x3x4x5", None, (2, 3, 4, 5)),
        ("2x3x4x5", 2, (2, 3, 4, 5)),
        ("3x4x5", 2, (2, 3, 4, 5)),
        ("3x4x5", None, (3, 4, 5)),
    ],
)
def test_shapes(text, batch_size, shape):
    assert parse_shape(text, batch_size) == shape


@pytest.mark.parametrize(
    ("text", "batch_size"),
    [
        ("", None),
        ("3x4", None),
        ("1x2x3x4x5", None),
        ("0x3x4x5", None),
        ("-1x3x4x5", None),
        ("2X3x4x5", None),
        ("2x3x4x5 ", None),
        ("\u0662x3x4x5", None),
        ("2x3x4x5", 3),
        ("3x4x5", 0),
        (None, -1),
    ],
)
def test_bad_shapes(text, batch_size):
    with pytest.raises(UsageError) as error:
        parse_shape(text, batch_size)
    assert "--shape" in str(error.value) or "--batch-size" in str(error.value)


@pytest.mark.parametrize("grad_inputs", [True, False])
def test_full_work_is_forward_and_backward(installed, grad_inputs):
    for spec in installed.values():
        (case,) = benchmarking.layer_cases(spec, (2, 8, 8, 3))
        workload = replace(case.workload, grad_inputs=grad_inputs)
        found = work(workload, workload.build(workload.reference))
        assert found is not None
        assert found["full"] == found["forward"] + found["backward"]


def test_work_that_is_not_known():
    spec = LayerSpec(name="norm", target="keras.layers:LayerNormalization", summary="")
    kind = spec.load()
    workload = Workload(spec, kind, kind, kind().get_config(), (1, 2, 2, 3))
    assert work(workload, workload.build(kind)) is None


@pytest.mark.parametrize(
    ("function", "message"),
    [("keras.layers:No", "cannot be loaded"), ("math:prod", "cannot be counted by math:prod")],
)
def test_a_function_that_cannot_count_is_named(function, message):
    spec = LayerSpec(name="pool", target="keras.layers:MaxPooling2D", summary="", work=function)
    kind = spec.load()
    workload = Workload(spec, kind, kind, kind().get_config(), (1, 2, 2, 3))
    with pytest.raises(PluginError, match=message):
        work(workload, workload.build(kind))


def test_peaks():
    peaks = benchmarking.measure_peaks()
    assert peaks.flops > 1e8
    assert peaks.bytes > 1e8
    assert peaks.threads >= 1


def test_cases_of_every_layer(installed):
    cases, notes = benchmarking.every_layer(installed.values(), None, None)
    assert notes == []
    specs = [spec for spec in installed.values() if spec.reference]
    assert {case.workload.spec.name for case in cases} == {spec.name for spec in specs}
    assert len({case.name for case in cases}) == len(cases)
    cases, _ = benchmarking.every_layer(installed.values(), (2, 8, 8, 3), None)
    assert len(cases) == len(specs)
    assert {case.workload.shape for case in cases} == {(2, 8, 8, 3)}


def test_the_batch_size_of_built_in_shapes(installed):
    cases = benchmarking.layer_cases(installed["conv2d"], batch_size=3)
    assert {case.workload.shape[0] for case in cases} == {3}


def test_a_layer_without_a_reference_and_one_that_cannot_be_made(installed):
    own = LayerSpec(name="own", target="keras.layers:Dense", summary="")
    with pytest.raises(UsageError, match="names no reference"):
        benchmarking.layer_cases(own)
    odd = LayerSpec(
        name="odd", target="keras.layers:Permute", summary="", reference="keras.layers:Permute"
    )
    with pytest.raises(UsageError, match="cannot be made of"):
        benchmarking.layer_cases(odd)
    cases, notes = benchmarking.every_layer([own, odd], None, None)
    assert cases == []
    assert len(notes) == 1


AUTHORS_CASES = [
    LayerCase(
        name="wide", arguments={"pool_size": 4}, input_shape=(2, 8, 9, 3), speed_shape=(7, 8, 8, 2)
    ),
    LayerCase(
        name="narrow",
        arguments={"pool_size": 1, "strides": 2},
        input_shape=(2, 8, 9, 3),
        speed_shape=(5, 6, 6, 1),
        min_ratio=1.5,
    ),
    LayerCase(arguments={"pool_size": 3}, input_shape=(2, 8, 9, 3)),
]


def pool(cases):
    """Return the spec of a layer with an author's test cases."""
    import sys

    sys.modules[__name__].CASES = cases
    target = "keras.layers:MaxPooling2D"
    return LayerSpec(
        name="pool", target=target, summary="", reference=target, cases=f"{__name__}:CASES"
    )


def measured_cases(cases, *arguments):
    return [
        (it.name, it.arguments, it.workload.shape, it.origin, it.min_ratio)
        for it in benchmarking.layer_cases(pool(cases), *arguments)
    ]


def test_the_cases_and_speed_shapes_of_the_author_are_measured():
    narrow = {"pool_size": 1, "strides": 2}
    assert measured_cases(AUTHORS_CASES) == [
        ("pool.wide 7x8x8x2", {"pool_size": 4}, (7, 8, 8, 2), "speed_shape", None),
        ("pool.narrow 5x6x6x1", narrow, (5, 6, 6, 1), "speed_shape", 1.5),
    ]
    assert [it[2] for it in measured_cases(AUTHORS_CASES, None, 3)] == [(3, 8, 8, 2), (3, 6, 6, 1)]
    found = benchmarking.layer_cases(pool(AUTHORS_CASES))
    assert found[0].workload.config["pool_size"] == (4, 4)


def test_without_a_speed_shape_the_input_shape_is_measured():
    assert measured_cases(AUTHORS_CASES[2:]) == [
        ("pool 32x8x9x3 3x3", {"pool_size": 3}, (32, 8, 9, 3), "input_shape", None)
    ]


def test_a_given_shape_keeps_the_arguments_of_the_author():
    assert measured_cases(AUTHORS_CASES, (2, 9, 9, 1)) == [
        ("pool 2x9x9x1 4x4", {"pool_size": 4}, (2, 9, 9, 1), "--shape", None)
    ]


def test_a_size_that_is_a_number_has_a_name():
    kind = keras.layers.Layer
    spec = LayerSpec(name="own", target="keras.layers:Layer", summary="")
    for config, text in (
        ({"kernel_size": 3, "strides": 2}, "own 2x8x8x1 3/2"),
        ({"kernel_size": (3, 5)}, "own 2x8x8x1 3x5"),
        ({"pool_size": 2}, "own 2x8x8x1 2"),
    ):
        workload = Workload(spec, kind, kind, config, (2, 8, 8, 1))
        assert cases_module._name("own", workload) == text


@pytest.fixture(scope="module")
def forged(installed):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.MaxPooling2D(1, name="nothing"),
            layers.Conv2D(3, 3, padding="same", name="first"),
            layers.Conv2D(3, 3, padding="same", name="second"),
            layers.Conv2D(3, 3, padding="same", name="third"),
            layers.Flatten(),
            layers.Dense(2, activation="softmax", name="head"),
        ]
    )
    return forge(model, "numba", layers=installed)


def test_cases_of_a_model(forged, installed):
    cases = benchmarking.model_cases(forged, installed, 5)
    names = [("nothing",), ("first",), ("second", "third"), ("head",)]
    assert [case.layers for case in cases] == names
    # Nothing before the first convolution learns.
    assert [case.workload.grad_inputs for case in cases] == [False, False, True, True]
    shapes = [(5, 8, 8, 2), (5, 8, 8, 2), (5, 8, 8, 3), (5, 192)]
    assert [case.workload.shape for case in cases] == shapes
    assert len(model_workloads(forged, installed, 5)) == 5


def test_both_implementations_compute_the_same_things(installed):
    (case,) = benchmarking.layer_cases(installed["conv2d"], SHAPE)
    for kind in (case.workload.kind, case.workload.reference):
        timed = timed_passes(case.workload, kind)
        assert type(timed.layer) is kind
        for function in (timed.forward, timed.backward, timed.full, timed.empty):
            assert function is not None
            function()
            function.repeat(3)


@pytest.fixture(scope="module")
def result(installed):
    """The output of the command for two small cases."""
    from cnnforge.utils.environment import environment

    peaks = benchmarking.Peaks(1e11, 1e10, 2)
    rows = []
    for name in ("conv2d", "max_pooling2d"):
        (case,) = benchmarking.layer_cases(installed[name], SHAPE)
        assert certify_layer(case.workload).passed
        first = benchmarking.first_calls(case)
        measured = benchmarking.measure(case, rounds=5, first=first)
        rows.append({**benchmarking.to_json(measured, peaks), "auto": None})
    return {
        "format": benchmarking.FORMAT,
        "machine": environment(),
        "peaks": vars(peaks),
        "rounds": 5,
        "cases": rows,
    }


def test_a_measurement(result):
    for case in json.loads(json.dumps(result))["cases"]:
        assert list(case["passes"]) == list(benchmarking.PASSES)
        for it in case["passes"].values():
            assert it["ratio"]["p20"] <= it["ratio"]["median"] <= it["ratio"]["p80"]
            assert it["ours"]["best"] <= it["ours"]["median"]
            assert it["ours"]["flops"] > 0
            assert math.isclose(it["ours"]["share_of_flops"], it["ours"]["flops"] / 1e11)
        assert case["first_call"]["ours"] > 0
        assert case["call"]["reference"] > 0
        assert case["overhead"]["ours"] > 0


class Counted(layers.Layer):
    """Counts how often its outputs and its gradients are computed."""

    outputs = gradients = 0

    def call(self, inputs):
        def count(name, values):
            setattr(Counted, name, getattr(Counted, name) + 1)
            return values

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            def counted(name, values):
                def run(array):
                    return count(name, array)

                result = tf.py_function(run, [values], values.dtype)
                result.set_shape(values.shape)
                return result

            @tf.custom_gradient
            def compute(values):
                return counted("outputs", values), lambda grads: counted("gradients", grads)

            return compute(inputs)
        torch: Any = import_module("torch")

        class Compute(torch.autograd.Function):
            @staticmethod
            def forward(context, values):
                return count("outputs", values.clone())

            @staticmethod
            def backward(context, *grads):
                return count("gradients", grads[0])

        return Compute.apply(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


def test_the_backward_pass_computes_gradients_only():
    spec = LayerSpec(name="counted", target=f"{__name__}:Counted", summary="")
    workload = Workload(spec, Counted, Counted, Counted().get_config(), (2, 3))
    timed = timed_passes(workload, Counted)
    found = []
    for function in (timed.forward, timed.backward, timed.full):
        Counted.outputs = Counted.gradients = 0
        assert function is not None
        function.repeat(5)
        found.append((Counted.outputs, Counted.gradients))
    assert found == [(5, 0), (1, 5), (5, 5)]


def test_the_backward_pass_is_measured_and_not_a_difference(installed, monkeypatch):
    from cnnforge.utils.timing import timing

    def interleave(functions, **options):
        # The full pass takes less than the two others: then a difference would be negative.
        seconds = {"forward": 3.0, "backward": 2.0, "full": 1.0}
        arrays = {name: np.full(3, seconds.get(name.split()[-1], 1.0)) for name in functions}
        return {name: timing(values) for name, values in arrays.items()}, arrays

    # The package has a function with the name of this module.
    module = import_module("cnnforge.benchmarking.measure")
    monkeypatch.setattr(module, "interleave", interleave)
    # Both compute something else in training, and have a backward pass all the same.
    for name in ("dropout", "batch_normalization"):
        (case,) = benchmarking.layer_cases(installed[name], SHAPE)
        measured = benchmarking.measure(case)
        assert {it.name: it.ours.median for it in measured.passes} == {
            "forward": 3.0,
            "backward": 2.0,
            "full": 1.0,
        }


def test_a_layer_without_gradients_has_no_backward_pass(installed):
    (case,) = benchmarking.layer_cases(installed["max_pooling2d"], (2, 6, 6, 3))
    first = replace(case.workload, grad_inputs=False)
    assert timed_passes(first, first.kind).backward is None
    measured = benchmarking.measure(Case("first", first), rounds=3)
    assert [it.name for it in measured.passes] == ["forward", "full"]


def test_the_table(result):
    rows = list(csv.DictReader(benchmarking.csv_text(result).splitlines()))
    assert [row["pass"] for row in rows] == [*benchmarking.PASSES] * 2
    assert all(None not in row and None not in row.values() for row in rows)
    assert float(rows[0]["ours_seconds"]) > 0
    assert rows[0]["cpu"] == result["machine"]["cpu"]["model"]


def test_a_wrong_layer_fails_its_check(installed):
    class Halved(layers.AveragePooling2D):
        def call(self, inputs):
            return super().call(inputs) / 2

    spec = installed["average_pooling2d"]
    (case,) = benchmarking.layer_cases(spec, (2, 6, 6, 3))
    wrong = LayerSpec(
        name="halved",
        target=f"{__name__}:Halved",
        summary="",
        reference="keras.layers:AveragePooling2D",
        plugin="test",
    )
    import sys

    sys.modules[__name__].Halved = Halved
    workload = case.workload
    case = Case(
        "halved", Workload(wrong, Halved, workload.reference, workload.config, (2, 6, 6, 3))
    )
    checked = certify_layer(case.workload)
    assert not checked.passed
    assert checked.results


def test_a_reference_that_corrupts_memory_is_not_run(installed):
    conv2d = installed["conv2d"]
    config = conv2d.load()(4, 1, strides=2).get_config()
    workload = Workload(conv2d, conv2d.load(), layers.Conv2D, config, (2, 6, 6, 3))
    assert workload.reference_is_unsafe == (keras.backend.backend() == "tensorflow")
    if workload.reference_is_unsafe:
        measured = benchmarking.measure(Case("point", workload), rounds=3)
        assert measured.passes == ()
        assert "corrupts memory" in measured.note
        assert benchmarking.first_calls(Case("point", workload))[1] is None
        assert benchmarking.kernel_times(measured) == (None, None)


def changed(result, factor):
    other = copy.deepcopy(result)
    for case in other["cases"]:
        for it in case["passes"].values():
            it["ratio"] = {"median": 2 * factor, "p20": 1.9 * factor, "p80": 2.1 * factor}
            it["rounds"] = 30
    return other


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.05, "same"), (2.0, "faster"), (0.5, "slower")]
)
def test_changes(result, factor, verdict):
    changes = benchmarking.compare(changed(result, 1.0), changed(result, factor))
    assert len(changes) == 6
    assert {it.verdict for it in changes} == {verdict}
    assert math.isclose(changes[0].change, factor - 1, abs_tol=1e-9)


def test_three_rounds_give_no_verdict(result):
    before, now = changed(result, 1.0), changed(result, 2.0)
    for it in before["cases"][0]["passes"].values():
        it["rounds"] = 3
    verdicts = [it.verdict for it in benchmarking.compare(before, now)]
    assert verdicts == ["unknown"] * 3 + ["faster"] * 3
    assert {it.verdict for it in benchmarking.compare(now, before)} == {"unknown", "slower"}


def test_a_pass_that_only_one_result_has_is_not_compared(result):
    other = changed(result, 1.0)
    del other["cases"][0]["passes"]["backward"]
    assert len(benchmarking.compare(other, changed(result, 1.0))) == 5


def test_results_are_read_again(result, tmp_path):
    path = tmp_path / "before.json"
    path.write_text(json.dumps(result))
    before = benchmarking.read_result(path)
    benchmarking.require_same_machine(before, result["machine"], path)
    assert benchmarking.remarks(before, result) == []


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": "cnnforge-bench-1"}'])
def test_files_that_are_no_result(tmp_path, content):
    path = tmp_path / "before.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="bench --json"):
        benchmarking.read_result(path)


@pytest.mark.parametrize("key", ["model", "features", "usable_cores"])
def test_another_machine_is_not_comparable(result, tmp_path, key):
    other = copy.deepcopy(result)
    other["machine"]["cpu"][key] = ["something", "else"]
    with pytest.raises(UsageError, match="NOT COMPARABLE") as error:
        benchmarking.require_same_machine(other, result["machine"], tmp_path)
    assert key in str(error.value)
    assert error.value.exit_code == 2


def test_remarks(result):
    other = copy.deepcopy(result)
    other["machine"]["packages"]["keras"] = "1.0"
    other["peaks"]["flops"] *= 2
    other["cases"][0]["name"] = "another"
    found = "\n".join(benchmarking.remarks(other, result))
    assert "keras 1.0 -> " in found
    assert "0.50 times" in found
    assert "only then: another" in found
    assert f"only now: {result['cases'][0]['name']}" in found
