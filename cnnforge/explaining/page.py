"""The web page of `cnnforge explain` for a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge.explaining import why
from cnnforge.explaining.building import Explained, Subject, build, common_data, short
from cnnforge.explaining.network import Network, describe
from cnnforge.explaining.network_data import network_data
from cnnforge.explaining.steps import Step, all_values
from cnnforge.explaining.sure import Neighbor
from cnnforge.pages import asset, packed, reduced

_TARGETS = 3
_MAX_CAMS = 6
_ANSWER_LINKS = {
    "flattening-part": "Flattening",
    "full-part": "Full connection",
    "probabilities-part": "Probabilities",
}


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


def explain_classes(
    steps: Sequence[Step], subject: Subject, classes: Sequence[str], similar: Similar
) -> Explained:
    """Make the page of a classifier and a picture.

    Args:
        steps: Steps of the network, see `divide`.
        subject: The picture and the run.
        classes: Class names.
        similar: The nearest training pictures.

    Returns:
        The page.
    """
    network = describe(steps)
    values = all_values(steps, subject.image)
    probabilities = values[-1]
    has_softmax = network.operations[-1].settings.get("function") == "softmax"
    scores = steps[: network.operations[-1].step] if has_softmax else steps
    best = [int(at) for at in np.argsort(-probabilities, kind="stable")[:_TARGETS]]
    cams = [network.operations[at].step for at in _cam_layers(network)]
    maps = why.explain(scores, subject.image, best, cams, multiplications=network.multiplications)
    data, left_out = network_data(network, values, scores, subject.image, best[0])
    targets = {at: short(classes[at]) for at in best}
    data |= common_data(network, subject, classes, maps, targets)
    data |= {
        "dense": network.places("dense"),
        "probabilities": packed(probabilities),
        "scoreValues": packed(values[len(scores) - 1]),
        "scores": len(network.operations) - 1 - has_softmax,
        "neighbors": [
            {
                "image": packed(np.ascontiguousarray(reduced(each.image, 64))),
                "label": short(label),
                "similarity": each.similarity,
                "same": each.same,
            }
            for each, label in zip(similar.neighbors, similar.labels, strict=True)
        ],
        "sure": _sure(similar, classes[best[0]]),
    }
    if data["dense"] and not data["alive"]:
        data["dense"] = data["dense"][-1:]
        data |= _full_connection(network, values, data["dense"][0], best)
    if similar.problem:
        left_out.append(f"The nearest training pictures: {similar.problem}.")
    text = build(
        network,
        subject,
        data,
        left_out,
        answer=asset("explain-classes.html"),
        end=asset("explain-sure.html"),
        links=(_ANSWER_LINKS, {"sure-part": "How sure"}),
        scripts=["explain-classes.js"],
    )
    answers = [{"class": classes[at], "probability": float(probabilities[at])} for at in best]
    first, second = (f"{each['class']} with {each['probability']:.1%}" for each in answers[:2])
    summary = f"answer: {first}; runner-up: {second}"
    labels = {at: classes[at] for at in best}
    return Explained(
        text, {"answers": answers}, summary, maps, labels, bool(data["alive"]), left_out
    )


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
        f"{short(answer)}."
    )
    if 2 * same < len(similar.labels):
        text += " That speaks against the answer."
    if any(each.same for each in similar.neighbors):
        text += (
            " The picture itself is a training picture, so the answer says nothing about new "
            "pictures."
        )
    return text


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
