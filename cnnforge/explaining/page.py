"""The web page of `cnnforge explain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import numpy as np

from cnnforge.explaining import stored, why
from cnnforge.explaining.network import Network, describe
from cnnforge.explaining.steps import Step, all_values
from cnnforge.explaining.sure import Neighbor, receptive_fields
from cnnforge.filtering.detectors import DETECTORS
from cnnforge.pages import asset, escape, packed, page, plain, reduced

MAX_WEIGHTS = 1_000_000
"""Max number of weights of a network that a page computes."""
MAX_EXACT = 400_000
"""Max number of weights that a page holds with 32 bits."""
MAX_MULTIPLICATIONS = 200_000_000
"""Max number of multiplications of a network that a page computes: about half a second."""
_MAX_SIDE = 256
_TARGETS = 3
_MAX_CAMS = 6
_STORED_BYTES = 1_800_000
_SCRIPTS = ["page.js", "drawing.js", "network.js", "explain.js", "explain-parts.js"]


@dataclass(frozen=True)
class Similar:
    """The nearest training pictures, with their labels.

    Attributes:
        neighbors: The pictures.
        labels: Class name of each.
        compared: Number of training pictures that were compared.
        available: Number of training pictures.
        problem: The reason for which there are none; empty if there are some.
    """

    neighbors: Sequence[Neighbor] = ()
    labels: Sequence[str] = ()
    compared: int = 0
    available: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Explained:
    """A page, and what a command says about it.

    Attributes:
        text: HTML.
        probabilities: (K,) float32, of Keras.
        maps: The maps that show why.
        alive: Whether the page computes the network.
        left_out: What the page leaves out, one sentence each.
    """

    text: str
    probabilities: np.ndarray
    maps: Sequence[why.Map]
    alive: bool
    left_out: Sequence[str]


def explain_page(
    steps: Sequence[Step],
    image: np.ndarray,
    loaded: np.ndarray,
    *,
    name: str,
    model: str,
    run: str,
    classes: Sequence[str],
    similar: Similar,
) -> Explained:
    """Make the page of a classifier and a picture.

    Args:
        steps: Steps of the network, see `divide`.
        image: (H, W, C) uint8, the picture as the network gets it.
        loaded: (H, W, 1 or 3) uint8, the picture in its own size.
        name: Name of the picture.
        model: Name of the model.
        run: Name of the run.
        classes: Class names.
        similar: The nearest training pictures.

    Returns:
        The page.
    """
    network = describe(steps)
    values = all_values(steps, image)
    probabilities = values[-1]
    has_softmax = network.operations[-1].settings.get("function") == "softmax"
    scores = steps[: network.operations[-1].step] if has_softmax else steps
    targets = [int(at) for at in np.argsort(-probabilities, kind="stable")[:_TARGETS]]
    cams = _cam_layers(network)
    seeds = 3 if network.multiplications < 1e8 else 1
    maps = why.explain(
        scores, image, targets, [network.operations[at].step for at in cams], seeds=seeds
    )
    data, left_out = _network_data(network, values, scores, image, targets)
    names = [_short(each) for each in classes]
    data |= {
        "picture": packed(np.ascontiguousarray(image)),
        "loaded": packed(np.ascontiguousarray(reduced(loaded, _MAX_SIDE))),
        "probabilities": packed(probabilities),
        "scoreValues": packed(values[len(scores) - 1]),
        "scores": len(network.operations) - 1 - has_softmax,
        "classes": names,
        "targets": targets,
        "maps": [_map_data(each) for each in maps],
        "maxCorrelation": why.MAX_CORRELATION,
        "maxGap": why.MAX_GAP,
        "neighbors": [
            {
                "image": packed(np.ascontiguousarray(reduced(each.image, 64))),
                "label": _short(label),
                "similarity": each.similarity,
                "same": each.same,
            }
            for each, label in zip(similar.neighbors, similar.labels, strict=True)
        ],
        "sure": _sure(similar, classes[targets[0]]),
        "detectors": {
            each.name: {"matrix": each.matrix.tolist(), "divisor": each.divisor}
            for each in DETECTORS.values()
        },
        "rescaling": _rescaling(network),
        "poolNone": "The page does not contain the maps of a pooling layer."
        if network.places("max_pool", "average_pool")
        else "This network has no pooling layer: it makes its maps smaller with strides, or takes "
        "the mean of whole maps.",
    }
    if network.unknown:
        listed = ", ".join(network.unknown[:5]) + (", ..." if len(network.unknown) > 5 else "")
        left_out.append(f"Layers of these kinds are not shown: {listed}.")
    if similar.problem:
        left_out.append(f"The nearest training pictures: {similar.problem}.")
    if not network.places("conv"):
        left_out.append("Feature detectors, feature maps and Grad-CAM: there is no convolution.")
    body = _body(network, name, model, run, loaded.shape, left_out)
    text = page(f"{model}: {name}", body, scripts=_SCRIPTS, data=data)
    return Explained(text, probabilities, maps, bool(data["alive"]), left_out)


def _short(name: str) -> str:
    """Shorten a class name, so that it fits into a list."""
    name = plain(name)
    return name if len(name) <= 60 else name[:57] + "..."


def _cam_layers(network: Network) -> list[int]:
    """Choose the layers of Grad-CAM: the last convolution first, then others, evenly spaced.

    The values are those of the layers in Keras: after an activation that a layer contains.
    """
    found = []
    for at in network.places("conv"):
        following = at + 1
        operation = network.operations[at]
        if following < len(network.operations):
            after = network.operations[following]
            if after.name == operation.name and after.inputs == [at]:
                found.append(following)
                continue
        if operation.step >= 0:
            found.append(at)
    if len(found) > _MAX_CAMS:
        found = [found[i] for i in np.linspace(0, len(found) - 1, _MAX_CAMS).round().astype(int)]
    return found[::-1]


def _network_data(
    network: Network,
    values: Sequence[np.ndarray],
    scores: Sequence[Step],
    image: np.ndarray,
    targets: Sequence[int],
) -> tuple[dict[str, Any], list[str]]:
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
    data: dict[str, Any] = {
        "operations": operations,
        "alive": not reason,
        "half": half,
        "computed": _computable(network, first) if reason else len(operations),
        "convs": network.places("conv"),
        "pools": network.places("max_pool", "average_pool"),
        "dense": network.places("dense"),
        "whyNotAlive": f"The page does not compute this network: {reason}. It holds maps of some "
        "layers, rounded to 8 bits."
        if reason
        else "",
    }
    left_out = []
    if reason:
        left_out += _store(data, network, values, scores, image, targets)
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
    targets: Sequence[int],
) -> list[str]:
    """Add maps to the data of a page that does not compute the network."""
    operations, found, size = network.operations, {}, 0
    convs = [at for at in stored.chosen_convolutions(network) if operations[at].step >= 0]
    steps = [operations[at].step for at in convs]
    important = dict(
        zip(convs, why.importance(scores, image, targets[0], steps) if convs else [], strict=True)
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
        if shown and size + grown > _STORED_BYTES:
            continue
        shown.append(conv)
        size += grown
        found |= {at: each for at, each in made.items() if at not in found}
    data["stored"] = {str(at): each for at, each in found.items()}
    data["convs"] = sorted(shown)
    data["pools"] = [
        at for at in data["pools"] if at in found and operations[at].inputs[0] in found
    ]
    data["dense"] = data["dense"][-1:]
    if data["dense"]:
        data |= _full_connection(network, values, data["dense"][0], targets)
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


def _full_connection(
    network: Network, values: Sequence[np.ndarray], dense: int, targets: Sequence[int]
) -> dict[str, Any]:
    operation = network.operations[dense]
    source = network.operations[operation.inputs[0]]
    inputs = values[source.step].ravel().astype(np.float64)
    heaviest = {}
    for target in targets:
        weights = operation.weights["kernel"][:, target]
        products = inputs * weights
        best = np.argsort(-np.abs(products), kind="stable")
        heaviest[str(target)] = {
            "terms": [[int(at), float(inputs[at]), float(weights[at])] for at in best[:10]],
            "rest": float(products[best[10:]].sum()),
            "bias": float(operation.weights["bias"][target]),
        }
    return {"heaviest": heaviest, "flat": packed(inputs.astype(np.float32)[:4096])}


def _weights(values: np.ndarray, half: bool) -> dict[str, Any]:
    dtype = np.float16 if half and np.abs(values).max(initial=0) < 60_000 else np.float32
    return packed(np.ascontiguousarray(values, dtype))


def _map_data(each: why.Map) -> dict[str, Any]:
    return {
        "method": each.method,
        "layer": plain(each.layer),
        "target": each.target,
        "values": packed(_halved(each.values)),
        "random": packed(_halved(each.random)),
        "correlation": each.correlation,
        "passes": each.means_something,
        "gap": each.gap,
        "steps": each.steps,
    }


def _halved(values: np.ndarray) -> np.ndarray:
    """Convert values to 16 bits. Only their ratio is shown, so their max becomes 1."""
    return np.ascontiguousarray(values / (np.abs(values).max(initial=0) or 1), np.float16)


def _sure(similar: Similar, answer: str) -> str:
    if not similar.neighbors:
        return (
            f"The nearest training pictures are not known: {similar.problem or 'there are none'}."
        )
    same = sum(label == answer for label in similar.labels)
    of = f"all {similar.available:,}"
    if similar.compared < similar.available:
        of = f"{similar.compared:,} of {similar.available:,}"
    text = (
        f"These training pictures are the most similar ones by the values of the last layer before "
        f"the scores, of {of} training pictures. {same} of {len(similar.labels)} are of the class "
        f"{_short(answer)}."
    )
    if 2 * same < len(similar.labels):
        text += " That speaks against the answer."
    if any(each.same for each in similar.neighbors):
        text += (
            " The picture itself is a training picture, so the answer says nothing about new "
            "pictures."
        )
    return text


def _rescaling(network: Network) -> str:
    for operation in network.operations[1:3]:
        if operation.kind == "affine" and operation.inputs == [0]:
            scale, offset = (operation.weights[each] for each in ("scale", "offset"))
            if np.ptp(scale) == 0 and np.ptp(offset) == 0:
                shift = f" and adds {offset[0]:g}" if offset[0] else ""
                return f" Its first layer multiplies them with {scale[0]:.4g}{shift}."
    return ""


def _body(
    network: Network,
    name: str,
    model: str,
    run: str,
    loaded: tuple[int, ...],
    left_out: Sequence[str],
) -> str:
    lines = "".join(f"<li>{escape(each)}</li>" for each in left_out)
    rest = f"<section><h2>What this page leaves out</h2><ul>{lines}</ul></section>" if lines else ""
    depth = len({it.name for it in network.operations[1:]})
    return Template(asset("explain.html")).substitute(
        model=escape(model),
        name=escape(name if len(name) <= 80 else name[:77] + "..."),
        facts=escape(f"Run {run}; {depth} layers, {network.size:,} weights."),
        loaded=f"{loaded[0]}x{loaded[1]}, {'gray' if loaded[2] == 1 else 'color'}",
        detectors="".join(f'<option value="{each}">{each}</option>' for each in DETECTORS),
        left_out=rest,
    )
