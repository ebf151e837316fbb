"""Rules for steps that do nothing, or that compute what another step computes already."""

from __future__ import annotations

import json

import numpy as np

from cnnforge_kernels.plan.fusion.graph import Graph
from cnnforge_kernels.plan.kinds.windows import NO_PADDING
from cnnforge_kernels.plan.steps import Step


def _nothing(graph: Graph, step: Step) -> bool:
    """Remove a step that returns its input."""
    if len(step.inputs) != 1:
        return False
    source = graph.shapes[step.inputs[0]]
    is_nothing = (
        (step.kind in ("pad", "crop", "reshape") and source == graph.shapes[step.output])
        or (step.kind == "concatenate")
        or (step.kind == "channels" and np.array_equal(step.arrays["index"], range(source[-1])))
        or (step.kind == "upsample" and step.options["size"] == [1, 1])
        or (
            step.kind in ("max_pool", "average_pool")
            and step.options["window"] == [1, 1]
            and step.options.get("strides", [1, 1]) == [1, 1]
            and step.options.get("padding", NO_PADDING) == NO_PADDING
        )
    )
    return is_nothing and graph.drop(step, step.inputs[0])


def _again(graph: Graph, step: Step) -> bool:
    """Remove a step if an earlier one computes the same, as in NASNet's many ReLUs."""
    if not step.inputs:
        return False
    for other in graph.readers(step.inputs[0]):
        if other is step:
            return False
        if _key(other) == _key(step) and graph.drop(step, other.output):
            return True
    return False


def _key(step: Step) -> tuple:
    arrays = tuple((name, id(array)) for name, array in step.arrays.items())
    return step.kind, step.inputs, json.dumps(step.options, sort_keys=True), arrays


def _same_concatenated(graph: Graph, step: Step) -> bool:
    """Express the repetition of channels, as a concatenation of the same, by an index."""
    if step.kind != "concatenate" or len(set(step.inputs)) != 1:
        return False
    channels = np.arange(graph.shapes[step.inputs[0]][-1])
    index = np.tile(channels, len(step.inputs)).astype(np.int64)
    repeated = Step("channels", step.inputs[:1], step.output, {}, {"index": index})
    graph.replace(step, repeated)
    return True


def _reshape_twice(graph: Graph, step: Step) -> bool:
    """Reshape once."""
    if step.kind != "reshape":
        return False
    before = graph.before(step)
    if before is None or before.kind != "reshape":
        return False
    graph.merge(before, step, step.changed(inputs=before.inputs))
    return True


RULES = (_nothing, _again, _same_concatenated, _reshape_twice)
