"""Build what the pages of a classifier and of a detector have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import numpy as np

from cnnforge.explaining import why
from cnnforge.explaining.network import Network
from cnnforge.filtering.detectors import DETECTORS
from cnnforge.pages import asset, escape, packed, page, plain, reduced

_MAX_SIDE = 256
_SCRIPTS = ["page.js", "drawing.js", "network.js", "explain.js", "explain-parts.js"]


@dataclass(frozen=True)
class Explained:
    """A page, and what a command says about it.

    Attributes:
        text: HTML.
        found: Answers or objects of the network, as plain values for JSON.
        summary: The same as a sentence.
        maps: The maps that show why.
        labels: Class name of each score that the maps are for, by its index.
        alive: Whether the page computes the network.
        left_out: Sentences about what the page leaves out.
    """

    text: str
    found: Mapping[str, Any]
    summary: str
    maps: Sequence[why.Map]
    labels: Mapping[int, str]
    alive: bool
    left_out: Sequence[str]


@dataclass(frozen=True)
class Subject:
    """The picture and the run of a page.

    Attributes:
        image: (H, W, C) uint8, the picture as the network gets it.
        loaded: (H, W, 1 or 3) uint8, the picture in its own size.
        name: Name of the picture.
        model: Name of the model.
        run: Name of the run.
    """

    image: np.ndarray
    loaded: np.ndarray
    name: str
    model: str
    run: str


def common_data(
    network: Network,
    subject: Subject,
    classes: Sequence[str],
    maps: Sequence[why.Map],
    targets: Mapping[int, str],
) -> dict[str, Any]:
    """Return the data of a page that do not depend on the task.

    Args:
        network: The network.
        subject: The picture and the run.
        classes: Class names.
        maps: The maps that show why.
        targets: A text about each score that the maps are for, by its index.
    """
    return {
        "loaded": packed(np.ascontiguousarray(reduced(subject.loaded, _MAX_SIDE))),
        "classes": [short(each) for each in classes],
        "targets": [[index, text] for index, text in targets.items()],
        "maps": [_map_data(each) for each in maps],
        "maxCorrelation": why.MAX_CORRELATION,
        "maxGap": why.MAX_GAP,
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


def build(
    network: Network,
    subject: Subject,
    data: Mapping[str, Any],
    left_out: Sequence[str],
    *,
    answer: str,
    end: str,
    links: tuple[Mapping[str, str], Mapping[str, str]],
    scripts: Sequence[str],
) -> str:
    """Build the HTML of a page.

    Args:
        network: The network.
        subject: The picture and the run.
        data: Plain values for the scripts.
        left_out: Sentences about what the page leaves out.
        answer: HTML of the sections between the feature maps and the maps that show why.
        end: HTML of the sections at the end.
        links: Titles of the sections of both, by their ids.
        scripts: Names of the scripts of the task.
    """
    lines = "".join(f"<li>{escape(each)}</li>" for each in left_out)
    rest = f"<section><h2>What this page leaves out</h2><ul>{lines}</ul></section>" if lines else ""
    depth = len({it.name for it in network.operations[1:]})
    height, width, channels = subject.loaded.shape
    name = subject.name
    body = Template(asset("explain.html")).substitute(
        model=escape(subject.model),
        name=escape(name if len(name) <= 80 else name[:77] + "..."),
        facts=escape(f"Run {subject.run}; {depth} layers, {network.size:,} weights."),
        loaded=f"{height}x{width}, {'gray' if channels == 1 else 'color'}",
        detectors="".join(f'<option value="{each}">{each}</option>' for each in DETECTORS),
        answer_links=_links(links[0]),
        answer=answer,
        end_links=_links(links[1]),
        end=end,
        left_out=rest,
    )
    return page(f"{subject.model}: {name}", body, scripts=[*_SCRIPTS, *scripts], data=data)


def short(name: str) -> str:
    """Shorten a class name, so that it fits into a list."""
    name = plain(name)
    return name if len(name) <= 60 else name[:57] + "..."


def _links(titles: Mapping[str, str]) -> str:
    return "\n".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in titles.items())


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


def _rescaling(network: Network) -> str:
    for operation in network.operations[1:3]:
        if operation.kind == "affine" and operation.inputs == [0]:
            scale, offset = (operation.weights[each] for each in ("scale", "offset"))
            if np.ptp(scale) == 0 and np.ptp(offset) == 0:
                shift = f" and adds {offset[0]:g}" if offset[0] else ""
                return f" Its first layer multiplies them with {scale[0]:.4g}{shift}."
    return ""
