"""The data of a network in a page: its weights if it is small, or else maps of some layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.explaining import stored, why
from cnnforge.explaining.network import Network
from cnnforge.explaining.steps import Step
from cnnforge.explaining.sure import receptive_fields
from cnnforge.pages import packed, plain, reduced

MAX_WEIGHTS = 1_000_000
"""Max number of weights of a network that a page computes."""
MAX_EXACT = 400_000
"""Max number of weights that a page holds with 32 bits."""
MAX_MULTIPLICATIONS = 200_000_000
"""Max number of multiplications of a network that a page computes: about half a second."""
STORED_BYTES = 1_800_000
"""Max size of the maps in a page that does not compute the network."""
_MAX_PICTURE = 256


def network_data(
    network: Network,
    values: Sequence[np.ndarray],
    scores: Sequence[Step],
    image: np.ndarray,
    target: int,
    stored_bytes: int = STORED_BYTES,
) -> tuple[dict[str, Any], list[str]]:
    """Return the data of a network for its page.

    Args:
        network: The network.
        values: The value of each step for the picture.
        scores: Steps of the network up to its scores.
        image: (H, W, C), the picture.
        target: Index of the score for which the most important maps are chosen.
        stored_bytes: Max size of the maps in a page that does not compute the network.

    Returns:
        Plain values, and sentences about what the page leaves out. A network that is small enough
        has all its weights in the page, another one has maps of some layers.
    """
    reason = ""
    if network.unknown:
        reason = f"it cannot compute the layer {network.unknown[0]}"
    elif network.size > MAX_WEIGHTS:
        reason = f"it has {network.size:,} weights, and a page holds {MAX_WEIGHTS:,}"
    elif network.multiplications > MAX_MULTIPLICATIONS:
        reason = f"it needs {network.multiplications:,} multiplications for a picture"
    half = not reason and network.size > MAX_EXACT
    first = next(iter(network.places("conv")), -1)
    operations = plain_operations(network, half=half, last=first if reason else None)
    computed = _computable(network, first) if reason else len(operations)
    picture = np.ascontiguousarray(image)
    if reason and max(image.shape) > _MAX_PICTURE:
        picture, computed = np.ascontiguousarray(reduced(image, _MAX_PICTURE)), 0
    data: dict[str, Any] = {
        "operations": operations,
        "alive": not reason,
        "half": half,
        "computed": computed,
        "picture": packed(picture),
        "size": list(image.shape),
        "convs": network.places("conv"),
        "pools": network.places("max_pool", "average_pool"),
        "whyNotAlive": f"The page does not compute this network: {reason}. It holds maps of some "
        "layers, rounded to 8 bits."
        if reason
        else "",
    }
    left_out = []
    if reason:
        left_out += _store(data, network, values, scores, image, target, stored_bytes)
    if not network.places("conv"):
        left_out.append(
            "Feature detectors, feature maps and Grad-CAM: the network has no convolution."
        )
    if network.unknown:
        listed = ", ".join(network.unknown[:5]) + (", ..." if len(network.unknown) > 5 else "")
        left_out.append(f"Layers of these kinds are not shown: {listed}.")
    return data, left_out


def plain_operations(
    network: Network, *, half: bool = False, last: int | None = None
) -> list[dict[str, Any]]:
    """Return the operations of a network as plain values, as `network.js` reads them.

    Args:
        network: The network.
        half: Whether to hold the kernels with 16 bits.
        last: Index of the last operation whose weights are contained; all by default.
    """
    return [
        {
            "kind": operation.kind,
            "name": plain(operation.name),
            "inputs": operation.inputs,
            "shape": list(operation.shape),
            "settings": operation.settings,
            "weights": {
                name: _weights(each, half and name == "kernel")
                for name, each in operation.weights.items()
                if last is None or at <= last
            },
            "field": field and [[axis.start, axis.step, axis.size] for axis in field],
        }
        for at, (operation, field) in enumerate(
            zip(network.operations, receptive_fields(network), strict=True)
        )
    ]


def _computable(network: Network, first: int) -> int:
    """Return how many operations the page computes: those up to the first convolution."""
    before = network.operations[: first + 1]
    return len(before) if all(it.kind != "unknown" for it in before) else 1


def _store(
    data: dict[str, Any],
    network: Network,
    values: Sequence[np.ndarray],
    scores: Sequence[Step],
    image: np.ndarray,
    target: int,
    stored_bytes: int,
) -> list[str]:
    """Add maps to the data of a page that does not compute the network."""
    operations, found, size = network.operations, {}, 0
    convs = [at for at in stored.chosen_convolutions(network) if operations[at].step >= 0]
    steps = [operations[at].step for at in convs]
    important = dict(
        zip(convs, why.importance(scores, image, target, steps) if convs else [], strict=True)
    )
    shown = []
    # The first and the last one come first, in case the page becomes too large.
    for conv in [*convs[:1], *convs[-1:], *convs[1:-1]]:
        if conv in shown:
            continue
        best = np.argsort(-important[conv], kind="stable")[: stored.MAX_CHANNELS]
        group = [at for at in stored.operations_around(network, conv) if operations[at].step >= 0]
        made = {at: stored.store(values[operations[at].step], sorted(best)) for at in group}
        source = operations[conv].inputs[0]
        if (
            operations[source].step >= 0
            and source not in found
            and operations[conv].settings["groups"] == 1
        ):
            shape = operations[source].shape
            own = np.argsort(-np.abs(values[operations[source].step]).mean((0, 1)), kind="stable")
            made[source] = stored.store(
                values[operations[source].step], sorted(own[: min(shape[2], stored.MAX_CHANNELS)])
            )
        grown = sum(len(each["sprite"]) for each in made.values())
        if shown and size + grown > stored_bytes:
            continue
        shown.append(conv)
        size += grown
        found |= {at: each for at, each in made.items() if at not in found}
    data["stored"] = {str(at): each for at, each in found.items()}
    data["convs"] = sorted(shown)
    data["pools"] = [
        at for at in data["pools"] if at in found and operations[at].inputs[0] in found
    ]
    every = network.places("conv")
    left_out = []
    if len(every) > len(shown):
        left_out.append(
            f"Maps of {len(every) - len(shown)} of {len(every)} convolutions: the first one, the "
            "last one and some between are shown."
        )
    if any(operations[at].shape[2] > stored.MAX_CHANNELS for at in shown):
        left_out.append(
            f"Of each layer, the {stored.MAX_CHANNELS} maps are shown that matter most for the "
            "answer."
        )
    left_out.append("The weights of all convolutions but the first one.")
    return left_out


def _weights(values: np.ndarray, half: bool) -> dict[str, Any]:
    dtype = np.float16 if half and np.abs(values).max(initial=0) < 60_000 else np.float32
    return packed(np.ascontiguousarray(values, dtype))
