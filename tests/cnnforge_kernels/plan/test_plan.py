"""Plans compute what the interpreter computes: each kind of step, any batch, any thread."""

import os
import threading

import numpy as np
import pytest
from plan_steps import Chain, images

from cnnforge_kernels.plan import Plan, interpret, optimize
from cnnforge_kernels.plan.plan import _KEPT_BINDINGS

SAME = [[1, 1], [1, 1]]


def squeezed():
    """A gate for each channel, as in squeeze-and-excite."""
    chain = Chain()
    chain.add("global_average_pool", keepdims=True).activation("sigmoid")
    gate, chain.last = chain.last, "image"
    return chain.add("multiply", gate, activation={"name": "relu"})


def two(kind, **options):
    chain = Chain().activation("tanh")
    return chain.add(kind, "image", **options)


STEPS = {
    "convolution": Chain().convolution(padding=SAME, activation={"name": "relu6"}),
    "convolution with strides": Chain().convolution(7, padding=[[0, 1], [2, 0]], strides=[2, 3]),
    "convolution in groups": Chain((9, 8, 4)).convolution(6, groups=2, dilation=[2, 1]),
    "convolution and pool": Chain().convolution(
        padding=SAME, activation={"name": "relu"}, pool=[2, 3]
    ),
    "1x1 convolution": Chain().convolution(17, (1, 1), activation={"name": "relu"}),
    "1x1 convolution with strides": Chain().convolution(17, (1, 1), strides=[2, 2]),
    "addition": Chain().convolution(3, padding=SAME).convolution(3, padding=SAME),
    "depthwise": Chain().depthwise(padding=[[0, 2], [1, 1]], activation={"name": "relu6"}),
    "depthwise with a multiplier": Chain().depthwise(multiplier=2, strides=[2, 2]),
    "dense": Chain((1, 1, 5)).dense(7, activation={"name": "relu"}),
    "dense on pixels": Chain().dense(7),
    "affine": Chain().affine(activation={"name": "relu"}),
    "max pool": Chain().add("max_pool", window=[3, 3], strides=[2, 2], padding=SAME),
    "average pool": Chain().add(
        "average_pool", window=[3, 2], strides=[2, 1], padding=[[1, 1], [0, 1]]
    ),
    "every second pixel": Chain().add("max_pool", window=[1, 1], strides=[2, 3]),
    "global average": Chain().add("global_average_pool"),
    "global average with its axes": Chain().add("global_average_pool", keepdims=True),
    "global maximum": Chain().add("global_max_pool"),
    "pad": Chain().add("pad", padding=[[1, 0], [2, 3]]),
    "pad channels": Chain().add("pad", channels=[1, 2]),
    "pad everything": Chain().add("pad", padding=SAME, channels=[1, 2]),
    "crop": Chain().add("crop", padding=[[1, 0], [2, 3]]),
    "concatenate": Chain().activation("relu").add("concatenate", "image"),
    "nearest": Chain().add("upsample", size=[2, 3], interpolation="nearest"),
    "bilinear": Chain().add("upsample", size=[3, 2], interpolation="bilinear"),
    "reshape": Chain().add("reshape", shape=[6, 36]),
    "repeated channels": Chain().add("channels", arrays={"index": np.array([0, 1, 2, 0, 1, 2])}),
    "reversed channels": Chain().add("channels", arrays={"index": np.array([2, 1, 0])}),
    "gate": squeezed(),
    "difference": two("subtract"),
    "difference of a gate": Chain()
    .add("global_max_pool", keepdims=True)
    .add("subtract", "image", activation={"name": "relu"}),
    "maximum": two("maximum"),
    "minimum": two("minimum"),
    "average": two("average", activation={"name": "relu"}),
    "sum of three": Chain().activation("tanh").add("add", "image", "image"),
    "broadcast rows": Chain((9, 1, 3))
    .add("upsample", size=[1, 4], interpolation="nearest")
    .add("add", "image"),
    **{
        name: Chain().activation(name)
        for name in (
            "relu", "relu6", "sigmoid", "softmax", "tanh", "swish", "softplus", "softsign",
            "exponential", "hard_sigmoid", "hard_swish", "mish",
        )
    },
    "leaky relu": Chain().activation("leaky_relu", slope=0.3),
    "elu": Chain().activation("elu", alpha=0.7),
    "gelu": Chain().activation("gelu", approximate=False),
    "gelu with tanh": Chain().activation("gelu", approximate=True),
    "general relu": Chain().activation("general_relu", slope=0.1, threshold=0.2, max_value=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_step(name):
    program = STEPS[name].program()
    x = images(program, 5)
    plan = Plan(program, block=3)
    plan.predict(x[:1])
    # What an earlier call left in the memory must not count.
    plan._memory[:] = np.nan
    result = plan.predict(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, interpret(program, x, np.float64), rtol=1e-4, atol=1e-5)


def network():
    """A network with a branch, two outputs, and everything merged that can be."""
    chain = Chain((12, 10, 3)).affine()
    # Images of uint8 are as large.
    chain.steps[-1].arrays["scale"][:] /= 255
    chain.convolution(8, padding=SAME).affine().activation("relu")
    branch = chain.last
    chain.depthwise(padding=SAME).affine().activation("relu6").convolution(8, (1, 1))
    chain.add("add", branch).activation("relu")
    maps = chain.last
    chain.add("max_pool", window=[2, 2], strides=[2, 2]).add("upsample", size=[2, 2],
        interpolation="nearest").add("concatenate", maps)  # fmt: skip
    chain.add("global_average_pool").dense(5).activation("softmax")
    return optimize(chain.program({"maps": maps, "classes": [chain.last]}))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_network(dtype):
    program = network()
    x = images(program, 11, dtype)
    expected, result = interpret(program, x, np.float64), Plan(program, block=4).predict(x)
    scale = np.abs(expected["maps"]).max()
    np.testing.assert_allclose(result["maps"], expected["maps"], rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(result["classes"][0], expected["classes"][0], atol=1e-5)


def test_batches_of_any_size():
    program = network()
    x = images(program, 40)
    plan = Plan(program, block=16)
    whole = plan.predict(x)
    for count in (0, 1, 2, 40, 7, 16, 17, 3, 5, 9, 11, 13, 15, 33, 1):
        result = plan.predict(x[:count])
        assert result["maps"].shape == (count, 12, 10, 8)
        np.testing.assert_allclose(result["maps"], whole["maps"][:count], rtol=1e-5, atol=1e-5)
        assert len(plan._bindings) <= _KEPT_BINDINGS


def test_results_stay_when_other_images_follow():
    program = network()
    plan = Plan(program)
    first = plan.predict(images(program, 2, seed=1))["maps"]
    kept = first.copy()
    plan.predict(images(program, 2, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_images_that_are_not_contiguous():
    program = network()
    x = images(program, 8, np.uint8)
    plan = Plan(program)
    expected = plan.predict(np.ascontiguousarray(x[::2, ::-1]))["maps"]
    np.testing.assert_array_equal(plan.predict(x[::2, ::-1])["maps"], expected)


def test_the_images_stay_as_they_are():
    chain = Chain().activation("relu").add("add", "image")
    program = chain.program(["image", chain.last])
    x = images(program)
    before = x.copy()
    result = Plan(program).predict(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(result[0], before)
    np.testing.assert_allclose(result[1], np.maximum(before, 0) + before)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.zeros((2, 12, 10, 3)), "uint8 or float32. Received: float64"),
        (np.zeros((2, 12, 10, 3), ">f4"), "uint8 or float32. Received: >f4"),
        ([[1.0]], "Received: list"),
        (np.zeros((12, 10, 3), np.uint8), r"the shape \(N, 12, 10, 3\). Received: \(12, 10, 3\)"),
        (np.zeros((2, 12, 10, 1), np.uint8), "Received: \\(2, 12, 10, 1\\)"),
    ],
)
def test_wrong_images(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        Plan(network()).predict(wrong)


def test_threads_at_once():
    program = network()
    plan = Plan(program, block=4)
    x = images(program, 24)
    expected = plan.predict(x)["maps"]
    wrong = []

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(20):
            begin, count = random.integers(0, 20), random.integers(0, 9)
            result = plan.predict(x[begin : begin + count])["maps"]
            if not np.allclose(result, expected[begin : begin + count], rtol=1e-5, atol=1e-5):
                wrong.append((begin, count))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_go_on():
    program = network()
    plan = Plan(program, block=4)
    x = images(program, 9)
    expected = plan.predict(x)["maps"]
    child = os.fork()
    if child == 0:
        same = np.array_equal(plan.predict(x)["maps"], expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_pixels(value):
    program = network()
    x = images(program, 3)
    x[1, 5, 5, 0] = value
    expected, result = interpret(program, x), Plan(program).predict(x)
    for index in (0, 2):
        assert np.isfinite(result["maps"][index]).all()
    np.testing.assert_allclose(result["maps"], expected["maps"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result["classes"][0], expected["classes"][0], atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_special_weights(value):
    chain = Chain().convolution(4, activation={"name": "relu"})
    chain.steps[-1].arrays["weights"][1, 1, 0, 2] = value
    chain.add("global_average_pool").dense(3)
    program = chain.program()
    x = images(program)
    np.testing.assert_allclose(Plan(program).predict(x), interpret(program, x), rtol=1e-4)
