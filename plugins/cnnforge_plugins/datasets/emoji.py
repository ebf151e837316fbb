"""Draw emoji as colour pictures, from a font and a list that Linux distributions package.

The classes are the groups of the list, which is a file of the Unicode Consortium. Emoji with skin
tones, sequences of several emoji, symbols and flags are left out. Noto Color Emoji has the licence
OFL-1.1; the pictures are drawn when the dataset is opened, and are not part of this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnnforge.data import DataOptions, Dataset, SkippedFile, dataset_from_arrays, printable
from cnnforge.errors import DataError, UsageError

FONTS = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf"),
)
"""The places of the font on Debian, Arch and Fedora."""
LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
"""The list of emoji of the Unicode Consortium."""
SPLIT_SEED = 0
"""Seed of the split. It does not depend on `options.seed`, so that runs with different seeds
validate on the same emoji."""

_LEFT_OUT = ("Component", "Symbols", "Flags")
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_COLOR_STYLE = 0xFE0F
# Colour fonts have pictures of one size. The first one is that of Noto Color Emoji.
_SIZES = (109, 136, 128, 160, 137, 96, 72, 64)
_SIDE = 128
_INSTALL = "apt install fonts-noto-color-emoji unicode-data"


class Emoji(NamedTuple):
    """An emoji of the list: its code point, its name and its group."""

    code: int
    name: str
    group: str


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Draw the emoji, by default 80 % for training and 20 % for validation.

    Args:
        argument: A font file; `None`: Noto Color Emoji, where distributions install it.
        options: Options of the dataset. The split is always the same, so `seed` is not used.

    Returns:
        The dataset. Its classes are the groups of the emoji. Its samples have names such as
        `"emoji 1F600 grinning face"`. Emoji that the font does not have are skipped.

    Raises:
        UsageError: If there is no such font file.
        DataError: If the font or the list is not installed, or the font has no colour pictures.
    """
    drawn = draw_emoji(argument)
    classes = tuple(dict.fromkeys(each.group for each in drawn.emoji))
    dataset = dataset_from_arrays(
        "emoji" if argument is None else f"emoji:{os.path.abspath(drawn.path)}",
        drawn.pictures,
        np.array([classes.index(each.group) for each in drawn.emoji]),
        names=[f"emoji {each.code:04X} {each.name}" for each in drawn.emoji],
        classes=classes,
        options=options,
        split_seed=SPLIT_SEED,
    )
    return replace(dataset, skipped=drawn.skipped)


class DrawnEmoji(NamedTuple):
    """The emoji of a font.

    Attributes:
        path: The font.
        emoji: N emoji with their names and groups.
        pictures: (N, 128, 128, 3) uint8, on white.
        skipped: The emoji that the font does not have.
    """

    path: Path
    emoji: list[Emoji]
    pictures: np.ndarray
    skipped: tuple[SkippedFile, ...]

    def on_black(self) -> np.ndarray:
        """Draw the same emoji on black: (N, 128, 128, 3) uint8."""
        font, size = _open_font(self.path)
        return np.array([_draw(font, size, chr(each.code), "black") for each in self.emoji])


def draw_emoji(argument: str | None) -> DrawnEmoji:
    """Draw all emoji that a font has.

    Args:
        argument: A font file; `None`: Noto Color Emoji, where distributions install it.

    Raises:
        UsageError: If there is no such font file.
        DataError: If the font or the list is not installed, or the font has no colour pictures.
    """
    path = _font_path(argument)
    font, size = _open_font(path)
    emoji = list(_listed())
    drawn = [_draw(font, size, chr(each.code)) for each in emoji]
    # A font draws the same picture for all characters that it does not have.
    missing = {_draw(font, size, text).tobytes() for text in ("\U000e0fff", "\ufffe", "\u0378")}
    blank = Image.new("RGB", (_SIDE, _SIDE), "white").tobytes()
    there = [picture.tobytes() not in (*missing, blank) for picture in drawn]
    pictures = np.array([p for p, known in zip(drawn, there, strict=True) if known], np.uint8)
    kept = [each for each, known in zip(emoji, there, strict=True) if known]
    gray = len(pictures) and (pictures == pictures[..., :1]).all()
    if not kept or gray:
        what = "no colour pictures" if kept else "none of the emoji"
        raise DataError(
            f"{printable(path)} has {what}: give another font, emoji:FONT, or type: {_INSTALL}"
        )
    gone = [each for each, known in zip(emoji, there, strict=True) if not known]
    skipped = [SkippedFile(f"emoji {e.code:04X} {e.name}", f"not in {path.name}") for e in gone]
    return DrawnEmoji(path, kept, pictures, tuple(skipped))


def _font_path(argument: str | None) -> Path:
    if argument is not None:
        path = Path(os.path.expanduser(argument))
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise UsageError(f"the font {printable(path)} {what}: give a font file, such as a .ttf")
        return path
    path = next((path for path in FONTS if path.is_file()), None)
    if path is None:
        raise DataError(
            f"emoji are drawn from Noto Color Emoji, and {FONTS[0]} is missing; type: {_INSTALL}, "
            "or give a font file, emoji:FONT"
        )
    return path


def _open_font(path: Path) -> tuple[ImageFont.FreeTypeFont, int]:
    reason: object = ""
    for size in _SIZES:
        try:
            return ImageFont.truetype(str(path), size), size
        except OSError as error:
            reason = error
    raise DataError(
        f"{printable(path)} cannot be used as a font ({reason}): give a font with colour emoji, or "
        f"type: {_INSTALL}"
    )


def _listed() -> Iterator[Emoji]:
    """Yield the emoji that are single characters, in the order of the list."""
    try:
        with LIST.open(encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError as error:
        raise DataError(
            f"the list of emoji {LIST} is missing; type: apt install unicode-data"
        ) from error
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"the list of emoji {LIST} cannot be read: {error}; type: apt install --reinstall "
            "unicode-data"
        ) from error
    group = ""
    for line in lines:
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        codes, semicolon, rest = line.partition(";")
        if line.startswith("#") or not semicolon or group in _LEFT_OUT:
            continue
        status, _, comment = rest.partition("#")
        points = [int(code, 16) for code in codes.split()]
        points = [point for point in points if point != _COLOR_STYLE]
        if status.strip() != "fully-qualified" or len(points) != 1 or points[0] in _SKIN_TONES:
            continue
        # The comment has the emoji, the version in which it came, and its name.
        yield Emoji(points[0], " ".join(comment.split()[2:]), group)


def _draw(
    font: ImageFont.FreeTypeFont, size: int, text: str, background: str = "white"
) -> np.ndarray:
    """Draw a character: (128, 128, 3) uint8."""
    if size == _SIZES[0]:
        image = Image.new("RGBA", (136, 128), background)
        ImageDraw.Draw(image).text((0, 0), text, font=font, fill="black", embedded_color=True)
        return np.asarray(image.convert("RGB").crop((4, 0, 132, 128)))
    image = Image.new("RGBA", (2 * size, 2 * size), background)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, embedded_color=True)
    place = size - (left + right) / 2, size - (top + bottom) / 2
    draw.text(place, text, font=font, fill="black", embedded_color=True)
    half = max(right - left, bottom - top, 1) / 2
    box = (int(size - half), int(size - half), int(size + half), int(size + half))
    return np.asarray(image.convert("RGB").crop(box).resize((_SIDE, _SIDE)))
