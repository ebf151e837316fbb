"""Show rows of images on the terminal, for `cnnforge data show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Max number of rows, and of images in a row.
_MAX_ROWS, _MAX_IMAGES = 5, 8
# Min width of an image in columns. An image with boxes is wider.
_WIDTH, _WIDTH_WITH_BOXES = 18, 38
_OWN, _OTHER = (255, 140, 40), (150, 150, 150)


class TerminalRow(NamedTuple):
    """Images of a class.

    Attributes:
        name: Name of the class.
        images: The images, (H, W, 1) or (H, W, 3) uint8.
        boxes: For each image the boxes, (k, 4) `x1 y1 x2 y2` in pixels, and for each box whether
            it is one of the class, (k,) bool. `None` if images have no boxes.
    """

    name: str
    images: Sequence[np.ndarray]
    boxes: Sequence[tuple[np.ndarray, np.ndarray]] | None = None


def show_rows(rows: Sequence[TerminalRow]) -> None:
    """Print the first rows, and as many images of each as fit.

    Args:
        rows: The rows.
    """
    import numpy as np

    from cnnforge.cli import _render
    from cnnforge.cli.terminal.pictures import TerminalPicture
    from cnnforge.data import printable

    width, _ = _render.terminal_size()
    for row in rows[:_MAX_ROWS]:
        least = _WIDTH if row.boxes is None else _WIDTH_WITH_BOXES
        count = min(_MAX_IMAGES, max(1, (width + _render.GAP) // (least + _render.GAP)))
        column = min(least, width)
        _render.result(printable(row.name), style="bold")
        numbers = range(min(count, len(row.images)))
        pictures = [_picture(row, number, column) for number in numbers]
        _render.pictures([TerminalPicture(np.asarray(each)) for each in pictures], column)
    if len(rows) > _MAX_ROWS:
        _render.message(f"the first {_MAX_ROWS} of {len(rows)} rows; the sheet has all")


def _picture(row: TerminalRow, number: int, width: int) -> Image.Image:
    import numpy as np
    from PIL import Image

    from cnnforge.cli.terminal.pictures import fitted, outlined

    image = row.images[number]
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    picture = fitted(Image.fromarray(np.ascontiguousarray(pixels)), width, width // 2)
    if row.boxes is None:
        return picture
    boxes, own = row.boxes[number]
    order = np.argsort(own, kind="stable")
    height, wide = image.shape[:2]
    shares = boxes[order] / np.array([wide, height, wide, height])
    colors = [_OWN if each else _OTHER for each in own[order]]
    return outlined(picture, shares.tolist(), colors)
