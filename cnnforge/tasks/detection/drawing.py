"""Draw boxes and the names of their classes into pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnnforge.reporting import drawing
from cnnforge.reporting.lettering import fonts_of, lettering

# Colors that differ for color-blind people too (P. Tol, "Colour schemes", 2021, and darker ones).
_COLORS = (
    (238, 119, 51),
    (0, 119, 187),
    (51, 187, 238),
    (204, 51, 17),
    (0, 153, 136),
    (238, 51, 119),
    (187, 187, 187),
    (221, 204, 119),
    (170, 68, 153),
    (17, 119, 51),
)
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
# A smaller picture is enlarged, such that labels do not cover the objects.
_MIN_SIDE = 480
_MIN_LETTER = 11


class BoxPainter:
    """Draws boxes of some classes. The label of a box is readable on any background.

    Args:
        classes: Names of the classes, in any script. A name that no installed font can show is
            written in Latin letters.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        with drawing.style({}):
            letters = lettering(classes)
        self._names = letters.names
        self._fonts = _Fonts(letters.families)

    def draw(
        self,
        image: Image.Image,
        boxes: np.ndarray,
        labels: np.ndarray,
        confidences: np.ndarray | None = None,
        *,
        letter: int = _MIN_LETTER,
    ) -> Image.Image:
        """Draw boxes into a picture.

        Args:
            image: The picture.
            boxes: (k, 4) float, `x1 y1 x2 y2` in pixels of the picture.
            labels: (k,) indices of the classes.
            confidences: (k,) float from 0 to 1, which the labels show; `None`: they do not.
            letter: Min size of the letters in pixels.

        Returns:
            A new picture in the mode `"RGB"`. It has the same size, or a multiple if the longer
            side has less than 480 pixels.
        """
        factor = max(1, -(-_MIN_SIDE // max(image.size)))
        size = image.width * factor, image.height * factor
        picture = image.convert("RGB")
        if factor > 1:
            picture = picture.resize(size, Image.Resampling.NEAREST)
        canvas = ImageDraw.Draw(picture)
        line = max(2, round(max(size) / 400))
        letter = max(letter, round(max(size) / 60))
        # Draw those with the highest confidence last, so that nothing covers their labels.
        order = range(len(boxes)) if confidences is None else np.argsort(confidences)
        for number in order:
            label = int(labels[number])
            color = _COLORS[label % len(_COLORS)]
            x1, y1, x2, y2 = (float(side) * factor for side in boxes[number])
            x2, y2 = max(x2, x1 + 2), max(y2, y1 + 2)
            # A dark line on both sides, so that a line of any color is visible on any background.
            canvas.rectangle((x1 - 1, y1 - 1, x2, y2), outline=_BLACK, width=line + 2)
            canvas.rectangle((x1, y1, x2 - 1, y2 - 1), outline=color, width=line)
            text = self._names[label]
            if confidences is not None:
                text += f" {confidences[number]:.0%}"
            self._write(canvas, text, (x1, y1, x2, y2), color, letter)
        return picture

    def _write(
        self,
        canvas: ImageDraw.ImageDraw,
        text: str,
        box: tuple[float, float, float, float],
        color: tuple[int, int, int],
        letter: int,
    ) -> None:
        """Write a label above a box, or at its upper edge if there is no space above."""
        runs = list(self._fonts.runs(text, letter))
        lengths = [font.getlength(part) for part, font in runs]
        width, height = sum(lengths) + letter * 0.6, round(letter * 1.4)
        x1, y1, _, _ = box
        total_width, total_height = canvas.im.size
        left = max(0.0, min(x1, total_width - width))
        top = y1 - height if y1 >= height else max(0.0, min(y1, total_height - height))
        canvas.rectangle((left, top, left + width, top + height - 1), fill=color)
        ink = _BLACK if _brightness(color) > 128 else _WHITE
        place = left + letter * 0.3
        for (part, font), length in zip(runs, lengths, strict=True):
            canvas.text((place, top + height / 2), part, fill=ink, font=font, anchor="lm")
            place += length


class _Fonts:
    """Fonts for a text in several scripts.

    Args:
        families: Names of installed fonts, the preferred one first.
    """

    def __init__(self, families: Sequence[str]) -> None:
        self._files = fonts_of(families)
        self._open: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}

    def runs(self, text: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
        """Divide a text into parts that one font has.

        Args:
            text: The text.
            size: Size of the letters in pixels.

        Yields:
            Each part and its font.
        """
        whole = next((file for file, has in self._files.items() if has.issuperset(text)), None)
        if whole is not None:
            yield text, self._font(whole, size)
            return
        first = next(iter(self._files))

        def file_of(letter: str) -> str:
            return next((file for file, has in self._files.items() if letter in has), first)

        for file, letters in groupby(text, file_of):
            yield "".join(letters), self._font(file, size)

    def _font(self, file: str, size: int) -> ImageFont.FreeTypeFont:
        if (file, size) not in self._open:
            self._open[file, size] = ImageFont.truetype(file, size)
        return self._open[file, size]


def _brightness(color: tuple[int, int, int]) -> float:
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue
