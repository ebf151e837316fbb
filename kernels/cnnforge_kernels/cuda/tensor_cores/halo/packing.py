"""Pack weights for ``halo/convolution.py``: round them, and write them in lines of 128 bytes.

The kernel of the convolution copies the weights of a step (one tap and one chunk of channels) to
shared memory unchanged. So the packed words already have the order of shared memory: ``packed[tile
of columns][chunk of channels][tap][column][word]``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.tensor_cores.convolution import Precision
from cnnforge_kernels.cuda.tensor_cores.halo.layout import COLUMNS, LINE, THREADS, terms
from cnnforge_kernels.cuda.tensor_cores.layout import U


@cache
def pack(precision: Precision, gradient: bool) -> Kernel:
    """Make the kernel that packs weights.

    Its arguments are weights (KH, KW, C, F) float32 and packed; then the number of words of
    ``packed``, the number of taps, the number of chunks, C and F.

    Args:
        precision: Precision of the words: one tf32, or a pair of bfloat16.
        gradient: Whether the weights are for the gradient of the inputs, which is a convolution of
            F channels to C columns with the window rotated by 180 degrees. Otherwise they are for
            a convolution of C channels to F columns.
    """
    BFLOAT16, GRADIENT = precision == "bfloat16", gradient
    TERMS = terms(BFLOAT16)
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
        # Invert the exclusive or of `line_word`, which is its own inverse. The index in `packed`
        # can be used as the line, because the first line of a step is a multiple of 8.
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
