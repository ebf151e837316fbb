"""Tests of the definition of an op, its checks, and runs on NumPy arrays."""

import sys
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from cnnforge.ops import ArrayOp

GOOD, FACTOR = np.ones((1, 1, 2), np.float32), np.ones(2, np.float32)


@numba.njit
def forward(inputs, factor, outputs):
    outputs[:] = inputs * factor[0]


@numba.njit
def backward(inputs, factor, grad_outputs, grad_inputs, grad_factor):
    grad_inputs[:] = grad_outputs * factor[0]
    grad_factor[0] = (grad_outputs * inputs).sum()


@numba.njit
def backward_inputs(factor, grad_outputs, grad_inputs):
    grad_inputs[:] = grad_outputs * factor[0]


@numba.njit
def backward_mask(grad_outputs, grad_mask, grad_inputs):
    grad_inputs[:] = grad_outputs


@numba.njit
def backward_nothing(grad_outputs):
    pass


@numba.njit
def backward_typo(grad_outputs, grad_input):
    pass


@numba.njit
def forward_unread(inputs, outputs):
    outputs[:] = inputs


def shape(inputs):
    return inputs


def shape_typo(input):
    return input


def define(**changes):
    arguments = {
        "forward": forward,
        "backward": backward,
        "inputs": {"inputs": 1, "factor": 1},
        "outputs": {"outputs": 1},
        "output_shapes": shape,
    }
    return ArrayOp(changes.pop("name", "defined"), **{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "CamelCase"}, ["CamelCase", "lower_snake_case"]),
        ({"forward": 3}, ["forward", "3", "int", "Python function"]),
        ({"backward": (backward, "x")}, ["backward", "'x'", "str", "numba.njit"]),
        ({"forward": backward}, ["'backward'", "'grad_outputs'", "not an input"]),
        ({"outputs": {"outputs": 1, "extra": 1}}, ["'forward'", "'extra'", "writes"]),
        ({"backward": backward_inputs}, ["'backward_inputs'", "'grad_factor'"]),
        ({"backward": (backward, backward_inputs)}, ["'backward'", "'grad_inputs'"]),
        ({"backward": (backward, backward_nothing)}, ["'backward_nothing'", "no gradient"]),
        (
            {"backward": backward_typo},
            ["'backward_typo'", "'grad_input'", "did you mean 'grad_inputs'?"],
        ),
        ({"backward": backward_mask}, ["'backward_mask'", "'grad_mask'"]),
        ({"not_differentiable": ["factor"]}, ["'grad_factor'", "not_differentiable"]),
        ({"not_differentiable": ["nope"]}, ["'nope'", "not an input"]),
        ({"forward": forward_unread, "backward": None}, ["'factor'", "no function reads"]),
        ({"output_shapes": shape_typo}, ["'shape_typo'", "'input'", "did you mean 'inputs'?"]),
        ({"output_shapes": (1,)}, ["output_shapes", "tuple"]),
        ({"inputs": {"inputs": -1, "factor": 1}}, ["'inputs'", "-1"]),
        ({"inputs": {"inputs": numba.float32[:], "factor": 1}}, ["'inputs'", "C-contiguous"]),
        ({"inputs": {}}, ["at least one input"]),
        ({"outputs": {"inputs": 1}}, ["'inputs'", "two of"]),
        ({"inputs": {"inputs": 1, "factor": 1, "grad_outputs": 1}}, ["'grad_outputs'"]),
        ({"attributes": {"Bad": 1}}, ["'Bad'"]),
        ({"attributes": {"text": "same"}}, ["'text'", "'same'"]),
        ({"prepare": lambda nope: None}, ["prepare", "'nope'"]),
    ],
)
def test_a_wrong_definition_names_op_function_and_argument(changes, named):
    with pytest.raises(ValueError, match="ArrayOp") as caught:
        define(**changes)
    for text in [*named, repr(changes.get("name", "defined"))]:
        assert text in str(caught.value)


def test_inputs_without_a_gradient_can_be_declared():
    op = define(backward=backward_inputs, not_differentiable=["factor"])
    inputs, factor = np.ones(3, np.float32), np.full(1, 2, np.float32)
    outputs = op.run(inputs, factor)
    grad_inputs, grad_factor = op.run_backward([inputs, factor], [outputs], [outputs])
    assert grad_inputs.tolist() == [4, 4, 4]
    assert grad_factor is None


def test_a_backward_function_gets_an_input_for_its_shape_only():
    (step,) = define(backward=backward_inputs, not_differentiable=["factor"]).backward_steps
    assert [item.name for item in step.reads] == ["inputs", "factor", "grad_outputs"]


def test_run_and_run_backward(toy):
    inputs = np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)
    factor = np.arange(4, dtype=np.float32)
    for keywords in ({}, {"flip": True, "bias": 0.5}, {"repeat": 3, "shift": (4, 1)}):
        outputs, mask = toy.toy_op.run(inputs, factor, **keywords)
        expected, expected_mask = toy.toy_oracle(inputs, factor, **keywords)
        np.testing.assert_allclose(outputs, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(mask, expected_mask)
        assert outputs.ctypes.data % 64 == mask.ctypes.data % 64 == 0
    transposed = np.asfortranarray(inputs)
    np.testing.assert_array_equal(
        toy.toy_op.run(transposed, factor)[0], toy.toy_op.run(inputs, factor)[0]
    )


def test_gradients_agree_with_finite_differences(toy):
    random = np.random.default_rng(1)
    inputs, factor = random.standard_normal((2, 3, 4)), random.standard_normal(4)
    keywords = {"flip": True, "shift": (2, 1), "repeat": 3}
    outputs, mask = toy.toy_op_float64.run(inputs, factor, **keywords)
    upstream = random.standard_normal(outputs.shape)
    found = toy.toy_op_float64.run_backward(
        [inputs, factor], [outputs, mask], [upstream, None], **keywords
    )
    for array, gradient in zip((inputs, factor), found, strict=True):
        for index in np.ndindex(array.shape):
            kept, values = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = kept + step
                values.append(
                    (toy.toy_op_float64.run(inputs, factor, **keywords)[0] * upstream).sum()
                )
            array[index] = kept
            assert gradient[index] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def test_only_the_gradients_that_are_needed_are_computed(toy):
    inputs, factor = np.ones((1, 1, 2), np.float32), np.ones(2, np.float32)
    outputs = toy.toy_op.run(inputs, factor)
    grad_inputs, grad_factor = toy.toy_op.run_backward(
        [inputs, factor], outputs, [None, None], [False, True]
    )
    assert grad_inputs is None
    assert grad_factor.tolist() == [0, 0]


def test_empty_arrays(toy):
    outputs, mask = toy.toy_op.run(np.empty((0, 3, 4), np.float32), np.ones(4, np.float32))
    assert outputs.shape == mask.shape == (0, 6, 4)


def test_an_output_without_dimensions(toy):
    assert toy.total_op.run(np.ones((2, 3), np.float32)) == 6


@pytest.mark.parametrize(
    ("inputs", "factor", "keywords", "error", "named"),
    [
        (GOOD, None, {}, ValueError, "1 inputs, expected 2"),
        (GOOD[0], FACTOR, {}, ValueError, "2 dimensions, expected 3"),
        (GOOD.astype(np.float64), FACTOR, {}, TypeError, "float64, expected float32"),
        (GOOD, FACTOR, {"nope": 1}, TypeError, "'nope'"),
        (GOOD, FACTOR, {"repeat": 1.5}, TypeError, "'repeat'"),
        (GOOD, FACTOR, {"shift": (1,)}, ValueError, "2 integers"),
        (GOOD, FACTOR, {"repeat": -1}, ValueError, "negative"),
    ],
)
def test_wrong_calls(toy, inputs, factor, keywords, error, named):
    arrays = [inputs] if factor is None else [inputs, factor]
    with pytest.raises(error, match=named):
        toy.toy_op.run(*arrays, **keywords)


def test_the_exception_of_a_function_is_raised_as_it_is(toy):
    with pytest.raises(ValueError, match="repeat is negative") as caught:
        toy.toy_op.run(np.empty((1, 0, 2), np.float32), np.ones(2, np.float32), repeat=-1)
    assert caught.value.args == ("repeat is negative:", -1)


def plain_helper(value):
    return value


def unknown_attribute(inputs, factor, outputs):
    outputs[:] = inputs.no_such_attribute


def plain_call(inputs, factor, outputs):
    outputs[:] = plain_helper(inputs)


def wrong_rank(inputs, factor, outputs):
    outputs[0] = inputs[0, 1]


def wrong_assignment(inputs, factor, outputs):
    outputs[0] = inputs


def wrong_keyword(inputs, factor, outputs):
    outputs[0] = np.sum(inputs, keepdims=True)[0]


def unknown_function(inputs, factor, outputs):
    outputs[:] = np.no_such_function(inputs)  # pyright: ignore


def unknown_name(inputs, factor, outputs):
    outputs[:] = no_such_name  # noqa: F821  # pyright: ignore


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (unknown_attribute, "Unknown attribute 'no_such_attribute' of type array(float32, 1d, C)"),
        (plain_call, "it calls 'plain_helper', a plain Python function: decorate that with"),
        (wrong_rank, "cannot index array(float32, 1d, C) with 2 indices"),
        (
            wrong_assignment,
            "setitem(array(float32, 1d, C), Literal[int](0), array(float32, 1d, C))",
        ),
        (wrong_keyword, "got an unexpected keyword argument 'keepdims'"),
        (unknown_function, "no_such_function"),
        (unknown_name, "name 'no_such_name' is not defined"),
    ],
    ids=lambda it: getattr(it, "__name__", "-"),
)
def test_a_function_that_does_not_compile_is_explained_in_one_line(function, reason):
    with pytest.raises(ValueError, match="does not compile for") as caught:
        define(name="broken", forward=function, backward=None).run(GOOD[0, 0], FACTOR)
    message = str(caught.value)
    assert f"ArrayOp 'broken': the forward function '{function.__name__}'" in message
    assert "(inputs: array(float32, 1d, C), factor: array(float32, 1d, C)" in message
    assert reason in message
    assert "\n" not in message
    assert len(message) < 500
    assert caught.value.__cause__ is not None


def double(inputs, outputs):
    for index in range(inputs.size):
        outputs[index] = 2 * inputs[index]


def double_backward(grad_outputs, grad_inputs):
    grad_inputs[:] = 2 * grad_outputs


def test_plain_functions_are_compiled_and_stay_callable():
    op = ArrayOp(
        "doubled_by_plain_functions",
        forward=double,
        backward=double_backward,
        inputs={"inputs": 1},
        outputs={"outputs": 1},
        output_shapes=shape,
    )
    array = np.arange(3, dtype=np.float32)
    assert op.run(array).tolist() == [0, 2, 4]
    assert op.run_backward([array], [array], [array])[0].tolist() == [0, 2, 4]
    outputs = np.empty(3, np.float32)
    double(array, outputs)
    assert outputs.tolist() == [0, 2, 4]
    names: dict = {}
    exec("def typed_in(inputs, outputs):\n    outputs[:] = inputs", names)
    other = ArrayOp(
        "typed_in",
        forward=names["typed_in"],
        inputs={"inputs": 1},
        outputs={"outputs": 1},
        output_shapes=lambda inputs: inputs,
    )
    assert other.run(array).tolist() == [0, 1, 2]


def overrun(inputs, factor, outputs):
    for index in range(inputs.size):
        outputs[index] = inputs[index]


def overrun_backward(grad_outputs, grad_inputs, grad_factor):
    for index in range(grad_inputs.size + 1):
        grad_inputs[index] = 0
    grad_factor[:] = 0


def test_writing_beyond_the_end_is_an_error():
    short = define(
        name="short", forward=overrun, backward=None, output_shapes=lambda inputs: (inputs[0] - 1,)
    )
    with pytest.raises(
        ValueError, match=r"'overrun' writes beyond .* 'outputs'.*\(1,\) of the shape"
    ):
        short.run(GOOD[0, 0], FACTOR)
    back = define(name="back", backward=overrun_backward)
    with pytest.raises(
        ValueError, match="'overrun_backward' writes beyond the end of 'grad_inputs'"
    ):
        back.run_backward([GOOD[0, 0], FACTOR], [FACTOR], [FACTOR])


def test_a_function_that_returns_something_is_refused():
    @numba.njit
    def returning(inputs, factor, outputs):
        return 1

    with pytest.raises(ValueError, match=r"'returning' returns a .*int"):
        define(name="returns", forward=returning, backward=None).run(
            np.ones(1, np.float32), np.ones(1, np.float32)
        )


def test_shapes_that_are_not_known(toy):
    op = toy.toy_op
    values = dict(toy.ATTRIBUTES)
    assert op.output_shapes([(None, 3, 4), (4,)], values) == ((None, 6, 4), (None, 6, 4))
    assert op.output_shapes([(2, None, 4), (4,)], values) == ((2, None, 4), (2, None, 4))
    strided = define(name="strided", output_shapes=lambda inputs: ((inputs[0] - 3) // 7 + 1,))
    assert strided.output_shapes([(None,), (1,)], {}) == ((None,),)
    assert strided.output_shapes([(10,), (None,)], {}) == ((2,),)


def test_a_shape_rule_that_rejects_what_is_tried_leaves_everything_unknown():
    def picky(inputs):
        if inputs[0] != 3:
            raise ValueError("three, please")
        return inputs

    op = define(name="picky", output_shapes=picky)
    assert op.output_shapes([(None,), (1,)], {}) == ((None,),)
    with pytest.raises(ValueError, match="three"):
        op.output_shapes([(4,), (1,)], {})


@pytest.mark.parametrize("rule", [lambda inputs: 3, lambda inputs: (1, 2), lambda inputs: (-1,)])
def test_a_shape_rule_must_return_shapes(rule):
    with pytest.raises(ValueError, match="shape rule '<lambda>' returned"):
        define(name="odd", output_shapes=rule).output_shapes([(3,), (1,)], {})


def test_prepare_is_called_once_with_what_it_names(toy):
    calls = []

    def prepare(inputs, scale, gradient):
        calls.append((inputs, scale, gradient))

    op = define(name="prepared", prepare=prepare, attributes={"scale": 2})
    array = np.ones(3, np.float32)
    for _ in range(2):
        outputs = op.run(array, array[:1])
    assert calls == [((3,), 2, False)]
    op.run_backward([array, array[:1]], [outputs], [outputs], scale=3)
    assert calls[1:] == [((3,), 3, True)]


def test_an_op_can_be_defined_again_by_its_own_module_only(monkeypatch):
    define(name="again")
    assert define(name="again").run(np.ones(1, np.float32), np.ones(1, np.float32)) == 1
    other = SimpleNamespace(**{"__name__": "elsewhere"})
    monkeypatch.setattr(forward.py_func, "__module__", other.__name__)
    with pytest.raises(ValueError, match=r"'elsewhere' has the name of one in"):
        define(name="again")


def test_gradients_of_an_op_without_backward_are_an_error(toy):
    with pytest.raises(ValueError, match="no backward function"):
        toy.total_op.run_backward([np.ones((1, 1), np.float32)], [np.float32(1)], [np.float32(1)])


def test_importing_imports_no_framework(run_python):
    source = "import sys, cnnforge.ops; print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    assert run_python(source).split() == ["False", "False"]


def test_another_backend_is_refused(run_python):
    source = """
import numba
from types import SimpleNamespace
import sys
from cnnforge.errors import UsageError
import cnnforge.ops
sys.modules["keras"] = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "numpy"))
try:
    cnnforge.ops.route()
except UsageError as error:
    print(error)
"""
    assert "'numpy'" in run_python(source)
    assert sys.modules.get("keras") is None or hasattr(sys.modules["keras"], "layers")


def test_the_shape_rule_for_a_layer():
    op = ArrayOp(
        "shape_of_output",
        forward=lambda inputs, bias, stride, outputs: None,
        inputs={"inputs": 3, "bias": 1},
        outputs={"outputs": 3},
        output_shapes=lambda inputs, stride: (inputs[0], -(-inputs[1] // stride), inputs[2]),
        attributes={"stride": 1},
    )
    assert op.output_shape((2, 5, 3), stride=2) == (2, 3, 3)
    assert op.output_shape([None, None, 3], (3,), stride=2) == (None, None, 3)
    with pytest.raises(ValueError, match=r"the shape \(2, 5\) of 'inputs' has 2 dimensions, expe"):
        op.output_shape((2, 5))
    with pytest.raises(ValueError, match="reads the shape of 'inputs', and 0 of 2 shapes were"):
        op.output_shape()
    with pytest.raises(TypeError, match="steps"):
        op.output_shape((2, 5, 3), steps=2)
