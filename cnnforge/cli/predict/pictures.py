"""Show the pictures that `cnnforge predict` has predicted on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from cnnforge.cli.terminal.pictures import TerminalPicture
    from cnnforge.prediction.inputs import Inputs
    from cnnforge.tasks import BoxOutput, Row, Task

    Part = tuple[Inputs, Sequence[Row]]

# Max number of pictures.
_MAX_SHOWN = 12
# A picture leaves these lines of the terminal to its caption and the prompt.
_OTHER_LINES = 6
# A picture with boxes is not wider, so that it takes few lines.
_MAX_WIDTH = 100


def show_pictures(parts: Sequence[Part], task: Task) -> None:
    """Print the first pictures with what was predicted; boxes are drawn.

    If the terminal cannot show pictures, print a line with the reason.

    Args:
        parts: Each input with the rows of its images, in their order.
        task: The task.
    """
    from cnnforge.cli import _render
    from cnnforge.cli.terminal.pictures import columns_for

    reason = _render.no_pictures()
    if reason:
        _render.message(f"note: --show shows no pictures: {reason}")
        return
    readable = [
        (row, part, number)
        for part, rows in parts
        for number, row in enumerate(rows)
        if row.error is None
    ]
    shown = readable[:_MAX_SHOWN]
    width, lines = _render.terminal_size()
    boxes = task.box_output
    columns = 1 if boxes is not None else columns_for(width, len(shown))
    column = min((width + _render.GAP) // columns - _render.GAP, _MAX_WIDTH)
    for first in range(0, len(shown), columns):
        made = [
            _captioned(part.picture(number), row, task, boxes, (column, lines - _OTHER_LINES))
            for row, part, number in shown[first : first + columns]
        ]
        _render.pictures(made, column)
        _render.result("")
    if len(readable) > len(shown):
        _render.message(
            f"the pictures of the first {len(shown)} of {len(readable)} images are shown"
        )


def _captioned(
    image: Image.Image, row: Row, task: Task, boxes: BoxOutput | None, size: tuple[int, int]
) -> TerminalPicture:
    import numpy as np

    from cnnforge.cli.terminal.pictures import COLORS, TerminalPicture, fitted, legend, outlined

    picture = fitted(image, *size)
    cells = row.shown()
    # The end of a path tells more than its start.
    name = row.name if len(row.name) <= size[0] else f"..{row.name[2 - size[0] :]}"
    caption: list[Any] = [[(name, None)]]
    if boxes is None:
        texts = [str(cells[name]) for name in task.columns if name in cells]
        true = cells.get("true label")
        if true is not None and true != cells.get("label"):
            texts.append(f"(true: {true})")
        caption.append([(" ".join(texts), None)])
    else:
        found = boxes.coco(row, 0, {})
        colors = [COLORS[each["category_id"] % len(COLORS)] for each in found]
        places = [_share(each["bbox"], image.size) for each in found]
        # The best box is drawn last.
        picture = outlined(picture, places[::-1], colors[::-1])
        names = [
            f"{each.get('category_name', each['category_id'])} {each['score']:.0%}"
            for each in found
        ]
        caption.append(legend(names, colors) or [("no object", None)])
    return TerminalPicture(np.asarray(picture), caption)


def _share(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return `x1 y1 x2 y2` as fractions of the size of a box `x y width height` in pixels."""
    x, y, width, height = box
    return x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1]
