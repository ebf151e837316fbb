"""`NUMBA_DISABLE_JIT=1`: the functions of ops run as Python, without a framework and with one."""

import os
import subprocess
import sys

import pytest

CODE = """
import warnings
warnings.simplefilter("ignore")
import numba
import numpy as np
from cnnforge.ops import ArrayOp

@numba.njit(parallel=True, cache=True)
def forward(inputs, factor, outputs):
    for i in numba.prange(inputs.shape[0]):
        outputs[i] = factor * inputs[i + (factor == 3)]

@numba.njit(cache=True)
def backward(grad_outputs, factor, grad_inputs):
    grad_inputs[:] = factor * grad_outputs

op = ArrayOp("python_double", forward=forward, backward=backward, inputs={"inputs": 1},
             outputs={"outputs": 1}, output_shapes=lambda inputs: inputs, attributes={"factor": 2})
ones = np.ones(3, np.float32)
print(op.run(ones).tolist(), op.run_backward([ones], [ones], [ones])[0].tolist())
try:
    op.run(ones, factor=3)
except IndexError as error:
    print(error)
import keras
from cnnforge.backends import pullback

class Double(keras.layers.Layer):
    def call(self, inputs):
        return op(inputs)

outputs, pull = pullback(Double(), keras.ops.ones(3))
print(np.asarray(outputs).tolist(), np.asarray(pull(keras.ops.ones(3))[0]).tolist())
"""


@pytest.mark.slow
def test_functions_run_as_python(tmp_path):
    file = tmp_path / "python_double.py"
    file.write_text(CODE)
    done = subprocess.run(
        [sys.executable, file],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert done.stdout.splitlines() == [
        "[2.0, 2.0, 2.0] [2.0, 2.0, 2.0]",
        "index 3 is out of bounds for axis 0 with size 3",
        "[2.0, 2.0, 2.0] [2.0, 2.0, 2.0]",
    ], done.stderr


CHECKS = """
import keras
from cnnforge.ops import ArrayOp
from cnnforge.testing import LayerCase, layer_checks
from halved_layer import Halved, backward, op

def beyond(inputs, outputs):
    outputs[:] = inputs / 2
    outputs[inputs.shape[0]] = 0

class Beyond(Halved):
    op = ArrayOp("beyond", forward=beyond, backward=backward, inputs={"inputs": 4},
                 outputs={"outputs": 4}, output_shapes=lambda inputs: inputs)

    def call(self, inputs):
        return self.op(inputs)

case = LayerCase(arguments={}, input_shape=(2, 3, 4, 2), oracle=lambda layer, inputs: inputs / 2)
for kind in (Halved, Beyond):
    for check in layer_checks(kind, [case]):
        # A process of its own opens the models. The layer takes float32 only.
        if check.kind not in ("registration", "save_and_load", "precision"):
            status, message = check.result()
            wanted = ("inference", "index_in_range", "races")
            if status == "failed" or (kind is Halved and check.kind in wanted):
                print(kind.__name__, check.kind, message)
"""


@pytest.mark.slow
def test_the_checks_run_as_python(tmp_path):
    file = tmp_path / "python_checks.py"
    file.write_text(CHECKS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", file],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "NUMBA_DISABLE_JIT": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout + done.stderr
    for line, kind in zip(lines, ("index_in_range", "races"), strict=False):
        assert line.startswith(f"Halved {kind} not run: ArrayOp 'halved': the forward function")
        assert line.endswith(" is not compiled (NUMBA_DISABLE_JIT=1)")
    assert lines[2].startswith("Halved inference predictions need Keras: its op halved_layer:op")
    message = "the layer cannot run: ArrayOp 'beyond': the forward function 'beyond': raised"
    error = "IndexError: index 2 is out of bounds for axis 0 with size 2"
    assert lines[3].startswith(f"Beyond runs {message} {error} ({file}:9)")
