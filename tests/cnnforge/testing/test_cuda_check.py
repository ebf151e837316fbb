"""The check of functions for CUDA devices, in Numba's simulator."""

import keras
import numpy as np
import pytest
from doubled import FAULTS, doubled, without_cuda, without_functions, without_module

from cnnforge.testing import LayerCase, _cuda, layer_checks

pytest.importorskip("numba_cuda", reason="needs numba-cuda: pip install 'cnnforge[test]'")


class Doubled(keras.layers.Layer):
    op, fault = doubled, "none"

    def call(self, inputs):
        return self.op(inputs, fault=FAULTS.index(self.fault))


def check(**changes):
    kind = type("Doubled", (Doubled,), changes)
    case = LayerCase(arguments={}, input_shape=(3, 10), oracle=lambda layer, inputs: 2 * inputs)
    (found,) = [it for it in layer_checks(kind, [case], cuda=True) if it.kind == "cuda"]
    return found.alone()


def test_good_functions_pass():
    expected = ("ok", "2 functions in Numba's simulator, not on a device")
    assert check() == expected


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "value",
            ["the forward function 'forward': its function for CUDA devices: 'outputs'", "is 1.5"],
        ),
        ("gap", ["'outputs' differs from the function for the CPU", "values are not finite"]),
        ("gradient", ["the backward function 'backward'", "'grad_inputs' has the opposite sign"]),
        ("modified", ["its function for CUDA devices modified 'inputs', which it reads"]),
        ("raises", ["devices raises ValueError: too many threads (", "doubled_cuda.py:"]),
    ],
)
def test_a_wrong_function_is_named(fault, words):
    status, message = check(fault=fault)
    assert status == "failed"
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (without_cuda, "name a module with its functions in ArrayOp(cuda=...)"),
        (without_functions, "colorsys has no function 'forward' to compute it on CUDA devices"),
        (without_module, "no_such_module cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_missing_is_named(op, words):
    status, message = check(op=op)
    assert status == "failed"
    assert words in message


def test_the_check_is_not_made_unless_asked_for():
    case = LayerCase(arguments={}, input_shape=(3, 10))
    assert "cuda" not in {it.kind for it in layer_checks(Doubled, [case])}


def test_a_simulation_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(_cuda, "_TIMEOUT", 0.01)
    status, message = check()
    assert status == "failed"
    assert "has not ended after 0.01 s" in message
    assert "a smaller input_shape" in message


def test_numba_cuda_is_missing(monkeypatch):
    def missing(op):
        raise ModuleNotFoundError("No module named 'numba.cuda'", name="numba.cuda")

    monkeypatch.setattr(_cuda, "cuda_functions", missing)
    status, message = check()
    assert status == "failed"
    assert "pip install 'cnnforge[cuda13]' installs numba-cuda" in message


def test_the_outputs_have_no_value_before():
    from cnnforge.testing.cuda_simulator import _poisoned

    assert np.isnan(_poisoned((2, 3), np.dtype("float32"))).all()
    assert (_poisoned((2,), np.dtype("int32")) == -(2**31)).all()
