"""Layout of data in the tensor-core kernels: integer functions for Python and for kernels.

A block of 128 threads computes a tile of ``rows`` by ``columns`` results, 16 terms of the sum at a
time. Its four warps share the tile. The part of a warp is cut into (16, 8) pieces, one instruction
each.

Fragments (PTX ISA, "Matrix fragments for mma.m16n8k8"), with g = lane // 4 and q = lane % 4:

* A, (16, 8): a0 at (g, q), a1 at (g + 8, q), a2 at (g, q + 4), a3 at (g + 8, q + 4);
* B, (8, 8): b0 at (q, g), b1 at (q + 4, g);
* sums, (16, 8): c0 at (g, 2q), c1 at (g, 2q + 1), c2 at (g + 8, 2q), c3 at (g + 8, 2q + 1).

``mma.m16n8k16`` for bf16 takes pairs of terms: a0 holds terms (2q, 2q + 1), a2 (2q + 8, 2q + 9).
Operands stay float32 in shared memory and are rounded in registers. The order of a sum is free, so
the 16 terms are renumbered: the terms (2q, 2q + 1, 2q + 8, 2q + 9) of the instruction are the terms
(q, q + 4, q + 8, q + 12) of the sum, in A and in B. The registers of two tf32 steps, packed in
pairs, are then the registers of one bf16 step, and both precisions read shared memory in the same
way.

Every function takes Python integers, NumPy arrays, or values of a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import SIMULATED, cuda

THREADS = 128
# Number of blocks that fit on a multiprocessor: 128 registers per thread, 40 KB of shared memory
# per block.
BLOCKS = 4
DEPTH = 16
STAGES = 3
# Extra words per row of a tile that is stored term by term. The 4 terms by 8 positions of a
# fragment load are then in 32 different banks.
PADDING = 8
U = np.uint32


@dataclass(frozen=True)
class Tile:
    """Tile of results of a block, and the part of each warp.

    Attributes:
        rows: Number of rows of the tile.
        columns: Number of columns of the tile.
        warp_rows: Number of rows of the part of a warp.
        warp_columns: Number of columns of the part of a warp.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int


WIDE = Tile(128, 64, 64, 32)
NARROW = Tile(128, 32, 32, 32)


def inlined(function: Any) -> Any:
    """Make a function callable in a kernel. Numba inlines it, which needs no device."""
    if cuda is None or SIMULATED:
        return function
    return cuda.jit(device=True, inline="always")(function)


def swizzled(row: Any, chunk: Any) -> Any:
    """First word of the 16-byte chunk ``chunk`` (0..3) in row ``row`` of an operand (rows, 16).

    Two rows fill the 32 banks. Without the exclusive or, the same chunk of every second row would
    be in the same banks. With it, ``ldmatrix`` reads the chunks of eight rows from different banks.
    """
    return U(16 * row + 4 * (chunk ^ ((row >> 1) & 3)))


def a_matrix_row(lane: Any) -> Any:
    """Row of A (0..15) whose address lane ``lane`` passes to ``ldmatrix``."""
    return lane & 15


def a_matrix_chunk(lane: Any) -> Any:
    """16-byte chunk (0..1) of row ``a_matrix_row`` whose address the lane passes."""
    return lane >> 4


def b_matrix_row(lane: Any) -> Any:
    """Column of B (0..15, for two instructions) whose address the lane passes to ``ldmatrix``."""
    return (lane & 7) + ((lane >> 4) << 3)


def b_matrix_chunk(lane: Any) -> Any:
    """16-byte chunk (0..1) of column ``b_matrix_row`` whose address the lane passes."""
    return (lane >> 3) & 1


def fragment_row(lane: Any) -> Any:
    """Index g of the layout: the row in A and in the sums, the column in B."""
    return lane >> 2


def fragment_column(lane: Any) -> Any:
    """Index q of the layout: the term in A and B, the pair of columns in the sums."""
    return lane & 3


def warp_row(warp: Any, tile_columns: int, warp_columns: int, warp_rows: int) -> Any:
    """First row of the part of a warp. The warps are in row-major order."""
    return warp // (tile_columns // warp_columns) * warp_rows


def warp_column(warp: Any, tile_columns: int, warp_columns: int) -> Any:
    """First column of the part of a warp."""
    return warp % (tile_columns // warp_columns) * warp_columns


def copied_row(thread: Any, copy: Any, width: int, vector: int) -> Any:
    """Row that a thread fills with its copy ``copy``, in a tile that is ``width`` words wide."""
    return thread // (width // vector) + copy * (THREADS * vector // width)


def copied_column(thread: Any, width: int, vector: int) -> Any:
    """First column that a thread fills, which is the same for all of its copies."""
    return thread % (width // vector) * vector


def clamped(value: Any, last: Any) -> Any:
    """Return the smaller of ``value`` and ``last``."""
    return U(value - (value - last) * (value > last))


def quotient(value: Any, multiplier: Any, shift: Any) -> Any:
    """Compute ``value // divisor`` for ``value < 2**31``, with the constants of ``division``."""
    return U((np.uint64(value) * (np.uint64(multiplier) + np.uint64(1 << 31))) >> np.uint64(shift))


def division(divisor: int) -> tuple[int, int]:
    """Compute the multiplier and the shift of ``quotient``.

    Granlund, Montgomery, "Division by invariant integers using multiplication", 1994, theorem 4.2:
    with l = ceil(log2 d), ``m = ceil(2**(31 + l) / d)`` is right for all numbers of 31 bits. It has
    32 bits. The highest one is always set, so it is left out here and added by ``quotient``.
    """
    bits = (divisor - 1).bit_length()
    return -((-1 << (31 + bits)) // divisor) - (1 << 31), 31 + bits


def phase_size(size: Any, phase: Any, stride: Any) -> Any:
    """Number of positions below ``size`` that are ``phase`` modulo ``stride``."""
    return U(U(size - phase + stride - 1) // U(stride))


def phase_first_tap(phase: Any, before: Any, stride: Any) -> Any:
    """First tap that connects inputs of a phase with outputs."""
    return U(U(phase + before) % U(stride))


def phase_taps(taps: Any, first: Any, stride: Any) -> Any:
    """Number of taps of a phase. The first is ``first``, and the distance is ``stride``."""
    return U(U(taps + stride - 1 - first) // U(stride))


def phase_origin(phase: Any, before: Any, stride: Any) -> Any:
    """Output that the first tap of a phase connects with the first input of the phase."""
    return U(U(phase + before) // U(stride))
