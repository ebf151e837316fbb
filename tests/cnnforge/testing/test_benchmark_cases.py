"""The benchmarks that are made of a layer's cases."""

import keras
import pytest

from cnnforge.errors import UnknownNameError, UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.testing import LayerCase, benchmark_cases

CASES = [
    LayerCase(arguments={"rate": 0.5}, input_shape=(2, 3), name="small"),
    LayerCase(arguments={"rate": 0.25}, input_shape=(2, 3), name="large", speed_shape=(64, 100)),
    LayerCase(arguments={"rate": 0.75}, input_shape=(2, 3), speed_shape=(8, 100), min_ratio=1.25),
]


def spec(**changes):
    given = {
        "name": "drop",
        "target": "keras.layers:Dropout",
        "summary": "",
        "reference": "keras.layers:Dropout",
        "cases": f"{__name__}:CASES",
    }
    return LayerSpec(**{**given, **changes})


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setattr(LayerSpec, "load_cases", lambda it: tuple(CASES) if it.cases else ())


def test_cases_with_a_shape_for_the_speed():
    first, second = benchmark_cases(spec())
    assert (str(first), str(second)) == ("drop.large", "drop")
    assert first.workload.shape == (64, 100)
    assert first.workload.config["rate"] == 0.25
    assert first.workload.reference is keras.layers.Dropout


def test_a_promise_is_that_of_the_case():
    assert [it.min_ratio for it in benchmark_cases(spec())] == [None, 1.25]
    assert [it.arguments for it in benchmark_cases(spec())] == [{"rate": 0.25}, {"rate": 0.75}]


@pytest.mark.parametrize("value", [0, -1.5, "fast", True, float("nan"), float("inf")])
def test_a_promise_that_is_not_a_ratio(value):
    with pytest.raises(ValueError, match="expected a number above 0") as error:
        LayerCase(arguments={}, input_shape=(2, 3), name="small", min_ratio=value)
    assert f"min_ratio of the case 'small' is {value!r}, " in str(error.value)


def test_cases_of_the_caller():
    found = benchmark_cases(spec(cases=None), CASES)
    assert [it.workload.shape for it in found] == [(2, 3), (64, 100), (8, 100)]


class Plain(keras.layers.Dropout):
    pass


def test_a_reference_of_the_caller():
    for case in benchmark_cases(spec(reference=None), reference=Plain):
        assert case.workload.reference is Plain
        assert case.workload.spec.load_reference() is Plain


def test_nothing_to_compare_with():
    with pytest.raises(UsageError, match=r"'drop' names no reference.*reference=CLASS"):
        benchmark_cases(spec(reference=None))


def test_nothing_to_measure():
    with pytest.raises(UsageError, match="no case of the layer 'drop' names a shape to measure"):
        benchmark_cases(spec(cases=None))


def test_an_unknown_layer():
    with pytest.raises(UnknownNameError, match="did you mean"):
        benchmark_cases("max_pooling2")
