"""Values that are needed at the same time never share memory."""

from math import prod

import numpy as np
import pytest
from plan_steps import Chain, images

from cnnforge_kernels.plan import Plan, interpret
from cnnforge_kernels.plan.buffers import place


def random_chain(seed):
    """A network with random branches, in which many values live at the same time."""
    random = np.random.default_rng(seed)
    chain = Chain((6, 5, 4), seed)
    names = ["image"]
    for _ in range(25):
        chain.last = names[random.integers(max(0, len(names) - 5), len(names))]
        other = names[random.integers(0, len(names))]
        kind = random.integers(0, 7)
        if kind == 0:
            chain.convolution(4, padding=[[1, 1], [1, 1]])
        elif kind == 1:
            chain.activation("relu")
        elif kind == 2:
            chain.affine()
        elif kind == 3:
            chain.add("reshape", shape=[5, 6, 4]).add("reshape", shape=[6, 5, 4])
        elif kind == 4:
            chain.activation("tanh")
        else:
            chain.add(("add", "maximum")[kind - 5], other)
        names.append(chain.last)
    kept = [names[index] for index in random.integers(0, len(names), 3)]
    return chain.program([*kept, names[-1]])


@pytest.mark.parametrize("seed", range(25))
def test_random_networks(seed):
    program = random_chain(seed)
    x = images(program, 3)
    results = Plan(program, block=2).predict(x)
    for result, expected in zip(results, interpret(program, x, np.float64), strict=True):
        scale = max(np.abs(expected).max(), 1)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5 * scale)


def test_a_value_that_a_step_reads_by_two_names_is_not_overwritten():
    chain = Chain((4, 4, 3)).activation("sigmoid")
    other = chain.last
    chain.last = "image"
    first = chain.activation("tanh").last
    flat = chain.add("reshape", shape=[48]).last
    same = chain.add("reshape", shape=[4, 4, 3]).last
    chain.last = first
    program = chain.add("add", other, same).program([chain.last])
    assert flat != same
    x = images(program, 2)
    (result,) = Plan(program).predict(x)
    (expected,) = interpret(program, x)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_memory_is_used_again():
    chain = Chain((6, 5, 4))
    for _ in range(10):
        chain.convolution(4, padding=[[1, 1], [1, 1]]).activation("tanh")
    places = place(chain.program())
    assert places.size == 2 * -(-prod((6, 5, 4)) // 16) * 16


def test_elementwise_steps_write_over_their_input():
    chain = Chain((6, 5, 4)).activation("tanh").affine().activation("relu")
    assert len(set(place(chain.program()).offsets.values())) == 1


def test_each_value_begins_at_a_cache_line():
    program = random_chain(3)
    assert all(offset % 16 == 0 for offset in place(program).offsets.values())
    plan = Plan(program)
    plan.predict(images(program, 1))
    assert plan._memory.ctypes.data % 64 == 0
