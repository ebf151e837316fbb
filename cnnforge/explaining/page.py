"""The web page of `cnnforge explain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import numpy as np

from cnnforge.explaining import why
from cnnforge.explaining.network import Network, describe
from cnnforge.explaining.network_data import network_data
from cnnforge.explaining.steps import Step, all_values
from cnnforge.explaining.sure import Neighbor
from cnnforge.filtering.detectors import DETECTORS
from cnnforge.pages import asset, escape, packed, page, plain, reduced

_MAX_SIDE = 256
_TARGETS = 3
_MAX_CAMS = 6
_SCRIPTS = ["page.js", "drawing.js", "network.js", "explain.js", "explain-parts.js"]


@dataclass(frozen=True)
class Similar:
    """The nearest training pictures, with their labels.

    Attributes:
        neighbors: The pictures.
        labels: Class name of each.
        compared: Number of training pictures that were compared.
        available: Number of training pictures.
        problem: The reason for which there is not any picture; empty if there are some.
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
        left_out: Sentences about what the page leaves out.
        classes: Class names.
    """

    text: str
    probabilities: np.ndarray
    maps: Sequence[why.Map]
    alive: bool
    left_out: Sequence[str]
    classes: Sequence[str]


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
    data, left_out = network_data(network, values, scores, image, targets)
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
        left_out.append(
            "Feature detectors, feature maps and Grad-CAM: the network has no convolution."
        )
    body = _body(network, name, model, run, loaded.shape, left_out)
    text = page(f"{model}: {name}", body, scripts=_SCRIPTS, data=data)
    return Explained(text, probabilities, maps, bool(data["alive"]), left_out, classes)


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
        problem = similar.problem or "the run has no training data"
        return f"The nearest training pictures are not known: {problem}."
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
