"""Read numbers from annotations."""

from __future__ import annotations

import math
from typing import Any

# No format of images has a longer side.
_MAX_SIDE = 2**31


def number(value: Any) -> float:
    """Return a number, or NaN if a value is not a number.

    Args:
        value: A number, or a text with a number.
    """
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return math.nan
    return math.nan


def picture_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Return height and width of a picture, or `None` if they cannot be those of a picture.

    Args:
        height: A number, or a text with a number.
        width: The same.
    """
    sides = number(height), number(width)
    if not all(1 <= side <= _MAX_SIDE for side in sides):
        return None
    return int(sides[0]), int(sides[1])
