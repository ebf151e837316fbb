"""Blocks of a MobileNet: found where they are, and computed as their steps are."""

from __future__ import annotations

import numpy as np
import pytest
from plan_steps import Chain, images

from cnnforge_kernels.plan import Plan, depthwise_blocks, interpret
from cnnforge_kernels.plan.depthwise_blocks import Block

SAME = [[1, 1], [1, 1]]
RELU6 = {"name": "relu6"}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(depthwise_blocks, "_MIN_BETWEEN", 1)


def residual(**options):
    """Two blocks; the second adds its source."""
    chain = Chain((17, 9, 6), **options)
    chain.convolution(40, (1, 1), activation=RELU6)
    chain.depthwise(padding=[[0, 1], [0, 1]], strides=[2, 2], activation=RELU6)
    source = chain.convolution(8, (1, 1)).last
    chain.convolution(40, (1, 1), activation=RELU6).depthwise(padding=SAME, activation=RELU6)
    return chain, source


def check(program, blocks):
    found = depthwise_blocks.depthwise_blocks(program)
    assert [tuple(step is not None for step in block) for block in found.values()] == blocks
    values = interpret(program, images(program))
    for count in (1, 3):
        plan = Plan(program, block=count)
        got = plan.predict(images(program))
        for _ in range(2):
            np.testing.assert_allclose(got, values, 1e-4, 1e-5)


def test_blocks_with_all_three_steps():
    chain, source = residual()
    name = chain.last
    chain.convolution(8, (1, 1))
    step = chain.steps.pop()
    chain.steps.append(step.changed(inputs=(name, source)))
    chain.activation("tanh")
    check(chain.program(), [(True, True, True)] * 2)


def test_a_depthwise_convolution_with_one_neighbour():
    chain = Chain((9, 8, 6)).depthwise(padding=SAME).convolution(7, (1, 1)).activation("tanh")
    check(chain.program(), [(False, True, True)])
    chain = Chain((9, 8, 6)).convolution(7, (1, 1)).depthwise(padding=SAME).activation("tanh")
    check(chain.program(), [(True, True, False)])


def test_values_that_are_needed_elsewhere():
    chain = Chain((9, 8, 6)).convolution(7, (1, 1))
    expanded = chain.last
    chain.depthwise(padding=SAME)
    swept = chain.last
    chain.convolution(7, (1, 1)).add("add", expanded)
    check(chain.program(), [(False, True, True)])
    program = chain.program([swept, chain.last])
    assert depthwise_blocks.depthwise_blocks(program) == {}


@pytest.mark.parametrize(
    "other",
    [
        {"window": (3, 3), "padding": SAME},
        {"groups": 2},
        {"padding": SAME},
        {"strides": [2, 2]},
        {"pool": [2, 2]},
    ],
    ids=str,
)
def test_steps_that_are_no_product(other):
    chain = Chain((9, 8, 6)).convolution(8, **({"window": (1, 1)} | other))
    chain.depthwise(padding=SAME).convolution(8, **({"window": (1, 1)} | other))
    assert depthwise_blocks.depthwise_blocks(chain.program()) == {}


def test_small_blocks_stay_separate(monkeypatch):
    chain, _ = residual()
    monkeypatch.setattr(depthwise_blocks, "_MIN_BETWEEN", 17 * 9 * 40)
    assert len(depthwise_blocks.depthwise_blocks(chain.program())) == 1
    check(chain.program(), [(True, True, True)])


def test_the_source_of_a_block_is_kept_until_its_last_step():
    """The separate steps need the source no more when the last step writes its result."""
    chain = Chain((12, 11, 32)).convolution(32, (3, 3), padding=SAME)
    for _ in range(4):
        chain.convolution(33, (1, 1)).depthwise(padding=SAME).convolution(32, (1, 1))
    chain.activation("tanh")
    check(chain.program(), [(True, True, True)] * 4)


def test_names_of_a_block():
    chain, source = residual()
    first, second = depthwise_blocks.depthwise_blocks(chain.program()).values()
    assert isinstance(first, Block)
    assert (first.source, first.last.output, first.between) == ("image", "v3", ["v1", "v2"])
    assert (second.source, second.last.output, second.between) == (source, chain.last, ["v4"])


def test_a_convolution_between_two_depthwise_convolutions_is_part_of_one_block():
    """In a MobileNet V1 it is the projection of one, and not the expansion of the next one too."""
    chain = Chain((17, 9, 6))
    for _ in range(3):
        chain.depthwise(padding=SAME, activation=RELU6).convolution(12, (1, 1), activation=RELU6)
    check(chain.program(), [(False, True, True)] * 3)


def test_what_a_block_reads_is_not_overwritten_before_it_runs():
    chain = Chain((17, 9, 6)).activation("tanh")
    source = chain.last
    chain.convolution(40, (1, 1))
    expanded, chain.last = chain.last, source
    # This step could write over its input if the block did not need it later.
    chain.activation("relu")
    other, chain.last = chain.last, expanded
    chain.depthwise(padding=SAME).convolution(6, (1, 1)).add("add", other)
    check(chain.program(), [(True, True, True)])
