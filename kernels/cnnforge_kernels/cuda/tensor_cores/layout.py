"""Where everything lies in a tensor-core kernel: integer functions, the same in Python and there.

A block of 128 threads computes a tile of ``rows`` by ``columns`` results, 16 terms of the sum at a
time. Its four warps share the tile; a warp's part is cut into (16, 8) pieces, one instruction each.

Fragments (PTX ISA, "Matrix fragments for mma.m16n8k8"), with g = lane // 4 and q = lane % 4:

* A, (16, 8): a0 at (g, q), a1 at (g + 8, q), a2 at (g, q + 4), a3 at (g + 8, q + 4);
* B, (8, 8): b0 at (q, g), b1 at (q + 4, g);
* sums, (16, 8): c0 at (g, 2q), c1 at (g, 2q + 1), c2 at (g + 8, 2q), c3 at (g + 8, 2q + 1).

``mma.m16n8k16`` for bf16 takes pairs of terms: a0 holds terms (2q, 2q + 1), a2 (2q + 8, 2q + 9).
Operands stay float32 in shared memory and are rounded in registers. A sum may be taken in any
order, so the 16 terms are numbered anew: what the instruction calls (2q, 2q + 1, 2q + 8, 2q + 9) is
(q, q + 4, q + 8, q + 12), in A and B alike. So two tf32 steps' registers, packed in pairs, are the
registers of one bf16 step, and both precisions read shared memory in the same way.

Every function takes Python integers, NumPy arrays, and the kernel's own values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import SIMULATED, cuda

THREADS = 128
# That many blocks fit on a multiprocessor: 128 registers a thread, 40 KB of shared memory a block.
BLOCKS = 4
DEPTH = 16
STAGES = 3
# Rows of a tile that is stored term by term are 8 words longer than needed: the 4 terms by 8
# positions that a fragment load touches then lie in 32 different banks.
PADDING = 8
U = np.uint32


@dataclass(frozen=True)
class Tile:
    """How the results of a block are shared by its warps.

    Attributes:
        rows: of the block's tile; so is ``columns``.
        warp_rows: of a warp's part; so is ``warp_columns``.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int


WIDE = Tile(128, 64, 64, 32)
NARROW = Tile(128, 32, 32, 32)


def inlined(function: Any) -> Any:
    """Make a map callable in a kernel. It is inlined before types are known, with no device."""
    if cuda is None or SIMULATED:
        return function
    return cuda.jit(device=True, inline="always")(function)


def swizzled(row: Any, chunk: Any) -> Any:
    """Word at which 16-byte chunk ``chunk`` (0..3) of row ``row`` of an operand (rows, 16) lies.

    Two rows fill the 32 banks. Without the exclusive or, ``ldmatrix`` would find the same chunk
    of every second row in the same banks; with it, eight rows' chunks lie in different banks.
    """
    return U(16 * row + 4 * (chunk ^ ((row >> 1) & 3)))


def a_matrix_row(lane: Any) -> Any:
    """Row of A, of 16, whose place lane ``lane`` gives to ``ldmatrix``."""
    return lane & 15


def a_matrix_chunk(lane: Any) -> Any:
    """Chunk of that row, of 2 (8 terms)."""
    return lane >> 4


def b_matrix_row(lane: Any) -> Any:
    """Column of B, of 16 (two instructions' worth), as ``a_matrix_row``."""
    return (lane & 7) + ((lane >> 4) << 3)


def b_matrix_chunk(lane: Any) -> Any:
    """Chunk of that column, of 2 (8 terms)."""
    return (lane >> 3) & 1


def fragment_row(lane: Any) -> Any:
    """g: the row in A and in the sums, the column in B."""
    return lane >> 2


def fragment_column(lane: Any) -> Any:
    """q: the term in A and B, the pair of columns in the sums."""
    return lane & 3


def warp_row(warp: Any, tile_columns: int, warp_columns: int, warp_rows: int) -> Any:
    """First row of a warp's part of the tile; warps lie in row-major order."""
    return warp // (tile_columns // warp_columns) * warp_rows


def warp_column(warp: Any, tile_columns: int, warp_columns: int) -> Any:
    """First column of a warp's part of the tile."""
    return warp % (tile_columns // warp_columns) * warp_columns


def copied_row(thread: Any, copy: Any, width: int, vector: int) -> Any:
    """Row that the ``copy``-th copy of a thread fills, in a tile ``width`` words wide."""
    return thread // (width // vector) + copy * (THREADS * vector // width)


def copied_column(thread: Any, width: int, vector: int) -> Any:
    """First word of a row that each copy of a thread fills."""
    return thread % (width // vector) * vector


def clamped(value: Any, last: Any) -> Any:
    """``value``, or ``last`` where that is less."""
    return U(value - (value - last) * (value > last))


def quotient(value: Any, multiplier: Any, shift: Any) -> Any:
    """``value // divisor`` for ``value < 2**31``, with the constants of ``division``."""
    return U((np.uint64(value) * (np.uint64(multiplier) + np.uint64(1 << 31))) >> np.uint64(shift))


def division(divisor: int) -> tuple[int, int]:
    """(multiplier, shift) of ``quotient``.

    Granlund, Montgomery, "Division by invariant integers using multiplication", 1994, theorem 4.2:
    with l = ceil(log2 d), ``m = ceil(2**(31 + l) / d)`` serves all numbers of 31 bits. It has 32
    bits, the highest of which is always set and is left out here.
    """
    bits = (divisor - 1).bit_length()
    return -((-1 << (31 + bits)) // divisor) - (1 << 31), 31 + bits


def phase_size(size: Any, phase: Any, stride: Any) -> Any:
    """How many of ``size`` positions are ``phase`` modulo ``stride``."""
    return U(U(size - phase + stride - 1) // U(stride))


def phase_first_tap(phase: Any, before: Any, stride: Any) -> Any:
    """First tap that connects inputs of a phase with outputs."""
    return U(U(phase + before) % U(stride))


def phase_taps(taps: Any, first: Any, stride: Any) -> Any:
    """Number of such taps, ``stride`` apart; ``first`` is less than ``stride``."""
    return U(U(taps + stride - 1 - first) // U(stride))


def phase_origin(phase: Any, before: Any, stride: Any) -> Any:
    """The output that the first of those taps connects with the phase's first input."""
    return U(U(phase + before) // U(stride))
