"""Weights as the kernels of ``tensor_core_halo.py`` read them: rounded, in lines of 128 bytes.

The lines of a step stand in the order and with the swizzle that they have in shared memory, so
that a step is copied as it lies: ``packed[tile of columns][chunk of channels][tap][column][word]``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.tensor_cores.convolution import Precision
from cnnforge_kernels.cuda.tensor_cores.halo import layout as maps
from cnnforge_kernels.cuda.tensor_cores.halo.layout import COLUMNS, LINE, THREADS
from cnnforge_kernels.cuda.tensor_cores.layout import U


@cache
def pack(precision: Precision, gradient: bool) -> Kernel:
    """The kernel for a precision.

    Its arguments: weights (KH, KW, C, F) float32, packed, then the numbers of words of ``packed``,
    of taps, of chunks, C and F.

    Args:
        precision: of the words: a tf32, or a pair of bfloat16.
        gradient: for the gradient of the inputs, a convolution with the window turned around, of F
            channels to C columns; else of C channels to F columns.
    """
    BFLOAT16, GRADIENT = precision == "bfloat16", gradient
    TERMS = maps.terms(BFLOAT16)
    EACH = TERMS // LINE

    @kernel(
        f"{'conv2d_grad_inputs' if gradient else 'conv2d'} {precision} pack",
        *("float32*",) * 2,
        *("uint32",) * 5,
        threads=THREADS,
        since=(8, 0),
        identity=(precision, gradient),
    )
    def _pack_kernel(
        weights: Any, packed: Any, words: Any, taps: Any, chunks: Any, channels: Any, filters: Any
    ) -> None:
        word = U(U(U(cuda.blockIdx.x) * U(THREADS)) + U(cuda.threadIdx.x))
        inside = U(word < words)
        line = U(word >> 5)
        column = U(line & U(COLUMNS - 1))
        step = U(line // U(COLUMNS))
        tap = U(step % taps)
        rest = U(step // taps)
        chunk = U(rest % chunks)
        column = U(column + U(U(rest // chunks) * U(COLUMNS)))
        # The swizzle of `line_word`, which is its own inverse: its lines are counted from a
        # multiple of 8.
        term = U(U(U(U(word & 31) >> 2) ^ U(line & 7)) << 2)
        term = U(U(U(chunk * U(TERMS)) + U(term * U(EACH))) + U(U(word & 3) * U(EACH)))
        if GRADIENT:
            place = U(U(U(U(U(taps - U(1)) - tap) * channels) + column) * filters)
            place = U(place + term)
            depth, columns, apart = filters, channels, U(1)
        else:
            place = U(U(U(U(tap * channels) + term) * filters) + column)
            depth, columns, apart = channels, filters, filters
        valid = U(inside & (column < columns))
        first = ptx.as_bits(ptx.load_if(weights, place, U(valid & (term < depth))))
        if BFLOAT16:
            valid = U(valid & (U(term + U(1)) < depth))
            second = ptx.as_bits(ptx.load_if(weights, U(place + apart), valid))
            bits = ptx.pack_bfloat16(first, second)
        else:
            bits = ptx.round_tf32(first)
        ptx.store_if(packed, word, ptx.as_float(bits), inside)

    return _pack_kernel
