"""Each rule merges what it is for, and the values stay."""

import numpy as np
import pytest
from plan_steps import Chain, images

from cnnforge_kernels.plan import interpret, optimize

SAME = [[1, 1], [1, 1]]


def kinds(program):
    return [step.kind for step in program.steps[1:]]


def check(program, expected):
    """Compare the steps after the merging with those expected, and the values with those before."""
    merged = optimize(program)
    assert kinds(merged) == expected
    x = images(program)
    before, after = (interpret(it, x, np.float64) for it in (program, merged))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    return merged


CASES = {
    "normalization after a convolution": (
        Chain().convolution(padding=SAME).affine(),
        ["convolution"],
    ),
    "normalization after a depthwise convolution": (
        Chain().depthwise(multiplier=2).affine(activation={"name": "relu"}),
        ["depthwise"],
    ),
    "normalization after a dense layer": (Chain((1, 1, 4)).dense().affine(), ["dense"]),
    "normalization twice": (
        Chain().activation("tanh").affine().affine(),
        ["activation", "affine"],
    ),
    "not after an activation": (
        Chain().convolution().activation("relu").affine(),
        ["convolution", "affine"],
    ),
    "scale of the images": (Chain().affine().convolution(padding=SAME), ["convolution"]),
    "scale before a convolution": (
        Chain().activation("tanh").affine().convolution(),
        ["activation", "convolution"],
    ),
    "scale before a depthwise convolution": (
        Chain().activation("tanh").affine().depthwise(multiplier=2),
        ["activation", "depthwise"],
    ),
    "scale before a dense layer": (
        Chain((1, 1, 4)).activation("tanh").affine().dense(),
        ["activation", "dense"],
    ),
    "scale without offset before padding": (
        Chain().activation("tanh").affine(offset=False).convolution(padding=SAME),
        ["activation", "convolution"],
    ),
    "offset before padding stays": (
        Chain().activation("tanh").affine().convolution(padding=SAME),
        ["activation", "affine", "convolution"],
    ),
    "normalization behind padding": (
        Chain().convolution().add("pad", padding=SAME).affine(offset=False).activation("tanh"),
        ["convolution", "pad", "activation"],
    ),
    "normalization behind padding, with an offset": (
        Chain().convolution().add("pad", padding=SAME).affine().activation("tanh"),
        ["convolution", "pad", "affine", "activation"],
    ),
    "relu6": (Chain().convolution().activation("relu6"), ["convolution"]),
    "relu after an addition": (
        Chain().activation("tanh").add("add", "image").activation("relu"),
        ["activation", "add"],
    ),
    "another activation stays": (
        Chain().convolution().activation("swish"),
        ["convolution", "activation"],
    ),
    "padding before a convolution": (
        Chain().add("pad", padding=[[1, 0], [0, 2]]).convolution(padding=SAME, strides=[2, 2]),
        ["convolution"],
    ),
    "padding before a depthwise convolution": (
        Chain().add("pad", padding=[[0, 1], [2, 0]]).depthwise(),
        ["depthwise"],
    ),
    "padding before a max pool": (
        Chain()
        .activation("relu")
        .add("pad", padding=SAME)
        .add("max_pool", window=[3, 3], strides=[2, 2]),
        ["activation", "max_pool"],
    ),
    "padding of negative values before a max pool": (
        Chain().add("pad", padding=SAME).add("max_pool", window=[3, 3], strides=[2, 2]),
        ["pad", "max_pool"],
    ),
    "padding that fills a window": (
        Chain()
        .activation("relu")
        .add("pad", padding=[[2, 0], [0, 0]])
        .add("max_pool", window=[2, 2], strides=[2, 2]),
        ["activation", "pad", "max_pool"],
    ),
    "padding before an average pool counts": (
        Chain().add("pad", padding=SAME).add("average_pool", window=[3, 3], strides=[2, 2]),
        ["pad", "average_pool"],
    ),
    "padding twice": (
        Chain().add("pad", padding=SAME).add("pad", padding=[[0, 1], [0, 0]], channels=[1, 0]),
        ["pad"],
    ),
    "every second pixel": (
        Chain().add("max_pool", window=[1, 1], strides=[2, 3]).convolution(window=(1, 1)),
        ["convolution"],
    ),
    "max pool of a convolution": (
        Chain().convolution().activation("relu").add("max_pool", window=[2, 2], strides=[2, 2]),
        ["convolution"],
    ),
    "relu after the max pool": (
        Chain().convolution().add("max_pool", window=[2, 3], strides=[2, 3]).activation("relu"),
        ["convolution"],
    ),
    "max pool that overlaps": (
        Chain().convolution().activation("relu").add("max_pool", window=[3, 3], strides=[2, 2]),
        ["convolution", "max_pool"],
    ),
    "reversed channels": (
        Chain().add("channels", arrays={"index": np.array([2, 1, 0])}).convolution(),
        ["convolution"],
    ),
    "reversed channels, scaled": (
        Chain().add("channels", arrays={"index": np.array([2, 1, 0])}).affine().convolution(),
        ["convolution"],
    ),
    "repeated channels are not added up": (
        Chain((9, 8, 1)).add("concatenate", "image", "image").convolution(),
        ["channels", "convolution"],
    ),
    "reshape twice": (
        Chain().add("reshape", shape=[4, 54]).add("reshape", shape=[216]).dense(),
        ["reshape", "dense"],
    ),
    "nothing": (
        Chain()
        .add("pad", padding=[[0, 0], [0, 0]])
        .add("crop", padding=[[0, 0], [0, 0]])
        .add("concatenate")
        .add("upsample", size=[1, 1], interpolation="nearest")
        .add("max_pool", window=[1, 1])
        .add("channels", arrays={"index": np.array([0, 1, 2])})
        .add("reshape", shape=[9, 8, 3])
        .activation("tanh"),
        ["activation"],
    ),
    "the same twice": (
        Chain().activation("tanh").activation("relu").add("max_pool", window=[2, 2]),
        ["activation", "activation", "max_pool"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    chain, expected = CASES[name]
    check(chain.program(), expected)


def test_scale_of_repeated_channels():
    scale, offset = np.full(3, 0.5, "f4"), np.full(3, -1, "f4")
    chain = Chain((9, 8, 1)).add("concatenate", "image", "image")
    chain.add("affine", arrays={"scale": scale, "offset": offset}).convolution(padding=SAME)
    merged = check(chain.program(), ["channels", "convolution"])
    assert merged.steps[0].arrays["scale"] == [0.5]


def test_different_scales_of_repeated_channels():
    chain = Chain((9, 8, 1)).add("concatenate", "image", "image").affine().convolution(padding=SAME)
    check(chain.program(), ["channels", "affine", "convolution"])


def test_addition_goes_into_the_later_convolution():
    chain = Chain().convolution(3, padding=SAME)
    first = chain.last
    chain.last = "image"
    chain.convolution(3, padding=SAME).affine().add("add", first).activation("relu")
    merged = check(chain.program(), ["convolution", "convolution"])
    assert merged.steps[-1].inputs == ("image", first)
    assert merged.steps[-1].activation == {"name": "relu"}


def test_addition_of_other_shapes_stays():
    chain = Chain().add("global_average_pool", keepdims=True).convolution(3, (1, 1))
    chain.add("add", "image")
    check(chain.program(), ["global_average_pool", "convolution", "add"])


def test_a_value_that_is_added_to_itself():
    chain = Chain().convolution(3)
    chain.add("add", chain.last)
    check(chain.program(), ["convolution", "add"])


def test_a_value_that_is_read_twice_is_not_merged():
    chain = Chain().convolution(3)
    convolved = chain.last
    chain.affine().activation("relu").add("concatenate", convolved)
    check(chain.program(), ["convolution", "affine", "concatenate"])


def test_an_output_is_not_merged():
    chain = Chain().convolution(3)
    convolved = chain.last
    program = chain.affine().program([convolved, chain.last])
    merged = optimize(program)
    assert kinds(merged) == ["convolution", "affine"]
    x = images(program)
    for before, after in zip(interpret(program, x), interpret(merged, x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_equal_steps_are_computed_once():
    chain = Chain().activation("tanh")
    source = chain.last
    chain.activation("relu")
    first = chain.last
    chain.last = source
    chain.activation("relu").add("concatenate", first)
    check(chain.program(), ["activation", "activation", "channels"])


def test_the_program_stays_as_it_is():
    program = Chain().convolution().affine().activation("relu").program()
    x = images(program)
    before = interpret(program, x)
    optimize(program)
    np.testing.assert_array_equal(interpret(program, x), before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_pixels_give_the_same(value):
    chain = Chain((9, 8, 1)).affine().convolution(3, padding=SAME).affine().activation("relu")
    chain.add("pad", padding=SAME).add("max_pool", window=[3, 3], strides=[2, 2])
    program = chain.program()
    x = images(program)
    x[0, 4, 4] = value
    merged = optimize(program)
    assert kinds(merged) == ["convolution", "max_pool"]
    np.testing.assert_allclose(interpret(merged, x), interpret(program, x), rtol=1e-4, atol=1e-5)
