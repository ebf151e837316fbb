"""Programs whose steps do not fit together are refused; the interpreter computes what it should."""

import numpy as np
import pytest
from plan_steps import Chain, images

from cnnforge_kernels import reference
from cnnforge_kernels.plan import PlanError, Program, Step, interpret

IMAGE = Step("input", (), "image", {"shape": [4, 4, 2]})
WEIGHTS = {"weights": np.ones((3, 3, 2, 5), "f4"), "bias": np.zeros(5, "f4")}
FOUR = {"scale": np.ones(4, "f4"), "offset": np.ones(4, "f4")}
WRONG = {
    "no steps": ((), "image", "it has no steps"),
    "no input": ((Step("reshape", (), "x", {"shape": [2]}),), "x", "must be the input"),
    "two inputs": ((IMAGE, Step("input", (), "b", {"shape": [4, 4, 2]})), "b", "must be the input"),
    "an unknown kind": ((IMAGE, Step("swirl", ("image",), "x")), "x", "no kind .* 'swirl'"),
    "an unknown value": ((IMAGE, Step("crop", ("y",), "x")), "x", "unknown values"),
    "a value twice": ((IMAGE, Step("crop", ("image",), "image")), "x", "a value again"),
    "an unknown output": ((IMAGE,), "x", "no step computes the output 'x'"),
    "a wrong structure": ((IMAGE,), 3, "outputs must be names"),
    "open size": ((Step("input", (), "x", {"shape": [4, None, 2]}),), "x", r"\(H, W, C\)"),
    "too large a window": (
        (IMAGE, Step("convolution", ("image",), "x", {"dilation": [2, 2]}, WEIGHTS)),
        "x",
        "larger than the inputs",
    ),
    "wrong channels": (
        (IMAGE, Step("depthwise", ("image",), "x", {}, {**WEIGHTS, "bias": np.ones(15, "f4")})),
        "x",
        "wrong shape",
    ),
    "wrong bias": (
        (IMAGE, Step("convolution", ("image",), "x", {}, {**WEIGHTS, "bias": np.ones(4, "f4")})),
        "x",
        "wrong shape",
    ),
    "float64": (
        (IMAGE, Step("convolution", ("image",), "x", {}, {**WEIGHTS, "bias": np.ones(5)})),
        "x",
        "must be an array of float32",
    ),
    "negative padding": (
        (IMAGE, Step("pad", ("image",), "x", {"padding": [[-1, 0], [0, 0]]})),
        "x",
        "four integers",
    ),
    "an addition and a pool": (
        (IMAGE, Step("convolution", ("image",), "y", {}, WEIGHTS),
         Step("convolution", ("image", "y"), "x", {"pool": [2, 2]}, WEIGHTS)),
        "x",
        "both add an array and pool",
    ),
    "too many inputs": (
        (IMAGE, Step("convolution", ("image",) * 3, "x", {}, WEIGHTS)),
        "x",
        "kind convolution is not possible",
    ),
    "wrong groups": (
        (IMAGE, Step("convolution", ("image",), "x", {"groups": 3}, WEIGHTS)),
        "x",
        "groups",
    ),
    "an unknown activation": (
        (IMAGE, Step("activation", ("image",), "x", {"activation": {"name": "swirl"}})),
        "x",
        "unknown activation",
    ),
    "a parameter that is code": (
        (IMAGE, Step("activation", ("image",), "x", {"activation": {"name": "elu", "alpha": "x"}})),
        "x",
        "wrong parameters",
    ),
    "a softmax inside a convolution": (
        (IMAGE, Step("convolution", ("image",), "x", {"activation": {"name": "softmax"}}, WEIGHTS)),
        "x",
        "a step of its own",
    ),
    "wrong scale": ((IMAGE, Step("affine", ("image",), "x", {}, FOUR)), "x", "for each of 2"),
    "wrong shape": (
        (IMAGE, Step("reshape", ("image",), "x", {"shape": [5]})),
        "x",
        "cannot be reshaped",
    ),
    "wrong index": (
        (IMAGE, Step("channels", ("image",), "x", {}, {"index": np.array([2])})),
        "x",
        "have 2 channels",
    ),
    "a padding as large as the window": (
        (
            IMAGE,
            Step("max_pool", ("image",), "x", {"window": [2, 2], "padding": [[2, 0], [0, 0]]}),
        ),
        "x",
        "not smaller than the window",
    ),
    "nothing left": (
        (IMAGE, Step("crop", ("image",), "x", {"padding": [[2, 2], [0, 0]]})),
        "x",
        "has no output",
    ),
    "shapes that do not merge": (
        (IMAGE, Step("crop", ("image",), "y", {"padding": [[1, 0], [0, 0]]}),
         Step("add", ("image", "y"), "x")),
        "x",
        "kind add is not possible",
    ),
    "different sizes together": (
        (IMAGE, Step("crop", ("image",), "y", {"padding": [[1, 0], [0, 0]]}),
         Step("concatenate", ("image", "y"), "x")),
        "x",
        "differ in their channels only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_program(name):
    steps, outputs, reason = WRONG[name]
    with pytest.raises(PlanError, match=reason):
        Program(steps, outputs)


def test_convolution_is_that_of_the_reference():
    chain = Chain((7, 6, 4)).convolution(6, (3, 2), strides=[2, 1], dilation=[1, 2], groups=2)
    arrays = chain.steps[-1].arrays
    x = images(chain.program())
    expected = reference.conv2d(
        x, arrays["weights"], arrays["bias"], strides=(2, 1), dilation_rate=(1, 2), groups=2
    )
    result = interpret(chain.program(), x, np.float64)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_convolution_that_adds_and_activates():
    chain = Chain((8, 8, 2)).convolution(3, (1, 1))
    added = chain.last
    chain.convolution(3, padding=[[2, 0], [1, 1]])
    program = chain.program([added, chain.last])
    x = images(program)
    first, second = interpret(program, x, np.float64)
    last = chain.steps[-1]
    changed = last.changed(inputs=(added, added), activation={"name": "relu6"})
    result = interpret(Program((*chain.steps[:-1], changed), last.output), x, np.float64)
    np.testing.assert_allclose(result, np.clip(first + second, 0, 6), rtol=1e-12)


def test_convolution_that_pools():
    chain = Chain((8, 8, 2)).convolution(3, padding=[[2, 0], [1, 1]])
    last = chain.steps[-1]
    x = images(chain.program())
    whole = interpret(chain.program(), x, np.float64)
    pooled = last.changed(pool=[2, 3], activation={"name": "relu"})
    result = interpret(Program((chain.steps[0], pooled), last.output), x, np.float64)
    expected = np.maximum(whole, 0)[:, :, :6].reshape(len(x), 4, 2, 2, 3, 3).max((2, 4))
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_depthwise_is_that_of_the_reference():
    chain = Chain((7, 6, 4)).depthwise((3, 2), 2, strides=[2, 2])
    arrays = chain.steps[-1].arrays
    x = images(chain.program())
    expected = reference.depthwise_conv2d(x, arrays["weights"], arrays["bias"], strides=(2, 2))
    result = interpret(chain.program(), x, np.float64)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_structure_of_the_outputs():
    chain = Chain().activation("relu")
    program = chain.program({"a": ["image", chain.last], "b": {"c": chain.last}})
    x = images(program)
    result = interpret(program, x)
    np.testing.assert_array_equal(result["a"][0], x)
    np.testing.assert_array_equal(result["b"]["c"], np.maximum(x, 0))
    assert program.output_names == ["image", "v1", "v1"]
