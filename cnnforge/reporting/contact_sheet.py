"""Draw a contact sheet: some images of each class in one PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cnnforge.reporting import drawing
from cnnforge.reporting.lettering import lettering

MAX_ROWS = 40
"""Max number of rows of a sheet."""

# Sizes in pixels. The figure has 150 pixels per inch.
CELL, _GAP, _DPI = 84, 6, 150
_LETTER, _LINE = 11, 26
_BACKGROUND = 255


class SheetRow(NamedTuple):
    """A row of a contact sheet.

    Attributes:
        name: Text on its left side, such as the name of a class.
        images: The images, (H, W, 1) or (H, W, 3) uint8 of any size.
        details: Small text under the name.
    """

    name: str
    images: Sequence[np.ndarray]
    details: str = ""


def contact_sheet(
    path: Path,
    rows: Sequence[SheetRow],
    *,
    title: str,
    headings: Sequence[str] = (),
    cell: int = CELL,
) -> list[str]:
    """Draw a contact sheet. The size of an image is changed, but not its aspect ratio.

    Args:
        path: The PNG file to write.
        rows: The rows, at least one; at most `MAX_ROWS` of them are drawn.
        title: Title of the sheet.
        headings: Text above each column of images.
        cell: Height and width of the place of an image in pixels.

    Returns:
        The names that are written in Latin letters, because no installed font has theirs.

    Raises:
        OSError: If the file cannot be written.
    """
    rows = rows[:MAX_ROWS]
    columns = max(len(row.images) for row in rows)
    with drawing.style({"axes.grid": False}):
        letters = lettering([row.name for row in rows])
        with_details = [*letters.names, *(row.details for row in rows)]
        left = 16 + _LETTER * max(map(len, with_details))
        top = 16 + _LINE * (2 if headings else 1)
        step = cell + _GAP
        # A short sheet still has space for its title.
        width = max(left + columns * step, 16 + _LETTER * len(title))
        canvas = np.full((top + len(rows) * step, width, 3), _BACKGROUND, np.uint8)
        for number, row in enumerate(rows):
            for column, image in enumerate(row.images):
                _paste(canvas, image, top + number * step, left + column * step, cell)
        height = len(canvas)
        figure = drawing.new_figure(width / _DPI, height / _DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        font = {"family": letters.families, "va": "center"}
        axes.text(8, 8 + _LINE / 2, title, fontsize=9, fontweight="bold", **font)
        for column, heading in enumerate(headings):
            place = left + column * step + cell / 2
            axes.text(place, top - _LINE / 2, heading, fontsize=7, ha="center", **font)
        for number, (row, name) in enumerate(zip(rows, letters.names, strict=True)):
            middle = top + number * step + cell / 2
            if row.details:
                axes.text(8, middle + 12, row.details, fontsize=6.5, color="#666666", **font)
                middle -= 9
            axes.text(8, middle, name, fontsize=8.5, **font)
        drawing.write(figure, path)
    return letters.replaced


def some_rows(count: int) -> list[int]:
    """Return the numbers of the rows of a sheet if there are `count`: all, or some at equal steps.

    Args:
        count: Number of possible rows, 1 or more.
    """
    if count <= MAX_ROWS:
        return list(range(count))
    return [number * count // MAX_ROWS for number in range(MAX_ROWS)]


def _paste(canvas: np.ndarray, image: np.ndarray, top: int, left: int, cell: int) -> None:
    """Draw an image into the middle of a cell."""
    height, width = image.shape[:2]
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    longest = max(height, width)
    if longest <= cell:
        # Show the pixels of a small image as squares.
        factor = cell // longest
        size, method = (width * factor, height * factor), Image.Resampling.NEAREST
    else:
        size = max(1, width * cell // longest), max(1, height * cell // longest)
        method = Image.Resampling.BICUBIC
    picture = picture.resize(size, method)
    top, left = top + (cell - size[1]) // 2, left + (cell - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = np.asarray(picture)
