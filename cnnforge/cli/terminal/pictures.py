"""Prepare pictures for a terminal, which shows two pixels with each character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    Color = tuple[int, int, int]

COLORS = (
    (255, 120, 50),
    (50, 190, 255),
    (0, 220, 150),
    (255, 80, 160),
    (240, 220, 60),
    (180, 120, 255),
)
"""Colors of boxes, (red, green, blue)."""

# Width of the column of a small picture, in characters.
_COLUMN = 40


@dataclass(frozen=True)
class TerminalPicture:
    """A picture with a caption.

    Attributes:
        pixels: (H, W, 3) uint8. A character shows two pixels, one below the other.
        caption: Lines below the picture. A line consists of texts with their color, or `None` for
            the color of other text.
    """

    pixels: np.ndarray
    caption: Sequence[Sequence[tuple[str, Color | None]]] = field(default_factory=tuple)


def columns_for(width: int, count: int) -> int:
    """Return the number of small pictures side by side on a terminal.

    Args:
        width: Number of columns of the terminal.
        count: Number of pictures.
    """
    return max(1, min(count, width // _COLUMN))


def fitted(picture: Image.Image, width: int, lines: int) -> Image.Image:
    """Change the size of a picture so that it fits a terminal. The aspect ratio remains.

    A small picture is enlarged by a whole number, so that its pixels remain squares.

    Args:
        picture: The picture, in any mode.
        width: Max number of columns.
        lines: Max number of lines.

    Returns:
        A picture in the mode `"RGB"`.
    """
    from PIL import Image

    bounds = max(1, width), max(1, lines) * 2
    factor = min(bound / side for bound, side in zip(bounds, picture.size, strict=True))
    method = Image.Resampling.BOX
    if factor >= 1:
        factor, method = int(factor), Image.Resampling.NEAREST
    size = [max(1, int(side * factor)) for side in picture.size]
    return picture.convert("RGB").resize((size[0], size[1]), method)


def outlined(
    picture: Image.Image, boxes: Sequence[Sequence[float]], colors: Sequence[Color]
) -> Image.Image:
    """Draw boxes with lines of one pixel.

    Args:
        picture: A picture in the mode `"RGB"`.
        boxes: `x1 y1 x2 y2` of each box, as fractions of the width and the height.
        colors: Color of each box.

    Returns:
        A new picture of the same size.
    """
    from PIL import ImageDraw

    drawn = picture.copy()
    canvas = ImageDraw.Draw(drawn)
    width, height = drawn.width, drawn.height
    for (x1, y1, x2, y2), color in zip(boxes, colors, strict=True):
        left, top = (
            int(min(max(share, 0), 1) * side) for share, side in ((x1, width), (y1, height))
        )
        right, bottom = (
            min(max(round(share * side) - 1, first), side - 1)
            for share, side, first in ((x2, width, left), (y2, height, top))
        )
        corners = min(left, width - 1), min(top, height - 1), right, bottom
        canvas.rectangle(corners, outline=color)
    return drawn


def legend(
    names: Sequence[str], colors: Sequence[Color], *, max_names: int = 6
) -> list[tuple[str, Color | None]]:
    """Return a line of a caption with the names of boxes in their colors.

    Args:
        names: The names.
        colors: Color of each name.
        max_names: Max number of names that are shown.
    """
    pairs = list(zip(names, colors, strict=True))
    line: list[tuple[str, Color | None]] = []
    for name, color in pairs[:max_names]:
        line.append((f"{name}  ", color))
    if len(pairs) > max_names:
        line.append((f"and {len(pairs) - max_names} more", None))
    return line
