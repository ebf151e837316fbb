"""Find the steps of a program that one prepared layer computes together: blocks of a MobileNet."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from cnnforge_kernels.cpu.prepared.depthwise import DepthwiseConvolution
from cnnforge_kernels.cpu.prepared.depthwise_block import DepthwiseBlock
from cnnforge_kernels.cpu.prepared.product import Product
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.plan.kinds.windows import NO_PADDING, padding, pair
from cnnforge_kernels.plan.program import Program
from cnnforge_kernels.plan.steps import Step

# Smallest size of the values between the steps of a block, in float32 values for one image. Smaller
# values stay in the cache anyway, and such images have too few rows for all threads: with blocks at
# 28 x 28 pixels, MobileNetV2 took 1.3 times as long for one image.
_MIN_BETWEEN = 320 * 1024


class Block(NamedTuple):
    """A depthwise convolution, and the 1x1 convolutions before and after it.

    Attributes:
        expansion: The convolution before it, or ``None``.
        depthwise: The depthwise convolution.
        projection: The convolution after it, or ``None``.
    """

    expansion: Step | None
    depthwise: Step
    projection: Step | None

    @property
    def source(self) -> str:
        """The name of the value that the block reads."""
        return (self.expansion or self.depthwise).inputs[0]

    @property
    def last(self) -> Step:
        """The step that computes the result of the block."""
        return self.projection or self.depthwise

    @property
    def between(self) -> list[str]:
        """The names of the values that only the block needs."""
        steps = [step for step in self[:2] if step is not None and step is not self.last]
        return [step.output for step in steps]


def depthwise_blocks(program: Program) -> dict[str, Block]:
    """Return the blocks of a program, by the names of their results.

    Args:
        program: The program.
    """
    readers: dict[str, list[Step]] = {}
    for step in program.steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    steps = {step.output: step for step in program.steps}
    # A value of a block must not be needed elsewhere.
    private = {name for name, found in readers.items() if len(found) == 1} - set(
        program.output_names
    )
    blocks: dict[str, Block] = {}
    for step in program.steps:
        if step.kind != "depthwise":
            continue
        before = steps[step.inputs[0]]
        expands = before.output in private and _is_product(before) and len(before.inputs) == 1
        # In a MobileNet V1 it is the projection of the block before this one.
        expands = expands and before.output not in blocks
        after = readers[step.output][0] if step.output in private else None
        projects = after is not None and _is_product(after) and after.inputs[0] == step.output
        block = Block(before if expands else None, step, after if projects else None)
        if sum(prod(program.shapes[name]) for name in block.between) >= _MIN_BETWEEN:
            blocks[block.last.output] = block
    return blocks


def _is_product(step: Step) -> bool:
    """Return whether a step is a 1x1 convolution of each pixel."""
    return (
        step.kind == "convolution"
        and step.arrays["weights"].shape[:2] == (1, 1)
        and pair(step, "strides") == (1, 1)
        and step.options.get("padding", NO_PADDING) == NO_PADDING
        and step.options.get("groups", 1) == 1
        and step.options.get("pool") is None
    )


class PreparedBlock:
    """A block with its packed weights.

    Args:
        block: The block.
    """

    def __init__(self, block: Block) -> None:
        step = block.depthwise
        depthwise = DepthwiseConvolution(
            step.arrays["weights"],
            step.arrays["bias"],
            strides=pair(step, "strides"),
            padding=padding(step),
            dilation=pair(step, "dilation"),
            activation=_name(step),
        )
        expansion, projection = (
            None if step is None else _product(step) for step in (block.expansion, block.projection)
        )
        self._layer = DepthwiseBlock(depthwise, expansion=expansion, projection=projection)

    def bind(
        self, source: np.ndarray, added: Sequence[np.ndarray], target: np.ndarray
    ) -> list[Call]:
        """Return the calls that compute the block.

        Args:
            source: (N, H, W, C), what the block reads.
            added: The arrays that the projection adds: none, or one of the shape of ``target``.
            target: (N, OH, OW, F), written.
        """
        return self._layer.bind(source, target, *added)


def _name(step: Step) -> str | None:
    return None if step.activation is None else step.activation["name"]


def _product(step: Step) -> Product:
    return Product(step.arrays["weights"][0, 0], step.arrays["bias"], _name(step))
