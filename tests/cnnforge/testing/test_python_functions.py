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
