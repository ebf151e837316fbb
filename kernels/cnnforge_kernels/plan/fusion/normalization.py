"""Rules that fold scales and offsets into weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.plan.fusion.graph import Graph
from cnnforge_kernels.plan.kinds.windows import NO_PADDING
from cnnforge_kernels.plan.steps import Step

_WEIGHTED = ("convolution", "depthwise", "dense")


def combined(before: Step, step: Step) -> dict[str, np.ndarray]:
    """Return the scale and offset of two affine steps, one after the other.

    Args:
        before: The first step. It can have no scale and offset.
        step: The second step.
    """
    if "scale" not in before.arrays:
        return dict(step.arrays)
    with np.errstate(all="ignore"):
        first = {name: np.float64(before.arrays[name]) for name in ("scale", "offset")}
        scale = first["scale"] * step.arrays["scale"]
        offset = first["offset"] * step.arrays["scale"] + step.arrays["offset"]
    return {"scale": np.float32(scale), "offset": np.float32(offset)}


def _affine_twice(graph: Graph, step: Step) -> bool:
    """Scale once."""
    before = _plain(graph, step, "affine", ("affine",))
    if before is None:
        return False
    graph.merge(before, step, step.changed(inputs=before.inputs, arrays=combined(before, step)))
    return True


def _behind_weights(graph: Graph, step: Step) -> bool:
    """Fold a scale and an offset into the weights and the bias before them."""
    before = _plain(graph, step, "affine", _WEIGHTED)
    if before is None or before.options.get("pool") is not None or len(before.inputs) > 1:
        return False
    weights = before.arrays["weights"]
    scale, offset = (np.float64(step.arrays[name]) for name in ("scale", "offset"))
    shaped = scale.reshape(weights.shape[2:]) if before.kind == "depthwise" else scale
    with np.errstate(all="ignore"):
        arrays = {
            "weights": np.float32(weights * shaped),
            "bias": np.float32(before.arrays["bias"] * scale + offset),
        }
    activation = step.activation
    merged = before.changed(output=step.output, arrays=arrays, activation=activation)
    graph.merge(before, step, merged)
    return True


def _before_weights(graph: Graph, step: Step) -> bool:
    """Fold a scale and an offset into the weights and the bias after them, if that is exact."""
    if step.kind not in _WEIGHTED or step.options.get("groups", 1) != 1:
        return False
    before = graph.before(step)
    if before is None or before.kind != "affine" or before.activation is not None:
        return False
    weights, bias = step.arrays["weights"], np.float64(step.arrays["bias"])
    scale, offset = (np.float64(before.arrays[name]) for name in ("scale", "offset"))
    # The padding is 0, also where the images would be the offset.
    if offset.any() and step.options.get("padding", NO_PADDING) != NO_PADDING:
        return False
    # The last axis but one of all kinds of weights is that of the inputs.
    with np.errstate(all="ignore"):
        shifted = weights * offset[:, None]
        if step.kind == "depthwise":
            bias = bias + shifted.sum((0, 1)).ravel()
        else:
            bias = bias + shifted.reshape(-1, weights.shape[-1]).sum(0)
        arrays = {"weights": np.float32(weights * scale[:, None]), "bias": np.float32(bias)}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return False
    inputs = (*before.inputs, *step.inputs[1:])
    graph.merge(before, step, step.changed(inputs=inputs, arrays=arrays))
    return True


def _before_padding(graph: Graph, step: Step) -> bool:
    """Scale before a padding with zeros: it stays 0 if the offset is 0."""
    before = _plain(graph, step, "affine", ("pad",))
    if before is None or "channels" in before.options or step.arrays["offset"].any():
        return False
    if not np.isfinite(step.arrays["scale"]).all():
        return False
    first = step.changed(inputs=before.inputs, output=before.output)
    graph.swap(before, step, first, before.changed(inputs=step.inputs, output=step.output))
    return True


def _plain(graph: Graph, step: Step, kind: str, kinds: Any) -> Step | None:
    """Return the step before one of a kind, if it is of other kinds and has no activation."""
    if step.kind != kind:
        return None
    before = graph.before(step)
    if before is None or before.kind not in kinds or before.activation is not None:
        return None
    return before


RULES = (_affine_twice, _behind_weights, _before_weights, _before_padding)
