"""Feature detectors that are applied to pictures: those known by name, and those that users write.

A feature detector, also called kernel or filter, is a small square matrix. The number of a pixel in
the feature map is the sum of the products of the matrix and the pixels around it.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from cnnforge.errors import UsageError
from cnnforge.utils.names import printable

SIZES = (3, 5, 7)
"""Numbers of rows and columns that a detector can have."""
# A file of 49 numbers is much smaller.
_MAX_FILE = 10_000
# Characters of a number.
_MAX_WORD = 40


@dataclass(frozen=True)
class Detector:
    """A feature detector.

    Attributes:
        name: Name for messages and files.
        matrix: (K, K) or (K, K, C) float64. With two axes, it is applied to every color by itself.
            With three axes, it has a matrix for each color, and the sums of the colors are added.
        divisor: Number by which every sum is divided. It lets `matrix` hold whole numbers, with
            which sums are exact.
        offset: Number that is added to every sum after it is divided.
        about: Description of the detector, one sentence.
    """

    name: str
    matrix: np.ndarray
    divisor: float = 1.0
    offset: float = 0.0
    about: str = ""

    @property
    def size(self) -> int:
        """Number of rows and columns."""
        return len(self.matrix)

    @property
    def total(self) -> float:
        """The factor by which a picture of one color becomes brighter: the sum of the numbers."""
        return float(self.matrix.sum() / self.divisor)


def _built_in(name: str, rows: list[list[int]], about: str, divisor: int = 1) -> Detector:
    return Detector(name, np.array(rows, np.float64), divisor=float(divisor), about=about)


DETECTORS = {
    each.name: each
    for each in (
        _built_in(
            "edge",
            [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
            "The Laplacian: bright where a pixel differs from its neighbors.",
        ),
        _built_in(
            "course",
            [[0, 10, 0], [10, -4, 10], [0, 10, 0]],
            "The numbers of the course. They sum to 36, not to 0 as those of an edge detector.",
        ),
        _built_in(
            "sobel-x",
            [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
            "Bright where the picture becomes brighter from left to right.",
        ),
        _built_in(
            "sobel-y",
            [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
            "Bright where the picture becomes brighter from top to bottom.",
        ),
        _built_in(
            "sharpen",
            [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
            "The picture plus its edges.",
        ),
        _built_in(
            "blur",
            [[1, 2, 1], [2, 4, 2], [1, 2, 1]],
            "A weighted mean of a pixel and its neighbors.",
            divisor=16,
        ),
        _built_in(
            "emboss",
            [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
            "The picture as a relief that is lit from the bottom right.",
        ),
        _built_in(
            "identity",
            [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
            "The picture itself.",
        ),
    )
}
"""The built-in detectors, by name."""


def find_detector(text: str) -> Detector:
    """Find the detector that a user named.

    Args:
        text: Name of a built-in detector; or a matrix such as `"0 1 0; 1 -4 1; 0 1 0"`, rows
            separated by semicolons; or the path of a text file with one row per line.

    Returns:
        The detector.

    Raises:
        UsageError: The text is not a name, a matrix or a file, the matrix is not square, its size
            is not 3, 5 or 7, or a word is not a number.
    """
    if text.lower() in DETECTORS:
        return DETECTORS[text.lower()]
    if os.path.exists(text):
        return _parsed(_read(text), Path(text).stem, f"the file {text}")
    if re.search(r"[;\s\d]", text) and not re.search(r"[A-Za-z_/\\]{2}", text):
        return _parsed(text, "own", f"the matrix {text.strip()!r}")
    import difflib

    close = difflib.get_close_matches(text.lower(), DETECTORS, 1)
    if not close and re.search(r"[;\s]", text.strip()):
        # It looks like a matrix with a word in it.
        return _parsed(text, "own", f"the matrix {text.strip()!r}")
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(DETECTORS)},"
    raise UsageError(
        f"{text!r} is neither a detector nor a file; {hint} or write a matrix, such as "
        '"0 1 0; 1 -4 1; 0 1 0"'
    )


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE + 1)
        if len(content) <= _MAX_FILE:
            return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"the detector {path} cannot be read: {what}; give a text file with one row of numbers "
            "per line"
        ) from error
    raise UsageError(f"the detector {path} is too large: give 3 to 7 rows of numbers, one per line")


def _parsed(text: str, name: str, what: str) -> Detector:
    lines = [line.strip() for line in re.split(r"[;\n]", text)]
    rows = [re.split(r"\s*,\s*|\s+", line) for line in lines if line]
    if not rows:
        raise UsageError(f"{what} is empty: give 3, 5 or 7 rows of as many numbers")
    numbers = [[_number(word, what) for word in row] for row in rows]
    widths = {len(row) for row in numbers}
    if widths != {len(rows)} or len(rows) not in SIZES:
        columns = " or ".join(map(str, sorted(widths)))
        raise UsageError(
            f"{what} has {len(rows)} rows and {columns} columns: give 3, 5 or 7 rows of as many "
            "numbers"
        )
    # Whole numbers make exact sums, so decimal fractions get a common divisor.
    divisor = math.lcm(*(each.denominator for row in numbers for each in row))
    whole = np.array([[float(each * divisor) for each in row] for row in numbers])
    return Detector(name, whole, divisor=float(divisor))


def _number(word: str, what: str) -> Fraction:
    try:
        # The fraction of 1e-999999999 has a billion digits.
        number = Fraction(word) if len(word) <= _MAX_WORD and "e" not in word.lower() else None
        number = Fraction(str(float(word))) if number is None else number
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{what} has {printable(word)!r}, which is not a number") from error
    if abs(number) > 1000 or number.denominator > 10_000:
        raise UsageError(
            f"{what} has {printable(word)}: give numbers from -1000 to 1000 with at most four "
            "decimals"
        )
    return number
