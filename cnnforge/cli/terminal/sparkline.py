"""Draw the course of the loss as a line of block characters."""

from __future__ import annotations

import math

_BLOCKS = "▁▂▃▄▅▆▇█"


class Sparkline:
    """The course of a value during training, as a short text.

    A character stands for the mean value of the same number of batches. If there are too many
    characters, each takes the place of two.

    Args:
        width: Max number of characters, an even number.
    """

    def __init__(self, width: int = 16) -> None:
        self._width = width
        self._size = 1
        # The sum of the values and the number of batches of each character.
        self._parts: list[tuple[float, int]] = []

    def add(self, value: float, batches: int) -> None:
        """Add the mean value of some batches. A value that is not finite is left out.

        Args:
            value: The mean value.
            batches: Number of batches.
        """
        while batches > 0 and math.isfinite(value):
            if not self._parts or self._parts[-1][1] == self._size:
                if len(self._parts) == self._width:
                    self._halve()
                self._parts.append((0.0, 0))
            total, count = self._parts[-1]
            taken = min(batches, self._size - count)
            self._parts[-1] = total + value * taken, count + taken
            batches -= taken

    def _halve(self) -> None:
        pairs = zip(self._parts[::2], self._parts[1::2], strict=True)
        self._parts = [(a + c, b + d) for (a, b), (c, d) in pairs]
        self._size *= 2

    def text(self) -> str:
        """Return the line; empty for less than two values.

        The lowest block is the min value of the line, and the highest one the max value.
        """
        means = [total / count for total, count in self._parts]
        if len(means) < 2:
            return ""
        low, high = min(means), max(means)
        scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
        return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)
