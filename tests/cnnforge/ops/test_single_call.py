"""Find the one op that a layer computes, and import it without Keras."""

import re
import sys

import keras
import numba
import numpy as np
import pytest

from cnnforge.ops import ArrayOp, find_single_call, import_path, load_op


@numba.njit
def _scaled(inputs, scale, plus, outputs, half):
    outputs[:] = inputs * scale + plus
    half[:] = outputs / 2


scaled = ArrayOp(
    "single_call_scaled",
    forward=_scaled,
    inputs={"inputs": 4, "scale": 1},
    outputs={"outputs": 4, "half": 4},
    output_shapes=lambda inputs: (inputs, inputs),
    attributes={"plus": 1.0},
)
SHAPE = (4, 3, 2)


class Scaled(keras.layers.Layer):
    """A layer of which each test changes one line."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(2,), initializer="random_normal")

    def before(self, inputs):
        return keras.ops.cast(inputs, "float32")

    def weight(self):
        return keras.ops.cast(self.scale, "float32")

    def after(self, outputs, half):
        return keras.ops.cast(outputs, "float32")

    def call(self, inputs):
        return self.after(*scaled(self.before(inputs), self.weight(), plus=0.5))


def found(layer, shapes=(SHAPE,)):
    layer.build((None, *SHAPE))
    return find_single_call(layer, shapes)


def test_a_layer_that_computes_one_op():
    layer = Scaled()
    call = found(layer)
    assert (call.op, call.attributes, call.output) == (scaled, {"plus": 0.5}, 0)
    place, scale = call.arguments
    assert place == 0
    np.testing.assert_array_equal(scale, layer.scale)


def test_the_output_may_be_any_output_of_the_op():
    class Half(Scaled):
        def after(self, outputs, half):
            return half

    assert found(Half()).output == 1


def test_an_argument_may_be_a_function_of_the_weights():
    class Exponential(Scaled):
        def weight(self):
            return keras.ops.exp(self.scale)

    layer = Exponential()
    np.testing.assert_allclose(found(layer).arguments[1], np.exp(layer.scale), rtol=1e-6)


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1)])
def test_several_inputs_in_any_order(shape):
    class Second(keras.layers.Layer):
        def call(self, first, second):
            return scaled(second, np.ones(2, np.float32))[0]

    place, scale = find_single_call(Second(), (shape, shape)).arguments
    assert place == 1
    np.testing.assert_array_equal(scale, [1, 1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"call": lambda self, inputs: inputs * 2}, "applies no ArrayOp, expected exactly one"),
        (
            {"after": lambda self, outputs, half: scaled(outputs, self.weight())[0]},
            "applies 2 ops (single_call_scaled, single_call_scaled), expected exactly one",
        ),
        (
            {"before": lambda self, inputs: keras.ops.relu(inputs)},
            "changes the input 'inputs' of the op 'single_call_scaled' before",
        ),
        (
            {"before": lambda self, inputs: keras.ops.clip(inputs, -1e30, np.inf)},
            "changes the input 'inputs'",
        ),
        (
            {"before": lambda self, inputs: inputs[:, ::-1]},
            "changes the input 'inputs'",
        ),
        (
            {"weight": lambda self: keras.random.normal((2,))},
            "changes the input 'scale' of the op 'single_call_scaled' before it applies the op, or "
            "passes another value each time",
        ),
        (
            {"after": lambda self, outputs, half: keras.ops.relu(outputs)},
            "changes the output of the op 'single_call_scaled'",
        ),
        (
            {"after": lambda self, outputs, half: keras.ops.nan_to_num(outputs)},
            "changes the output",
        ),
        (
            {"after": lambda self, outputs, half: keras.ops.reshape(outputs, (-1, 24))},
            "changes the output",
        ),
        ({"after": lambda self, outputs, half: outputs + half}, "changes the output"),
        (
            {"before": lambda self, inputs: keras.ops.cast(inputs, "float16")},
            "fails with random inputs: ArrayOp 'single_call_scaled': 'inputs' has the dtype float",
        ),
    ],
)
def test_a_layer_that_computes_more(changes, reason):
    layer = type("Changed", (Scaled,), changes)()
    with pytest.raises(ValueError, match=re.escape(reason)):
        found(layer)


def test_an_attribute_that_depends_on_the_batch():
    class Counting(Scaled):
        def call(self, inputs):
            return scaled(inputs, self.weight(), plus=float(inputs.shape[0]))[0]

    with pytest.raises(ValueError, match="the same op with the same attributes each time"):
        found(Counting())


def test_ops_run_as_usual_afterwards():
    found(Scaled())
    with pytest.raises(ValueError, match="expected exactly one"):
        find_single_call(lambda inputs: inputs, (SHAPE,))
    outputs, half = scaled(np.ones((1, *SHAPE), np.float32), np.full(2, 3, np.float32))
    assert (np.asarray(outputs) == 4).all()
    assert (np.asarray(half) == 2).all()


LIGHT = """
import numba
from cnnforge.ops import ArrayOp

@numba.njit
def forward(inputs, outputs):
    outputs[:] = inputs + 1

op = ArrayOp("{name}", forward=forward, inputs={{"inputs": 4}}, outputs={{"outputs": 4}},
             output_shapes=lambda inputs: inputs)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module, and imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(source.format(name=name))
        names.append(name)
        return __import__(name)

    yield make
    for name in names:
        sys.modules.pop(name, None)


def test_an_op_in_a_light_module(module):
    op = module("single_call_light", LIGHT).op
    assert import_path(op) == "single_call_light:op"
    assert load_op("single_call_light:op") is op


def test_an_op_whose_module_imports_keras(module):
    op = module("single_call_heavy", "import keras\n" + LIGHT).op
    reason = (
        "its op single_call_heavy:op cannot be imported without Keras (it imports keras): define "
        "the op in an installed module that imports no framework"
    )
    with pytest.raises(ValueError, match=re.escape(reason)):
        import_path(op)


def test_an_op_of_a_file_that_python_does_not_find(module, monkeypatch):
    op = module("single_call_lost", LIGHT).op
    monkeypatch.setattr(sys, "path", sys.path[1:])
    with pytest.raises(ValueError, match="No module named 'single_call_lost'"):
        import_path(op)


def test_an_op_that_is_not_an_attribute(module):
    op = module("single_call_hidden", LIGHT.replace("op = ", "ops = [") + "]").ops[0]
    with pytest.raises(ValueError, match="is not an attribute of a module: assign it to a name"):
        import_path(op)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            "antigravity:op",
            "it needs the op antigravity:op, and no installed plugin has the module",
        ),
        ("cnnforge_plugins.nothing:op", "cannot be imported: ModuleNotFoundError"),
        ("cnnforge_plugins.manifest:nothing", "cannot be imported: AttributeError"),
        ("os:system", "os:system is a builtin_function_or_method, expected an ArrayOp"),
    ],
)
def test_paths_that_are_not_those_of_ops(path, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_op(path)
    assert "antigravity" not in sys.modules


def test_ops_run_without_keras(run_python):
    printed = run_python(
        LIGHT.format(name="alone")
        + "import sys, numpy as np\n"
        + "print(op.run(np.zeros((1, 1, 1, 1), 'f4')))\n"
        + "print([name for name in ('keras', 'tensorflow', 'torch') if name in sys.modules])\n"
    )
    assert printed.splitlines()[-2:] == ["[[[[1.]]]]", "[]"]
