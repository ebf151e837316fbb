r"""Bring names of files and classes into one normal form, in which every output can show them.

A name is a text that a user chose: a file name, a folder name, a label in a table. Two names that
look the same may differ in Unicode: an accent is one character on Linux, and two on a Mac. A file
name on Linux may also contain bytes that are not valid UTF-8, line breaks and control characters.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from typing import Any

# Characters that reverse the direction of the text after them, so that a name could hide its end.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Unicode categories without a visible form: control characters, parts of surrogate pairs, line and
# paragraph separators, and code points without a character.
_INVISIBLE = frozenset(("Cc", "Cs", "Zl", "Zp", "Cn"))


def normal_name(name: str | os.PathLike[str]) -> str:
    r"""Return the normal form of a name: Unicode NFC, in one line, with only visible characters.

    Names with the same normal form are the same name. A byte that is not valid UTF-8 becomes an
    escape such as `\xe4`, and so does a control character, or a blank at an end of the name.

    Args:
        name: A name, as Python reads it from the file system.
    """
    text = os.fspath(name)
    if text.isascii() and text.isprintable() and text == text.strip():
        return text
    text = printable(unicodedata.normalize("NFC", _utf8(text)))
    inner = text.strip()
    start, found, end = text.partition(inner) if inner else (text, "", "")
    return f"{_visible_blanks(start)}{found}{_visible_blanks(end)}"


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return a name in one line; characters that cannot be shown become escapes such as `\n`.

    Unlike `normal_name`, this keeps the Unicode form. So it returns the path of an existing file
    unchanged if all of its characters are visible.

    Args:
        name: A name or a path, as Python reads it from the file system.
    """
    text = os.fspath(name)
    return text if text.isprintable() else "".join(map(_shown, _utf8(text)))


def as_argument(path: str | os.PathLike[str]) -> str:
    r"""Return a path as one argument of a command that a message contains.

    A path with a blank is quoted, so that the command can be copied into a shell.

    Args:
        path: A path, as Python reads it from the file system.
    """
    return shlex.quote(printable(path))


def resume_command(run: str | os.PathLike[str], options: str = "") -> str:
    """Return the command that continues a run, in the quotes of a message.

    Args:
        run: Path of the run directory.
        options: Text of more options, such as `--epochs +10`.

    Returns:
        `'cnnforge train --resume RUN OPTIONS'`, with the quotes.
    """
    return f"'cnnforge train --resume {as_argument(run)}{options and f' {options}'}'"


def from_its_weights(run: str | os.PathLike[str]) -> str:
    """Return a clause about the option that begins a new run with the weights of a run.

    Args:
        run: Path of the run directory.
    """
    return f"for a new run from its weights use --init-from {as_argument(run)}"


def escaped(text: str) -> str:
    r"""Return a text in which each byte of a path that is not valid UTF-8 is an escape (`\xe4`).

    Unlike `printable`, this can be undone: `unescaped` returns the original text.

    Args:
        text: A text that contains a path, as Python reads it from the file system.
    """
    text = re.sub(r"\\(?=x(?:5c|[89a-f][0-9a-f]))", r"\\x5c", text)
    return re.sub("[\udc80-\udcff]", lambda match: _shown(match[0]), text)


def unescaped(value: Any) -> Any:
    """Undo `escaped` in all texts of a value.

    Args:
        value: A text, or a list or dictionary with texts and other values.

    Returns:
        A value with the original texts.
    """
    if isinstance(value, str):
        return re.sub(r"\\x(5c|[89a-f][0-9a-f])", _unescaped, value)
    if isinstance(value, list):
        return [unescaped(item) for item in value]
    if isinstance(value, dict):
        return {key: unescaped(item) for key, item in value.items()}
    return value


def _utf8(text: str) -> str:
    # If the locale is not UTF-8, Python represents each byte of a letter by a surrogate (PEP 383).
    # Decode these bytes as UTF-8, so that a name is the same in every locale.
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text


def _unescaped(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    return chr(code) if code < 0x80 else chr(0xDC00 + code)


def _visible_blanks(blanks: str) -> str:
    codes = map(ord, blanks)
    return "".join(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in codes)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # Python represents a byte that is not valid UTF-8 by a surrogate (PEP 383).
        return f"\\x{code - 0xDC00:02x}"
    if character in _DIRECTIONS or unicodedata.category(character) in _INVISIBLE:
        return ascii(character)[1:-1]
    return character


def natural_key(text: str) -> str:
    """Return a key that sorts texts such that numbers in them are compared by value."""
    # The number of digits comes before the digits, and a character that is less than all others
    # before both: `a2` < `a10` < `ab`. A string takes less memory than a list of parts.
    return re.sub("[0-9]+", _sortable, text)


def _sortable(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\0{chr(len(digits))}{digits}"
