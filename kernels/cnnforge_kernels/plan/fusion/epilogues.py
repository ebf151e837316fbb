"""Rules that apply activations, additions and pools where a step has its results at hand."""

from __future__ import annotations

from cnnforge_kernels.plan.fusion.graph import Graph
from cnnforge_kernels.plan.kinds import activations
from cnnforge_kernels.plan.kinds.windows import NO_PADDING
from cnnforge_kernels.plan.steps import Step

_ACTIVATED = (
    "convolution", "depthwise", "dense", "affine",
    "add", "subtract", "multiply", "maximum", "minimum", "average",
)  # fmt: skip


def _activation(graph: Graph, step: Step) -> bool:
    """Let a step apply the ReLU that follows it."""
    if step.kind != "activation" or not _is_fusible(step):
        return False
    before = graph.before(step)
    if before is None or before.kind not in _ACTIVATED or before.activation is not None:
        return False
    merged = before.changed(output=step.output, activation=step.activation)
    graph.merge(before, step, merged)
    return True


def _activation_before_pool(graph: Graph, step: Step) -> bool:
    """Apply a ReLU before a max pool, if a step before it can do that: the result is the same."""
    if step.kind != "activation" or not _is_fusible(step):
        return False
    before = graph.before(step)
    if before is None or before.kind != "max_pool":
        return False
    source = graph.before(before)
    if source is None or source.kind not in _ACTIVATED or source.activation is not None:
        return False
    first = step.changed(inputs=before.inputs, output=before.output)
    graph.swap(before, step, first, before.changed(inputs=step.inputs, output=step.output))
    return True


def _addition(graph: Graph, step: Step) -> bool:
    """Let a convolution add the residual."""
    if step.kind != "add" or len(step.inputs) != 2:
        return False
    found = [graph.before(step, place) for place in (0, 1)]
    places = [
        place
        for place, before in enumerate(found)
        if before is not None and _can_add(graph, before, step, step.inputs[1 - place])
    ]
    if not places:
        return False
    # Of two convolutions, the later one has the more recent result.
    order = {name: index for index, name in enumerate(graph.steps)}
    place = max(places, key=lambda place: order[step.inputs[place]])
    before = found[place]
    assert before is not None
    inputs = (*before.inputs, step.inputs[1 - place])
    merged = before.changed(inputs=inputs, output=step.output, activation=step.activation)
    graph.merge(before, step, merged)
    return True


def _can_add(graph: Graph, before: Step, step: Step, other: str) -> bool:
    return (
        before.kind == "convolution"
        and len(before.inputs) == 1
        and before.activation is None
        and before.options.get("pool") is None
        and graph.shapes[other] == graph.shapes[before.output] == graph.shapes[step.output]
    )


def _pool(graph: Graph, step: Step) -> bool:
    """Let a convolution with a ReLU pool its results."""
    if step.kind != "max_pool" or step.options["window"] != step.options.get("strides", [1, 1]):
        return False
    if step.options["window"] == [1, 1] or step.options.get("padding", NO_PADDING) != NO_PADDING:
        return False
    before = graph.before(step)
    if before is None or before.kind != "convolution" or before.options.get("pool") is not None:
        return False
    if before.activation != {"name": "relu"} or len(before.inputs) > 1:
        return False
    graph.merge(before, step, before.changed(output=step.output, pool=step.options["window"]))
    return True


def _is_fusible(step: Step) -> bool:
    activation = step.activation
    return activation is not None and activation["name"] in activations.FUSIBLE


RULES = (_activation, _activation_before_pool)
LAST_RULES = (_addition, _pool)
