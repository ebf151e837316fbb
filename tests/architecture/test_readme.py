"""The code in the README runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cnnforge.ops import find_single_call, import_path
from cnnforge.plugin_host.discovery import discover

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_plugin(tmp_path):
    path = tmp_path / "squared_relu.py"
    path.write_text(BLOCKS[0])
    (tmp_path / "squared_relu_layer.py").write_text(BLOCKS[1])
    layer = discover(explicit=[str(path)]).layers["squared_relu"].load()()
    inputs = tf.constant(np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 2, 2, 2))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    expected = np.maximum(inputs, 0)
    np.testing.assert_allclose(outputs, expected**2, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(outputs, inputs), 2 * expected, rtol=1e-6)
    # A prediction needs the first file only.
    call = find_single_call(layer, [(2, 2, 2)])
    assert import_path(call.op) == "squared_relu:squared_relu"


@pytest.mark.slow
def test_the_conversion():
    names: dict = {}
    exec(BLOCKS[2], names)
    inputs = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(names["stock"](inputs), names["model"](inputs))
