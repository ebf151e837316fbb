"""Where everything lies in the kernels that keep a tile of the source, halo and all, on chip.

A block computes 256 pixels of the target: ``rows`` by ``columns`` of one image, or whole small
images. The window's taps read the same pixels of the source again and again: the tile with a halo
of the window's reach is copied into shared memory once for each ``terms`` channels, already
rounded, a line of 128 bytes a pixel (64 bfloat16 or 32 tf32). What a tap reads is the same lines,
a constant number of lines further.

Packed weights are such lines, too, one for each column of the result; 64 lines, a tap's share, are
one step of the sum.

The functions take Python integers, NumPy arrays, and the kernel's own values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from cnnforge_kernels.cuda.runtime.plans import Pair, blocks
from cnnforge_kernels.cuda.tensor_cores.layout import U

THREADS = 128
# Of 64 x 64 results a warp, 128 of a thread's registers, two blocks fit on a multiprocessor.
BLOCKS = 2
PIXELS, COLUMNS = 256, 64
WARP_PIXELS = PIXELS * 32 // THREADS
# Words of a line, and lines of the source that fit: 56 KB, and 24 KB for three steps' weights. Two
# blocks are 162 KB, of the 164 KB of an A100.
LINE, LINES, STAGES = 32, 448, 3
STEP = COLUMNS * LINE
SHARED = LINES * LINE + STAGES * STEP
_SHIFT = 20


def terms(bfloat16: bool) -> int:
    """Channels of a line."""
    return 2 * LINE if bfloat16 else LINE


def together(bfloat16: bool, masked: bool) -> int:
    """Lines that are copied with their loads in flight together: what the registers hold."""
    return 56 if bfloat16 and masked else 112


def line_word(line: Any, chunk: Any) -> Any:
    """Word at which 16-byte chunk ``chunk`` (0..7) of a line lies.

    A line fills the 32 banks. ``ldmatrix`` reads the same chunk of eight lines: the exclusive or
    puts them into different banks where the lines follow one another.
    """
    return U(32 * line + 4 * (chunk ^ (line & 7)))


def place_word(place: Any, words: Any) -> Any:
    """``line_word`` in three instructions, of ``LINE * line`` and ``4 * chunk``."""
    return U(place + ((place >> 3) & 28 ^ words))


def reciprocal(divisor: int) -> int:
    """The multiplier of ``small_quotient``."""
    return -(-(1 << _SHIFT) // divisor)


def small_quotient(value: Any, multiplier: Any) -> Any:
    """``value // divisor`` for numbers of up to ``LINES``, and ``reciprocal(divisor)``.

    The multiplier is too large by less than ``divisor / 2**20``, the quotient by less than
    ``value * divisor / 2**20 / divisor``: too little to reach the next whole number.
    """
    return U(U(value * multiplier) >> U(_SHIFT))


@dataclass(frozen=True)
class Halo:
    """How the target's pixels are shared among blocks.

    Attributes:
        images: of a block; more than one only where a block holds whole images.
        rows: of a block; so is ``columns``.
        reach: rows and columns that the window adds to those.
    """

    images: int
    rows: int
    columns: int
    reach: Pair

    @property
    def lines(self) -> int:
        """Pixels of the source."""
        return self.images * (self.rows + self.reach[0]) * (self.columns + self.reach[1])

    def grid(self, images: int, height: int, width: int) -> tuple[int, int, int]:
        """Blocks for a target: groups of images, down, across."""
        return (
            blocks(images, self.images),
            blocks(height, self.rows),
            blocks(width, self.columns),
        )


def _candidates(images: int, height: int, width: int, reach: Pair) -> Iterator[Halo]:
    for across in range(1, width + 1):
        columns = blocks(width, across)
        if columns > PIXELS:
            continue
        rows = min(height, PIXELS // columns, LINES // (columns + reach[1]) - reach[0])
        if rows < 1:
            continue
        # As many blocks, but equal ones.
        rows = blocks(height, blocks(height, rows))
        one = Halo(1, rows, columns, reach)
        if (rows, columns) == (height, width):
            more = min(PIXELS // (rows * columns), LINES // one.lines, images)
            one = Halo(max(more, 1), rows, columns, reach)
        yield one
        if columns <= 8:
            break


def _cheapest(tiles: Iterable[Halo], images: int, height: int, width: int) -> Halo | None:
    """The one of which there are the fewest, then the one with the least halo."""

    def cost(it: Halo) -> tuple[int, int]:
        return prod(it.grid(images, height, width)), it.lines

    return min(tiles, key=cost, default=None)


@lru_cache(maxsize=1024)
def halo(images: int, height: int, width: int, reach: Pair) -> Halo | None:
    """The tile with the fewest blocks, then the least halo; ``None`` where no tile fits.

    Args:
        images: of the target.
        height: of the target.
        width: of the target.
        reach: rows and columns between the first tap of the window and the last.
    """
    return _cheapest(_candidates(images, height, width, reach), images, height, width)


def _divisors(number: int) -> list[int]:
    return [it for it in range(1, number + 1) if number % it == 0]


@lru_cache(maxsize=1024)
def exact_halo(
    images: int, height: int, width: int, reach: Pair, pixels: int, lines: int, step: int
) -> Halo | None:
    """The largest tile, then the one with the least halo, of those that leave nothing over.

    Rows and columns are divided evenly, columns in pairs, and a tile's pixels into whole steps.
    Only of the images some may be missing, in the last tile. ``None`` where no tile is like that.

    Args:
        images: of the target.
        height: of the target.
        width: of the target.
        reach: rows and columns between the first tap of the window and the last.
        pixels: the most of the target in a tile.
        lines: the most of the source in a tile.
        step: pixels of a step.
    """
    found: list[Halo] = []
    for columns in _divisors(width):
        for rows in _divisors(height):
            most = 1
            if (rows, columns) == (height, width):
                most = min(images, pixels // (rows * columns))
            for count in range(most, 0, -1):
                tile, size = Halo(count, rows, columns, reach), count * rows * columns
                if size <= pixels and tile.lines <= lines and not (size % step or columns % 2):
                    found.append(tile)

    return _cheapest(found, images, height, width)
