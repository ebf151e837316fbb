"""Compute which element each thread of a tensor-core kernel copies, loads and sums.

The kernels compute matrix products A @ B. A term is an index of the summed axis. A block of 128
threads computes a tile of ``rows`` by ``columns`` results and adds 16 terms per step. Its four
warps share the tile. The results of a warp are cut into (16, 8) pieces, and one ``mma`` instruction
adds products to one piece.

A fragment is the part of an operand that is in the registers of one thread. For the thread ``lane``
of a warp, with g = lane // 4 and q = lane % 4, the fragments are (PTX ISA, "Matrix fragments for
mma.m16n8k8"):

* A, (16, 8): a0 at (g, q), a1 at (g + 8, q), a2 at (g, q + 4), a3 at (g + 8, q + 4);
* B, (8, 8): b0 at (q, g), b1 at (q + 4, g);
* sums, (16, 8): c0 at (g, 2q), c1 at (g, 2q + 1), c2 at (g + 8, 2q), c3 at (g + 8, 2q + 1).

``mma.m16n8k16`` for bf16 takes pairs of terms: a0 holds terms (2q, 2q + 1), a2 (2q + 8, 2q + 9).
Operands stay float32 in shared memory and are rounded in registers. The order of a sum is free, so
the 16 terms are renumbered: the terms (2q, 2q + 1, 2q + 8, 2q + 9) of the instruction are the terms
(q, q + 4, q + 8, q + 12) of the sum, in A and in B. The registers of two tf32 steps, packed in
pairs, are then the registers of one bf16 step, and both precisions read shared memory in the same
way.

The functions accept Python integers, NumPy arrays, and values of a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import SIMULATED, cuda

THREADS = 128
# Number of blocks that must fit on a multiprocessor. This leaves 128 registers per thread and 40 KB
# of shared memory per block.
BLOCKS = 4
DEPTH = 16
STAGES = 3
# Extra words per row of an operand that has one row per term in shared memory. A warp loads 4 terms
# at 8 positions at a time. With the extra words they are in 32 different banks.
PADDING = 8
U = np.uint32


@dataclass(frozen=True)
class Tile:
    """Number of results that a block computes, and number that each of its warps computes.

    Attributes:
        rows: Number of rows that a block computes.
        columns: Number of columns that a block computes.
        warp_rows: Number of rows that a warp computes.
        warp_columns: Number of columns that a warp computes.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int


WIDE = Tile(128, 64, 64, 32)
NARROW = Tile(128, 32, 32, 32)


def inlined(function: Any) -> Any:
    """Make a function callable in a kernel. Numba inlines it, also without a device."""
    if cuda is None or SIMULATED:
        return function
    return cuda.jit(device=True, inline="always")(function)


def swizzled(row: Any, chunk: Any) -> Any:
    """Index in shared memory of the first word of a 16-byte chunk of an operand (rows, 16).

    ``chunk`` is the index of the chunk in its row, from 0 to 3. Two rows fill the 32 banks. Without
    the exclusive or, the same chunk of every second row would be in the same banks. With it,
    ``ldmatrix`` reads the chunks of eight rows from different banks.
    """
    return U(16 * row + 4 * (chunk ^ ((row >> 1) & 3)))


def a_matrix_row(lane: Any) -> Any:
    """Row of A (0..15) whose address thread ``lane`` of a warp passes to ``ldmatrix``."""
    return lane & 15


def a_matrix_chunk(lane: Any) -> Any:
    """Index (0..1) of the 16-byte chunk of row ``a_matrix_row`` whose address the thread passes."""
    return lane >> 4


def b_matrix_row(lane: Any) -> Any:
    """Column of B (0..15, for two products) whose address the thread passes to ``ldmatrix``."""
    return (lane & 7) + ((lane >> 4) << 3)


def b_matrix_chunk(lane: Any) -> Any:
    """Index (0..1) of the 16-byte chunk of column ``b_matrix_row`` whose address is passed."""
    return (lane >> 3) & 1


def fragment_row(lane: Any) -> Any:
    """Index g of the fragments (see the module): the row of A and of the sums, the column of B."""
    return lane >> 2


def fragment_column(lane: Any) -> Any:
    """Index q of the fragments (see the module): the term of A and B, two columns of the sums."""
    return lane & 3


def warp_row(warp: Any, tile_columns: int, warp_columns: int, warp_rows: int) -> Any:
    """First row of the results of a warp. The warps cover the tile in row-major order."""
    return warp // (tile_columns // warp_columns) * warp_rows


def warp_column(warp: Any, tile_columns: int, warp_columns: int) -> Any:
    """First column of the results of a warp."""
    return warp % (tile_columns // warp_columns) * warp_columns


def copied_row(thread: Any, copy: Any, width: int, vector: int) -> Any:
    """Row of a tile of ``width`` words to which a thread writes its copy of index ``copy``."""
    return thread // (width // vector) + copy * (THREADS * vector // width)


def copied_column(thread: Any, width: int, vector: int) -> Any:
    """First column to which a thread copies. It is the same for all copies of the thread."""
    return thread % (width // vector) * vector


def clamped(value: Any, last: Any) -> Any:
    """Return the smaller of ``value`` and ``last``."""
    return U(value - (value - last) * (value > last))


def quotient(value: Any, multiplier: Any, shift: Any) -> Any:
    """Compute ``value // divisor`` for ``value < 2**31``, with the results of ``division``."""
    return U((np.uint64(value) * (np.uint64(multiplier) + np.uint64(1 << 31))) >> np.uint64(shift))


def division(divisor: int) -> tuple[int, int]:
    """Return two numbers for ``quotient``: the multiplier and the shift.

    Granlund, Montgomery, "Division by invariant integers using multiplication", 1994, theorem 4.2:
    with l = ceil(log2 d), ``m = ceil(2**(31 + l) / d)`` is right for all numbers of 31 bits. This m
    has 32 bits, and its highest bit is always set. So the result omits the highest bit, and
    ``quotient`` adds it again.
    """
    bits = (divisor - 1).bit_length()
    return -((-1 << (31 + bits)) // divisor) - (1 << 31), 31 + bits


def phase_size(size: Any, phase: Any, stride: Any) -> Any:
    """Number of indices from 0 to ``size - 1`` whose remainder modulo ``stride`` is ``phase``."""
    return U(U(size - phase + stride - 1) // U(stride))


def phase_first_tap(phase: Any, before: Any, stride: Any) -> Any:
    """Index of the first tap that reads the inputs of a phase. ``before`` is the padding."""
    return U(U(phase + before) % U(stride))


def phase_taps(taps: Any, first: Any, stride: Any) -> Any:
    """Number of taps that read the inputs of a phase: every ``stride``-th one from ``first`` on."""
    return U(U(taps + stride - 1 - first) // U(stride))


def phase_origin(phase: Any, before: Any, stride: Any) -> Any:
    """Index of the output that reads the first input of a phase with the first tap of the phase."""
    return U(U(phase + before) // U(stride))
