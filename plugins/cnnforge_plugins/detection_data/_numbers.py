"""Read numbers from annotations."""

from __future__ import annotations

import math
from typing import Any


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
