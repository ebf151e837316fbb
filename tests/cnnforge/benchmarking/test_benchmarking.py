"""Timing, work, peaks, cases and comparison; no time is asserted, machines differ."""

import copy
import csv
import json
import math
import time
from dataclasses import replace

import keras
import numpy as np
import pytest

from cnnforge import benchmarking
from cnnforge.benchmarking import Case, Workload, parse_shape, work
from cnnforge.conversion import forge
from cnnforge.conversion.certificate import certify_layer
from cnnforge.conversion.workloads import model_workloads, timed_passes
from cnnforge.errors import PluginError, UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import discover

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
        for function in (timed.forward, timed.full, timed.empty):
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
            if it["ratio"] is not None:
                assert it["ratio"]["p20"] <= it["ratio"]["median"] <= it["ratio"]["p80"]
                assert it["ours"]["flops"] > 0
                assert math.isclose(it["ours"]["share_of_flops"], it["ours"]["flops"] / 1e11)
        assert case["passes"]["forward"]["ratio"] is not None
        assert case["first_call"]["ours"] > 0
        assert case["call"]["reference"] > 0
        assert case["overhead"]["ours"] > 0


def test_a_layer_that_trains_otherwise_has_no_backward_pass(installed):
    # Its forward pass is a prediction: what training takes more is not its gradient.
    peaks = benchmarking.Peaks(1e11, 1e10, 2)
    for name in ("dropout", "batch_normalization"):
        (case,) = benchmarking.layer_cases(installed[name], SHAPE)
        measured = benchmarking.measure(case, rounds=3)
        assert [it.name for it in measured.passes] == ["forward", "full"]
        assert list(benchmarking.to_json(measured, peaks)["passes"]) == ["forward", "full"]


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
    return other


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.05, "same"), (2.0, "faster"), (0.5, "slower")]
)
def test_changes(result, factor, verdict):
    changes = benchmarking.compare(changed(result, 1.0), changed(result, factor))
    assert len(changes) == 6
    assert {it.verdict for it in changes} == {verdict}
    assert math.isclose(changes[0].change, factor - 1, abs_tol=1e-9)


def test_what_drowns_in_the_noise_is_not_compared(result):
    other = changed(result, 1.0)
    other["cases"][0]["passes"]["backward"]["ratio"] = None
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
