"""Sizes and device functions of the kernel of ``halo/weights.py``: copies and products.

The sum of this kernel runs over pixels. Each pixel has a line in shared memory, which holds its
channels. Values of 16 bits are loaded with ``ldmatrix``, which transposes them. It cannot transpose
words of 32 bits, so these are loaded one by one. The ``mma`` instruction then sums eight pixels:
its summed indices q and q + 4 are the pixels 2q and 2q + 1. In this order the words that a warp
loads are in 32 different banks.

The functions are inlined into the kernels, which pass constants as flags and counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.tensor_cores.layout import U, inlined

THREADS, TAPS, CHANNELS, FILTERS = 256, 9, 64, 64
# Number of pixels that a block copies at once: 16 threads copy one pixel, four channels each.
COPIED = THREADS // 16
# Number of `mma` instructions per warp along the filters, 8 filters each. A warp sums all taps of
# 16 channels by 32 filters.
ACROSS = FILTERS // 16
# A tile is copied in quarters. During the copy of each quarter, the block multiplies two steps of
# the previous tile.
QUARTERS, STEPS = 4, 2
# Flag in the first word of an entry of the table of pixels, or in the index of the first image of a
# tile. If the flag is set, the copy reads nothing and writes zeros.
NOWHERE = 1 << 31


@dataclass(frozen=True)
class Sizes:
    """Sizes of a tile that fits into 99 KB of shared memory.

    Attributes:
        pixels: Number of pixels of the outputs per tile: eight steps.
        lines: Maximum number of pixels of the inputs per tile.
        line: Number of words per line of 64 channels. Consecutive lines are 4 banks apart.
        step: Number of pixels that one `mma` instruction sums.
    """

    pixels: int
    lines: int
    line: int
    step: int

    @property
    def total(self) -> int:
        """Number of lines of a tile: pixels of the outputs and of the inputs."""
        return self.pixels + self.lines

    @property
    def table(self) -> int:
        """Number of words of the table of pixels.

        The table has two words per line, and its number of entries is a multiple of ``THREADS``.
        """
        return 2 * THREADS * -(-self.total // THREADS)

    @property
    def shared(self) -> int:
        """Number of words of shared memory, for two tiles and the table of pixels."""
        return 2 * self.total * self.line + self.table


SIZES = {"bfloat16": Sizes(128, 208, 36, 16), "tf32": Sizes(64, 112, 68, 8)}


@inlined
def begin_copies(
    shared: Any,
    table: Any,
    memory: Any,
    origin: Any,
    height: Any,
    width: Any,
    images: Any,
    values: Any,
    k: Any,
) -> None:
    """Start the load of four channels of one pixel into ``values[k]``.

    An entry of the table of pixels (``halo/weights.py``), at word ``table``, selects the pixel.
    ``origin`` holds the first row, column, image and element of the tile.
    """
    w = ptx.load2_shared(shared, table)
    row, column, image = U(w[0] & 255), U(U(w[0] >> 8) & 255), U(w[0] >> 16)
    # A negative row is a huge unsigned number, so one comparison checks both bounds.
    valid = (U(row + origin[0]) < height) & (U(column + origin[1]) < width)
    valid = U(valid & (U(image + origin[2]) < images) & (w[0] < U(NOWHERE)))
    v = ptx.load4_if(memory, U(U(origin[3] + w[1]) * valid), valid)
    values[k, 0], values[k, 1], values[k, 2], values[k, 3] = v[0], v[1], v[2], v[3]


@inlined
def end_copies(shared: Any, word: Any, values: Any, k: Any, bfloat16: Any) -> None:
    """Round the loaded values ``values[k]`` and store them in shared memory, at ``word``."""
    if bfloat16:
        low = ptx.pack_bfloat16(values[k, 0], values[k, 1])
        high = ptx.pack_bfloat16(values[k, 2], values[k, 3])
        ptx.store2_shared(shared, word, low, high)
    else:
        w0, w1 = ptx.round_tf32(values[k, 0]), ptx.round_tf32(values[k, 1])
        w2, w3 = ptx.round_tf32(values[k, 2]), ptx.round_tf32(values[k, 3])
        ptx.store4_shared(shared, word, w0, w1, w2, w3)


@inlined
def multiply_turned(
    shared: Any,
    sums: Any,
    a: Any,
    b: Any,
    near: Any,
    further: Any,
    b_word: Any,
    line: Any,
    bfloat16: Any,
) -> None:
    """Add the products of a step to ``sums``: 16 pixels in bfloat16, 8 in tf32.

    ``near`` is the index of the word of the inputs that this lane reads at the first tap, and
    ``b_word`` is the index of its word of grad_outputs. ``further`` holds the distance of each tap
    from the first tap, in words.
    """
    if bfloat16:
        for j in range(ACROSS // 2):
            w = ptx.load_matrices_turned(shared, U(b_word + U(8 * j)))
            b[2 * j, 0], b[2 * j, 1], b[2 * j + 1, 0], b[2 * j + 1, 1] = w[0], w[1], w[2], w[3]
    else:
        for j in range(ACROSS):
            b[j, 0] = ptx.load_shared(shared, U(b_word + U(8 * j)))
            b[j, 1] = ptx.load_shared(shared, U(b_word + U(8 * j + line)))
    for i in range(TAPS):
        word = U(near + further[i])
        if bfloat16:
            w = ptx.load_matrices_turned(shared, word)
            a[0], a[1], a[2], a[3] = w[0], w[1], w[2], w[3]
        else:
            a[0] = ptx.load_shared(shared, word)
            a[1] = ptx.load_shared(shared, U(word + U(8)))
            a[2] = ptx.load_shared(shared, U(word + U(line)))
            a[3] = ptx.load_shared(shared, U(word + U(line + 8)))
        for j in range(ACROSS):
            c0, c1, c2, c3 = sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3]
            if bfloat16:
                s = ptx.mma_bfloat16(a[0], a[1], a[2], a[3], b[j, 0], b[j, 1], c0, c1, c2, c3)
            else:
                s = ptx.mma_tf32(a[0], a[1], a[2], a[3], b[j, 0], b[j, 1], c0, c1, c2, c3)
            sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3] = s[0], s[1], s[2], s[3]
