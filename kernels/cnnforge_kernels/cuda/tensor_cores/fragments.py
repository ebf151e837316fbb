"""Device functions of the tensor-core kernels: copies, loads of fragments, and products.

The kernels compute matrix products A @ B. A fragment is the part of an operand of the ``mma``
instruction that one thread (lane) of a warp has in registers (``layout.py``). A term is an index of
the summed axis. The functions are inlined into the kernels, which pass constants as flags and
counts.
"""

from __future__ import annotations

from typing import Any

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.tensor_cores import layout
from cnnforge_kernels.cuda.tensor_cores.layout import U, inlined

swizzled = inlined(layout.swizzled)
a_matrix_row = inlined(layout.a_matrix_row)
a_matrix_chunk = inlined(layout.a_matrix_chunk)
b_matrix_row = inlined(layout.b_matrix_row)
b_matrix_chunk = inlined(layout.b_matrix_chunk)
fragment_row = inlined(layout.fragment_row)
fragment_column = inlined(layout.fragment_column)


@inlined
def copy_chunk(
    shared: Any,
    where: Any,
    memory: Any,
    place: Any,
    first: Any,
    depth: Any,
    allowed: Any,
    vector: Any,
) -> None:
    """Start the asynchronous copy of four neighbouring values to shared memory.

    The values are the terms ``first`` .. ``first + 3`` of the line that starts at element ``place``
    of ``memory``. Terms from ``depth`` on become zeros. If ``allowed`` is false, all four become
    zeros. No address outside ``memory`` is computed.
    """
    if vector:
        valid = U(allowed & (first < depth))
        ptx.copy_async_16(shared, where, memory, U(U(place + first) * valid), U(valid * U(16)))
    else:
        for e in range(4):
            term = U(first + U(e))
            valid = U(allowed & (term < depth))
            source = U(U(place + term) * valid)
            ptx.copy_async_4(shared, U(where + U(e)), memory, source, U(valid * U(4)))


@inlined
def copy_words(shared: Any, where: Any, memory: Any, place: Any, allowed: Any, vector: Any) -> None:
    """Start the asynchronous copy of four words to shared memory.

    If ``vector`` is false, copy one word. If ``allowed`` is false, write zeros.
    """
    valid = U(allowed)
    if vector:
        ptx.copy_async_16(shared, where, memory, U(place * valid), U(valid * U(16)))
    else:
        ptx.copy_async_4(shared, where, memory, U(place * valid), U(valid * U(4)))


@inlined
def put_a(a: Any, i: Any, half: Any, w0: Any, w1: Any, w2: Any, w3: Any, bfloat16: Any) -> None:
    """Round the four values that this lane has of a (16, 8) block of A, and write them to ``a``.

    The four values are half of a fragment in bf16 and a whole fragment in tf32.
    """
    if bfloat16:
        a[i, 2 * half] = ptx.pack_bfloat16(w0, w2)
        a[i, 2 * half + 1] = ptx.pack_bfloat16(w1, w3)
    else:
        a[i, 0] = ptx.round_tf32(w0)
        a[i, 1] = ptx.round_tf32(w1)
        a[i, 2] = ptx.round_tf32(w2)
        a[i, 3] = ptx.round_tf32(w3)


@inlined
def put_b(b: Any, j: Any, half: Any, w0: Any, w1: Any, bfloat16: Any) -> None:
    """Round the two values that this lane has of an (8, 8) block of B, and write them to ``b``."""
    if bfloat16:
        b[j, half] = ptx.pack_bfloat16(w0, w1)
    else:
        b[j, 0] = ptx.round_tf32(w0)
        b[j, 1] = ptx.round_tf32(w1)


@inlined
def load_a_lines(
    shared: Any,
    start: Any,
    first: Any,
    lane: Any,
    half: Any,
    a: Any,
    pieces: Any,
    bfloat16: Any,
) -> None:
    """Load fragments of A if shared memory has a line of 16 terms for each row of A.

    ``first`` is the first row. ``half`` selects the first or the last 8 terms.
    """
    for i in range(pieces):
        line = U(U(first + U(16 * i)) + a_matrix_row(lane))
        words = U(start + swizzled(line, U(a_matrix_chunk(lane) + U(2 * half))))
        w = ptx.load_matrices(shared, words)
        put_a(a, i, half, w[0], w[1], w[2], w[3], bfloat16)


@inlined
def load_b_lines(
    shared: Any,
    start: Any,
    first: Any,
    lane: Any,
    half: Any,
    b: Any,
    across: Any,
    bfloat16: Any,
) -> None:
    """Load fragments of B if shared memory has a line of 16 terms for each column of B.

    ``first`` is the first column. One ``ldmatrix`` instruction loads two fragments.
    """
    for j in range(across // 2):
        line = U(U(first + U(16 * j)) + b_matrix_row(lane))
        words = U(start + swizzled(line, U(b_matrix_chunk(lane) + U(2 * half))))
        w = ptx.load_matrices(shared, words)
        put_b(b, 2 * j, half, w[0], w[1], bfloat16)
        put_b(b, 2 * j + 1, half, w[2], w[3], bfloat16)


@inlined
def load_a_terms(
    shared: Any,
    start: Any,
    first: Any,
    length: Any,
    lane: Any,
    half: Any,
    a: Any,
    pieces: Any,
    bfloat16: Any,
) -> None:
    """Load fragments of A if the summed axis is outermost in shared memory.

    Shared memory has a row of ``length`` words for each term, that is, for each column of A.
    """
    place = U(U(start + U(U(fragment_column(lane) + U(8 * half)) * U(length))) + first)
    place = U(place + fragment_row(lane))
    for i in range(pieces):
        near = U(place + U(16 * i))
        far = U(near + U(4 * length))
        put_a(
            a,
            i,
            half,
            ptx.load_shared(shared, near),
            ptx.load_shared(shared, U(near + U(8))),
            ptx.load_shared(shared, far),
            ptx.load_shared(shared, U(far + U(8))),
            bfloat16,
        )


@inlined
def load_b_terms(
    shared: Any,
    start: Any,
    first: Any,
    length: Any,
    lane: Any,
    half: Any,
    b: Any,
    across: Any,
    bfloat16: Any,
) -> None:
    """Load fragments of B if shared memory has a row of ``length`` words for each row of B."""
    place = U(U(start + U(U(fragment_column(lane) + U(8 * half)) * U(length))) + first)
    place = U(place + fragment_row(lane))
    for j in range(across):
        near = U(place + U(8 * j))
        first = ptx.load_shared(shared, near)
        second = ptx.load_shared(shared, U(near + U(4 * length)))
        put_b(b, j, half, first, second, bfloat16)


@inlined
def multiply(sums: Any, a: Any, b: Any, pieces: Any, across: Any, bfloat16: Any) -> None:
    """Multiply every fragment of A by every fragment of B, and add the products to ``sums``."""
    for i in range(pieces):
        for j in range(across):
            if bfloat16:
                s = ptx.mma_bfloat16(
                    a[i, 0],
                    a[i, 1],
                    a[i, 2],
                    a[i, 3],
                    b[j, 0],
                    b[j, 1],
                    sums[i, j, 0],
                    sums[i, j, 1],
                    sums[i, j, 2],
                    sums[i, j, 3],
                )
            else:
                s = ptx.mma_tf32(
                    a[i, 0],
                    a[i, 1],
                    a[i, 2],
                    a[i, 3],
                    b[j, 0],
                    b[j, 1],
                    sums[i, j, 0],
                    sums[i, j, 1],
                    sums[i, j, 2],
                    sums[i, j, 3],
                )
            sums[i, j, 0] = s[0]
            sums[i, j, 1] = s[1]
            sums[i, j, 2] = s[2]
            sums[i, j, 3] = s[3]
