"""Choose fonts for names in any script, and write names in Latin letters if no font has theirs."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from anyascii import anyascii

_MAX_NAME = 24
# Letters at the end of a shortened name. Names that begin alike often differ at their end.
_TAIL = 9
_DEFAULT_FONT = "DejaVu Sans"
# Fonts that show other signs than the letters they claim to have.
_WRONG_FONTS = ("Last Resort", "STIXNonUnicode", "Adobe Blank", "cm")
# Control characters, surrogates, private use, and numbers without a letter.
_NO_LETTERS = ("Cc", "Cs", "Co", "Cn")
# A letter of these kinds changes its shape or its place next to other letters, so that a text is
# unreadable unless Matplotlib arranges the letters. Versions before 3.11 do not.
_RIGHT_TO_LEFT = ("R", "AL", "AN")
_MARKS = ("Mn", "Mc", "Me")
_SIMPLE_MARKS = range(0x300, 0x370)


@dataclass(frozen=True)
class Lettering:
    """The way in which the names in a figure are written.

    Attributes:
        families: Names of fonts for Matplotlib's parameter `font.family`, the preferred one first.
        names: The names as the figure shows them, in the given order: at most 24 letters of each.
        replaced: The original names of those that are written in Latin letters.
    """

    families: list[str]
    names: list[str]
    replaced: list[str]


def lettering(names: Sequence[str]) -> Lettering:
    """Choose the fonts for names, and rewrite the names that no installed font can show.

    A rewritten name begins with its number, counted from 1, since two names may have the same Latin
    letters. So does a name that is equal to another one when it is shortened. Call this inside of
    `cnnforge.reporting.drawing.style`.

    Args:
        names: The names, in any script.
    """
    visible = [_without_controls(name) for name in names]
    letters = {letter for name in visible for letter in name}
    missing = {it for it in letters - _letters_of(_DEFAULT_FONT) if not _is_joiner(it)}
    families = [_DEFAULT_FONT, *_fonts_for(missing)] if missing else [_DEFAULT_FONT]
    known = set().union(*map(_letters_of, families))
    shown, replaced = [], []
    for number, (name, text) in enumerate(zip(names, visible, strict=True), 1):
        if all(it in known or _is_joiner(it) for it in text) and _can_arrange(text):
            shown.append(_shortened(text))
        else:
            shown.append(_shortened(f"#{number} {_latin(text)}"))
            replaced.append(name)
    if len(set(shown)) < len(shown):
        # Shortened names may be equal.
        shown = [f"#{n} {it}" if shown.count(it) > 1 else it for n, it in enumerate(shown, 1)]
    return Lettering(families, shown, replaced)


def fonts_of(families: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the files of fonts, for a library that draws texts with one font each.

    Args:
        families: Names of fonts, see `Lettering.families`.

    Returns:
        The letters of each font by the path of its file, in the order of `families`.
    """
    from matplotlib import font_manager

    found = {}
    for family in families:
        try:
            path = font_manager.findfont(family, fallback_to_default=False)
        except ValueError:
            continue
        found[str(path)] = _letters_of(family)
    return found


def _latin(text: str) -> str:
    """Return a text in ASCII letters, or in escapes if no letter of it has a counterpart."""
    return anyascii(text).strip() or "".join(map(_escape, text))


def _without_controls(text: str) -> str:
    return "".join(_escape(it) if unicodedata.category(it) in _NO_LETTERS else it for it in text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _shortened(text: str) -> str:
    if len(text) <= _MAX_NAME:
        return text
    return f"{text[: _MAX_NAME - _TAIL - 1]}…{text[-_TAIL:]}"


def _is_joiner(letter: str) -> bool:
    """Return whether a letter is invisible and only changes its neighbours."""
    return unicodedata.category(letter) == "Cf" or 0xFE00 <= ord(letter) <= 0xFE0F


def _can_arrange(text: str) -> bool:
    """Return whether Matplotlib can place the letters of a text as its script needs it."""
    from matplotlib import ft2font

    if hasattr(ft2font, "__libraqm_version__"):
        return True
    return not any(
        unicodedata.bidirectional(it) in _RIGHT_TO_LEFT
        or (unicodedata.category(it) in _MARKS and ord(it) not in _SIMPLE_MARKS)
        for it in text
    )


def _fonts_for(letters: Iterable[str]) -> list[str]:
    """Choose installed fonts that have as many of some letters as possible, few fonts for all."""
    missing, chosen = set(letters), []
    offers = {family: _letters_of(family) & missing for family in _families()}
    while missing:
        # Prefer fonts without serifs, as the default font is.
        best = max(
            offers,
            key=lambda family: (len(offers[family] & missing), "Sans" in family, family),
            default="",
        )
        found = {it for it in offers.get(best, set()) & missing if _has_shape(best, it)}
        if not offers.pop(best, set()) & missing:
            break
        if found:
            chosen.append(best)
            missing -= found
    return chosen


def _families() -> list[str]:
    from matplotlib import font_manager

    names = {entry.name for entry in font_manager.fontManager.ttflist}
    return sorted(name for name in names if not name.startswith(_WRONG_FONTS))


@cache
def _letters_of(family: str) -> frozenset[str]:
    """Return the letters of an installed font; empty if the font cannot be read."""
    font = _open(family)
    return frozenset() if font is None else frozenset(map(chr, font.get_charmap()))


def _has_shape(family: str, letter: str) -> bool:
    """Return whether a font draws anything for a letter. Fonts of coloured signs may not."""
    font = _open(family)
    try:
        glyph = None if font is None else font.load_char(ord(letter))
    except RuntimeError:
        return False
    return glyph is not None and (glyph.width > 0 or letter.isspace())


@cache
def _open(family: str):
    from matplotlib import font_manager, ft2font

    try:
        return ft2font.FT2Font(font_manager.findfont(family, fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):
        return None
