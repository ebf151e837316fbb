"""Layers of plugins in inference plans: each calls one op, which needs no Keras."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numba
import numpy as np
import pytest

from cnnforge.ops import ArrayOp
from cnnforge_kernels.plan import PlanError, Program, Step, interpret
from cnnforge_kernels.plan.kinds import foreign
from cnnforge_plugins.inference.builder import build, express
from cnnforge_plugins.inference.runner import open_plan

EXAMPLE = Path(__file__).parents[3] / "plugins" / "example" / "src"
SOURCE = """
import numba
import numpy as np
from cnnforge.ops import ArrayOp

@numba.njit
def forward(inputs, others, slope, times, outputs, sums):
    outputs[:] = np.float32(times[0]) * (inputs + slope * others)
    sums[:] = outputs + np.float32(times[1])

op = ArrayOp(
    "foreign_op",
    forward=forward,
    inputs={"inputs": 4, "others": 4, "slope": 1},
    outputs={"outputs": 4, "sums": 4},
    output_shapes=lambda inputs: (inputs, inputs),
    attributes={"times": (1, 0)},
)
"""


@pytest.fixture(scope="module")
def op(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ops")
    (folder / "foreign_ops.py").write_text(SOURCE)
    sys.path.append(str(folder))
    yield __import__("foreign_ops").op
    sys.path.remove(str(folder))
    del sys.modules["foreign_ops"]


@numba.njit
def _here(inputs, outputs):
    outputs[:] = inputs


here = ArrayOp(
    "foreign_here",
    forward=_here,
    inputs={"inputs": 4},
    outputs={"outputs": 4},
    output_shapes=lambda inputs: inputs,
)


@keras.saving.register_keras_serializable("test_foreign")
class Foreign(keras.layers.Layer):
    def build(self, input_shape):
        self.slope = self.add_weight(name="slope", shape=(3,), initializer="random_normal")

    def call(self, inputs):
        first, second = inputs
        return sys.modules["foreign_ops"].op(second, first, self.slope, times=(2, 5))[1]


def model():
    inputs = keras.Input((4, 5, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    other = keras.layers.Conv2D(3, 3, padding="same")(scaled)
    mixed = keras.layers.ReLU()(Foreign(name="mix")([scaled, other]))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(mixed))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 5, 3), np.uint8)


def test_a_plan_calls_the_op(op, images, tmp_path):
    network = model()
    build(network, tmp_path / "plan.npz")
    plan = open_plan(tmp_path / "plan.npz")
    (step,) = [step for step in plan.program.steps if step.kind == "op"]
    assert step.options["op"] == "foreign_ops:op"
    assert step.options["arguments"] == [1, 0, "argument2"]
    expected = network.predict(images, verbose=0)
    np.testing.assert_allclose(plan.predict(images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(interpret(plan.program, images), expected, rtol=1e-5, atol=1e-6)
    assert interpret(plan.program, images, np.float64).dtype == np.float64


def test_a_layer_of_another_plugin_that_cannot_be_part(op):
    @keras.saving.register_keras_serializable("test_foreign")
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return here(here(inputs))

    network = keras.Sequential([keras.Input((4, 5, 3)), Twice(name="two")])
    reason = "layer 'two' (Twice): its call applies 2 ops (foreign_here, foreign_here), expected"
    with pytest.raises(ValueError, match=re.escape(reason)):
        express(network)


def test_an_op_in_a_module_that_imports_keras():
    @keras.saving.register_keras_serializable("test_foreign")
    class Here(keras.layers.Layer):
        def call(self, inputs):
            return here(inputs)

    network = keras.Sequential([keras.Input((4, 5, 3)), Here(name="heavy")])
    with pytest.raises(ValueError, match=r"layer 'heavy' \(Here\): its op .* without Keras"):
        express(network)


def test_a_stock_layer_without_a_kernel():
    network = keras.Sequential([keras.Input((4, 5, 3)), keras.layers.LayerNormalization()])
    with pytest.raises(ValueError, match="there is no kernel for layers of this class"):
        express(network)


def test_a_plan_whose_op_is_not_installed(op, tmp_path, monkeypatch):
    build(model(), tmp_path / "plan.npz")
    monkeypatch.delitem(sys.modules, "foreign_ops")
    with pytest.raises(ValueError, match="needs the op foreign_ops:op, and no installed plugin"):
        open_plan(tmp_path / "plan.npz")


def op_step(**changes):
    options = {"op": "nobody:op", "arguments": [0], "attributes": {}, "output": 0}
    return Step("op", ("image",), "result", {**options, "shape": [2, 2, 1], **changes})


IMAGE = Step("input", (), "image", {"shape": [2, 2, 1]})


def test_nothing_is_imported_because_a_file_names_it():
    program = Program((IMAGE, op_step(op="antigravity:op")), "result")
    with pytest.raises(PlanError, match="needs the op antigravity:op, which is not provided"):
        interpret(program, np.zeros((1, 2, 2, 1), np.uint8))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "changes",
    [{"arguments": [1]}, {"arguments": ["weights"]}, {"op": 7}, {"output": "a"}, {"shape": None}],
)
def test_steps_that_are_not_complete(changes):
    with pytest.raises(PlanError, match="step 'result' of kind op is not possible"):
        Program((IMAGE, op_step(**changes)), "result")


def test_attributes_that_are_lists_become_tuples(monkeypatch):
    monkeypatch.setattr(foreign, "_provided", {"nobody:op": lambda inputs, pair: inputs + pair[1]})
    program = Program((IMAGE, op_step(attributes={"pair": [1, 2]})), "result")
    assert (interpret(program, np.zeros((1, 2, 2, 1), np.uint8)) == 2).all()


WITHOUT_KERAS = """
import sys
import numpy as np
from cnnforge_plugins.inference.runner import open_plan
plan = open_plan(sys.argv[1])
np.save(sys.argv[2], plan.predict(np.load(sys.argv[3])))
print([name for name in ("keras", "tensorflow", "torch") if name in sys.modules])
"""


@pytest.mark.slow
def test_the_example_plugin_predicts_without_keras(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    network = importlib.import_module("cnnforge_example.model").build((12, 12, 1), 3)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    build(network, tmp_path / "plan.npz")
    # An entry point makes the package an installed plugin.
    metadata = tmp_path / "installed" / "acme-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Name: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[cnnforge]\nexample=cnnforge_example.manifest\n")
    files = [str(tmp_path / name) for name in ("plan.npz", "outputs.npy", "images.npy")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, *files],
        env={**os.environ, "PYTHONPATH": f"{EXAMPLE}:{metadata.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(outputs, network.predict(images, verbose=0), atol=1e-5)
