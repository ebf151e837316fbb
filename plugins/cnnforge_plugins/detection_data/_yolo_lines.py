"""Read the lines of label files in the form of YOLO."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cnnforge.data import Box, BoxFinding
from cnnforge_plugins.detection_data._numbers import number


def read_boxes(
    content: bytes, shown: str, name_of: Callable[[str], str | None], key_points: bool
) -> tuple[list[Box], list[BoxFinding]]:
    """Read the boxes of a label file.

    A line has a class and the middle and size of a box, or a class and the corners of a polygon,
    which has at least three; the box around it is used. All are fractions of width and height.

    Args:
        content: Content of the file.
        shown: Name of the file, for messages.
        name_of: Function from the first word of a line to the name of the class; it returns `None`
            if there is no such class.
        key_points: Whether the box is followed by the points of a pose, which are ignored.

    Returns:
        The boxes, and the lines that were left out.
    """
    boxes: list[Box] = []
    findings: list[BoxFinding] = []
    # `splitlines` knows the line ends of all systems, and `split` every kind of blank.
    for line, text in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        words = text.split()
        if not words:
            continue
        place = f"{shown}, line {line}"
        values = [number(word) for word in words[1:]]
        name = name_of(words[0])
        if name is None:
            cause = "the class is not among the names of the classes"
            findings.append(BoxFinding(place, cause, f"class {words[0][:40]}"))
        elif len(values) in (4, 5) or (key_points and len(values) > 5):
            # A fifth number is the confidence of a prediction.
            x, y, width, height = values[:4]
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            boxes.append(Box(name, corners, place))
        elif len(values) >= 6 and len(values) % 2 == 0:
            boxes.append(Box(name, _around(values), place))
        else:
            cause = "the line has neither the four numbers of a box nor the corners of a polygon"
            findings.append(BoxFinding(place, cause, f"{len(values)} numbers after the class"))
    return boxes, findings


def _around(points: Sequence[float]) -> tuple[float, float, float, float]:
    x, y = points[::2], points[1::2]
    # `min` and `max` would ignore NaN, depending on its place.
    if any(map(math.isnan, points)):
        return math.nan, math.nan, math.nan, math.nan
    return min(x), min(y), max(x), max(y)
