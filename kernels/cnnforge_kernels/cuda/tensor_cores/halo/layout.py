"""Choose the tiles of the halo kernels, and compute where their data are in shared memory.

The kernels convolve a *source* and write the result to a *target*. A block computes 256 pixels of
the target: ``rows`` by ``columns`` of one image, or whole small images. The taps of the window read
the same pixels of the source many times. So the block copies the tile of the source, with a halo as
wide as the window reaches, into shared memory once per ``terms`` channels. The copy is rounded and
has a line of 128 bytes per pixel (64 bfloat16 or 32 tf32). Each tap reads the same lines, shifted
by a constant number of lines.

The weights are packed into such lines too, one line per column (channel) of the result. The 64
lines of a tap are one step of the sum.

The functions of words accept Python integers, NumPy arrays, and values of a kernel.
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
# Number of blocks that must fit on a multiprocessor. A warp computes 64 x 64 results, which take
# 128 registers per thread.
BLOCKS = 2
PIXELS, COLUMNS = 256, 64
WARP_PIXELS = PIXELS * 32 // THREADS
# Number of words per line, number of lines of the source, and number of steps of weights that are
# in shared memory at a time: 56 KB for the source and 24 KB for three steps. With 1 KB that CUDA
# reserves per block, two blocks take 162 of the 164 KB of shared memory of an A100 multiprocessor.
LINE, LINES, STAGES = 32, 448, 3
STEP = COLUMNS * LINE
SHARED = LINES * LINE + STAGES * STEP
_SHIFT = 20


def terms(bfloat16: bool) -> int:
    """Number of channels per line."""
    return 2 * LINE if bfloat16 else LINE


def together(bfloat16: bool, masked: bool) -> int:
    """Number of lines that are loaded at a time. The number of registers limits this number."""
    return 56 if bfloat16 and masked else 112


def line_word(line: Any, chunk: Any) -> Any:
    """Index in shared memory of the first word of the 16-byte chunk ``chunk`` (0..7) of a line.

    A line fills the 32 banks, and ``ldmatrix`` reads the same chunk of eight lines. The exclusive
    or puts the chunks of eight consecutive lines into different banks.
    """
    return U(32 * line + 4 * (chunk ^ (line & 7)))


def place_word(place: Any, words: Any) -> Any:
    """Compute ``line_word`` in three instructions, from ``LINE * line`` and ``4 * chunk``."""
    return U(place + ((place >> 3) & 28 ^ words))


def reciprocal(divisor: int) -> int:
    """Return the multiplier with which ``small_quotient`` divides by ``divisor``."""
    return -(-(1 << _SHIFT) // divisor)


def small_quotient(value: Any, multiplier: Any) -> Any:
    """Compute ``value // divisor`` for values and divisors up to ``LINES``.

    ``multiplier`` is ``reciprocal(divisor)``, which is ``2**20 / divisor`` rounded up. So before it
    is rounded down, the quotient is too large by less than ``value / 2**20``. This error is less
    than ``1 / divisor``, because ``value * divisor`` is less than ``2**20``. So the quotient never
    reaches the next whole number.
    """
    return U(U(value * multiplier) >> U(_SHIFT))


@dataclass(frozen=True)
class Halo:
    """Tile of pixels of the target that a block computes.

    Attributes:
        images: Number of images per block; more than one only if a block holds whole images.
        rows: Number of rows per block.
        columns: Number of columns per block.
        reach: Number of rows and columns that the window adds to the tile.
    """

    images: int
    rows: int
    columns: int
    reach: Pair

    @property
    def lines(self) -> int:
        """Number of pixels of the source in the tile with its halo: one line each."""
        return self.images * (self.rows + self.reach[0]) * (self.columns + self.reach[1])

    def grid(self, images: int, height: int, width: int) -> tuple[int, int, int]:
        """Number of blocks for a target: along groups of images, down an image, across it."""
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
        # Keep the number of blocks, but divide the rows evenly among them.
        rows = blocks(height, blocks(height, rows))
        one = Halo(1, rows, columns, reach)
        if (rows, columns) == (height, width):
            more = min(PIXELS // (rows * columns), LINES // one.lines, images)
            one = Halo(max(more, 1), rows, columns, reach)
        yield one
        if columns <= 8:
            break


def _cheapest(tiles: Iterable[Halo], images: int, height: int, width: int) -> Halo | None:
    """Find the tile that needs the fewest blocks; among equals, the one with the smallest halo."""

    def cost(tile: Halo) -> tuple[int, int]:
        return prod(tile.grid(images, height, width)), tile.lines

    return min(tiles, key=cost, default=None)


@lru_cache(maxsize=1024)
def halo(images: int, height: int, width: int, reach: Pair) -> Halo | None:
    """Find the tile that needs the fewest blocks; among equals, the one with the smallest halo.

    Args:
        images: Number of images of the target.
        height: Number of rows of the target.
        width: Number of columns of the target.
        reach: Number of rows and columns between the first and the last tap of the window.

    Returns:
        The tile; ``None`` if no tile fits.
    """
    return _cheapest(_candidates(images, height, width, reach), images, height, width)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@lru_cache(maxsize=1024)
def exact_halo(
    images: int, height: int, width: int, reach: Pair, pixels: int, lines: int, step: int
) -> Halo | None:
    """Find the largest tile that divides the target evenly, with the smallest halo among equals.

    Evenly means that the number of rows (columns) of the target is a multiple of that of the tile.
    Only the last tile may have fewer images. The number of columns of a tile is even, and its
    number of pixels is a multiple of ``step``.

    Args:
        images: Number of images of the target.
        height: Number of rows of the target.
        width: Number of columns of the target.
        reach: Number of rows and columns between the first and the last tap of the window.
        pixels: Maximum number of pixels of the target in a tile.
        lines: Maximum number of pixels of the source in a tile.
        step: Number of pixels that one ``mma`` instruction sums.

    Returns:
        The tile; ``None`` if none exists.
    """
    found: list[Halo] = []
    for columns in _divisors(width):
        for rows in _divisors(height):
            limit = 1
            if (rows, columns) == (height, width):
                limit = min(images, pixels // (rows * columns))
            for count in range(limit, 0, -1):
                tile, size = Halo(count, rows, columns, reach), count * rows * columns
                if size <= pixels and tile.lines <= lines and not (size % step or columns % 2):
                    found.append(tile)

    return _cheapest(found, images, height, width)
