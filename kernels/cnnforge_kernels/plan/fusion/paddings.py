"""Rules that make padding, and the choice of every second pixel, part of other steps."""

from __future__ import annotations

from typing import Any

from cnnforge_kernels.plan.fusion.graph import Graph
from cnnforge_kernels.plan.kinds import activations
from cnnforge_kernels.plan.kinds.windows import NO_PADDING
from cnnforge_kernels.plan.steps import Step

# Kinds whose results are not negative if their inputs are not.
_KEEP_SIGN = (
    "max_pool", "average_pool", "pad", "crop", "concatenate", "upsample", "add", "multiply",
    "maximum", "minimum", "average", "global_average_pool", "global_max_pool", "reshape",
    "channels",
)  # fmt: skip


def _into_window(graph: Graph, step: Step) -> bool:
    """Let a convolution or a pool pad its inputs itself."""
    if step.kind not in ("convolution", "depthwise", "max_pool"):
        return False
    before = graph.before(step)
    if before is None or before.kind != "pad" or any(before.options.get("channels", ())):
        return False
    padding = _sum(before, step)
    if step.kind == "max_pool":
        # A max pool ignores its own padding. A zero changes nothing if no value is below it, and if
        # each window has a value.
        fits = all(
            max(around) < size for around, size in zip(padding, step.options["window"], strict=True)
        )
        if not fits or not _is_nonnegative(graph, before.inputs[0]):
            return False
    inputs = (*before.inputs, *step.inputs[1:])
    graph.merge(before, step, step.changed(inputs=inputs, padding=padding))
    return True


def _pad_twice(graph: Graph, step: Step) -> bool:
    """Pad once."""
    if step.kind != "pad":
        return False
    before = graph.before(step)
    if before is None or before.kind != "pad":
        return False
    channels = [
        first + second
        for first, second in zip(
            before.options.get("channels", (0, 0)),
            step.options.get("channels", (0, 0)),
            strict=True,
        )
    ]
    options = {"padding": _sum(before, step), "channels": channels}
    graph.merge(before, step, step.changed(inputs=before.inputs, **options))
    return True


def _sum(before: Step, step: Step) -> list[list[int]]:
    both = (it.options.get("padding", NO_PADDING) for it in (before, step))
    return [
        [first + second for first, second in zip(*axis, strict=True)]
        for axis in zip(*both, strict=True)
    ]


def _is_nonnegative(graph: Graph, name: str) -> bool:
    """Return whether a value has no negative numbers."""
    waiting, seen = [name], {name}
    while waiting:
        step = graph.steps[waiting.pop()]
        if activations.is_nonnegative(step.activation):
            continue
        if step.kind not in _KEEP_SIGN:
            return False
        waiting += [each for each in step.inputs if each not in seen]
        seen.update(step.inputs)
    return True


def _strides_into_convolution(graph: Graph, step: Step) -> bool:
    """Let a 1x1 convolution read every second pixel, in place of a pool that selects them."""
    if step.kind != "convolution" or step.arrays["weights"].shape[:2] != (1, 1):
        return False
    before = graph.before(step)
    if (
        before is None
        or not _selects(before)
        or step.options.get("padding", NO_PADDING) != NO_PADDING
    ):
        return False
    both = zip(before.options["strides"], step.options.get("strides", (1, 1)), strict=True)
    strides = [first * second for first, second in both]
    inputs = (*before.inputs, *step.inputs[1:])
    graph.merge(before, step, step.changed(inputs=inputs, strides=strides))
    return True


def _selects(step: Step) -> bool:
    options: dict[str, Any] = step.options
    return (
        step.kind in ("max_pool", "average_pool")
        and options["window"] == [1, 1]
        and options.get("padding", NO_PADDING) == NO_PADDING
    )


RULES = (_into_window, _pad_twice, _strides_into_convolution)
