"""The web page of `cnnforge filter`: the picture, its feature map, and each step of the sum."""

from __future__ import annotations

from string import Template

import numpy as np

from cnnforge.filtering.detectors import DETECTORS, Detector
from cnnforge.filtering.maps import Convolve, Padding, feature_map
from cnnforge.pages import asset, escape, packed, page, reduced

MAX_SIDE = 256
"""Max height and width of the picture in a page. A larger picture is made smaller."""
_STRIDES = (1, 2, 3, 4)
_POOLS = (1, 2, 3, 4)


def filter_page(
    image: np.ndarray,
    name: str,
    detector: Detector,
    convolve: Convolve,
    *,
    stride: int = 1,
    padding: Padding = "same",
    relu: bool = False,
    pool: int = 1,
) -> str:
    """Make the page of a picture and a detector.

    Args:
        image: (H, W, C) uint8.
        name: Name of the picture.
        detector: The detector; its matrix has two axes.
        convolve: Function of an engine, see `feature_map`. The page compares its own map with that
            of the engine.
        stride: See `feature_map`.
        padding: See `feature_map`.
        relu: See `feature_map`.
        pool: See `feature_map`.

    Returns:
        HTML.

    Raises:
        UsageError: See `feature_map`.
    """
    small = reduced(image, MAX_SIDE)
    made = feature_map(
        small, detector, convolve, stride=stride, padding=padding, relu=relu, pool=pool
    )
    settings = {
        "matrix": detector.matrix.tolist(),
        "divisor": detector.divisor,
        "stride": stride,
        "padding": padding,
        "relu": relu,
        "pool": pool,
        "color": 0,
    }
    whole = bool((detector.matrix == np.rint(detector.matrix)).all())
    data = {
        "picture": packed(np.ascontiguousarray(small)),
        "map": packed(made.pixels),
        "settings": settings,
        "step": 1 if whole else 0.01,
        "detectors": {
            each.name: {"matrix": each.matrix.tolist(), "divisor": each.divisor}
            for each in (*DETECTORS.values(), detector)
        },
    }
    body = _body(image.shape, small.shape, name, detector, stride, padding, relu, pool)
    return page(f"{detector.name}: {name}", body, scripts=["page.js", "filter.js"], data=data)


def _body(
    shape: tuple[int, ...],
    small: tuple[int, ...],
    name: str,
    detector: Detector,
    stride: int,
    padding: str,
    relu: bool,
    pool: int,
) -> str:
    reduced = ""
    if shape != small:
        reduced = f" The picture has {shape[0]}x{shape[1]} pixels; here it is smaller."
    names = [*DETECTORS, *([] if detector.name in DETECTORS else [detector.name])]
    color = ""
    if small[2] == 3:
        color = (
            '<label>Color of the sum above<br><select id="color">'
            '<option value="0">red</option><option value="1">green</option>'
            '<option value="2">blue</option></select></label>'
        )
    paddings = (("same", "same: a frame of zeros"), ("valid", "valid: no frame"))
    return Template(asset("filter.html")).substitute(
        about=escape(detector.about),
        color=color,
        detector=escape(detector.name),
        detectors="".join(_option(each, each, detector.name) for each in names),
        divisor=f"{detector.divisor:g}",
        name=escape(name),
        paddings="".join(_option(value, text, padding) for value, text in paddings),
        pools=_numbers(_POOLS, pool, names={1: "none"}),
        reduced=reduced,
        relu=" checked" if relu else "",
        size=f"{small[0]}x{small[1]}",
        strides=_numbers(_STRIDES, stride),
    )


def _option(value: object, text: str, chosen: object) -> str:
    mark = " selected" if value == chosen else ""
    return f'<option value="{escape(str(value))}"{mark}>{escape(text)}</option>'


def _numbers(values: tuple[int, ...], chosen: int, names: dict[int, str] | None = None) -> str:
    every = sorted({*values, chosen})
    return "".join(_option(each, (names or {}).get(each, str(each)), chosen) for each in every)
