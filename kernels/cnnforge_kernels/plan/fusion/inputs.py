"""Rules for what happens to the images before the first convolution."""

from __future__ import annotations

import numpy as np

from cnnforge_kernels.plan.fusion.graph import Graph
from cnnforge_kernels.plan.fusion.normalization import combined
from cnnforge_kernels.plan.steps import Step


def _into_input(graph: Graph, step: Step) -> bool:
    """Scale the images when they are converted to float32."""
    if step.kind != "affine" or step.activation is not None:
        return False
    before = graph.before(step)
    if before is None or before.kind != "input":
        return False
    graph.merge(before, step, before.changed(output=step.output, arrays=combined(before, step)))
    return True


def _before_channels(graph: Graph, step: Step) -> bool:
    """Scale before channels are repeated or reversed, if equal channels have equal scales."""
    if step.kind != "affine" or step.activation is not None:
        return False
    before = graph.before(step)
    if before is None or before.kind != "channels":
        return False
    index = before.arrays["index"]
    arrays = {}
    for name in ("scale", "offset"):
        values = step.arrays[name]
        arrays[name] = np.ones(graph.shapes[before.inputs[0]][-1], np.float32)
        arrays[name][index] = values
        if not np.array_equal(arrays[name][index], values, equal_nan=True):
            return False
    first = Step("affine", before.inputs, before.output, {}, arrays)
    second = Step("channels", step.inputs, step.output, {}, {"index": index})
    graph.swap(before, step, first, second)
    return True


def _channels_into_convolution(graph: Graph, step: Step) -> bool:
    """Exchange the weights of a convolution, in place of the channels that it reads."""
    if step.kind != "convolution" or step.options.get("groups", 1) != 1:
        return False
    before = graph.before(step)
    if before is None or before.kind != "channels":
        return False
    index = before.arrays["index"]
    # The weights of repeated channels could be added up, but then an infinite pixel could have
    # another result: infinity minus infinity is NaN.
    if not np.array_equal(np.sort(index), np.arange(graph.shapes[before.inputs[0]][-1])):
        return False
    moved = np.empty_like(step.arrays["weights"])
    moved[:, :, index] = step.arrays["weights"]
    inputs = (*before.inputs, *step.inputs[1:])
    graph.merge(before, step, step.changed(inputs=inputs, arrays={"weights": moved}))
    return True


RULES = (_into_input, _before_channels, _channels_into_convolution)
