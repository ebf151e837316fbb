"""Random 32-bit words in SIMD registers, by Philox4x32-10; TensorFlow draws the same words.

J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011,
section 3.3. A block of four words is a function of a key (two words) and a counter (four words).
The counter of the next block is larger by 1.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import I32, I64, Vector, literals, splat

_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MANTISSA = (1 << 23) - 1


@intrinsic(prefer_literal=True)
def philox_words(typingctx: Any, key: Any, low: Any, high: Any, lanes: Any) -> Any:
    """Return the words of ``lanes / 2`` blocks, in order, as two int32 vectors of ``lanes`` lanes.

    ``key`` contains the two words of the key; its low half is the first. ``low`` and ``high`` are
    the two halves of the first block's counter, which is a number of 128 bits.

    Each word is in the low half of an int64 lane; the high half is ignored. The instruction
    ``vpmuludq`` multiplies such low halves, so that a round takes six instructions for all blocks.
    """
    shape = literals(lanes)
    if shape is None:
        return None
    blocks = shape[0] // 2
    pair = types.UniTuple(Vector("i32", shape[0]), 2)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(I64, blocks)

        def constant(value: int) -> Any:
            return ir.Constant(wide, [value] * blocks)

        half, word = constant(32), constant(0xFFFFFFFF)
        first = splat(builder, args[1], wide)
        numbers = builder.add(first, ir.Constant(wide, list(range(blocks))))
        carry = builder.zext(builder.icmp_unsigned("<", numbers, first), wide)
        above = builder.add(splat(builder, args[2], wide), carry)
        words = [numbers, builder.lshr(numbers, half), above, builder.lshr(above, half)]
        keys = [builder.trunc(args[0], I32), builder.trunc(builder.lshr(args[0], I64(32)), I32)]
        for _ in range(_ROUNDS):
            products = [
                builder.mul(builder.and_(words[2 * n], word), constant(_FACTORS[n])) for n in (0, 1)
            ]
            mixed = []
            for n in (0, 1):
                key_word = splat(builder, builder.zext(keys[n], I64), wide)
                upper = builder.lshr(products[1 - n], half)
                mixed.append(builder.xor(builder.xor(upper, words[2 * n + 1]), key_word))
                keys[n] = builder.add(keys[n], I32(_KEY_STEPS[n]))
            words = [mixed[0], products[1], mixed[1], products[0]]
        # Take the low halves, so that words 0 and 1 of a block are neighbours, and words 2 and 3.
        # This is done by shuffles, because LLVM would merge shifts with the multiplications of the
        # last round into slow 64-bit multiplications.
        kind = ir.VectorType(I32, shape[0])
        halves = [builder.bitcast(word, kind) for word in words]
        sides = ir.Constant(
            kind, [2 * lane + shape[0] * n for lane in range(blocks) for n in (0, 1)]
        )
        couples = [
            builder.bitcast(builder.shuffle_vector(halves[n], halves[n + 1], sides), wide)
            for n in (0, 2)
        ]
        results = []
        for begin in (0, blocks // 2):
            order = [
                lane + blocks * n for lane in range(begin, begin + blocks // 2) for n in (0, 1)
            ]
            mask = ir.Constant(ir.VectorType(I32, blocks), order)
            both = builder.shuffle_vector(*couples, mask)
            results.append(builder.bitcast(both, kind))
        return context.make_tuple(builder, pair, results)

    return pair(types.int64, types.int64, types.int64, lanes), codegen


@intrinsic
def index_uniform_at_least(typingctx: Any, words: Any, threshold: Any) -> Any:
    """Return 1 in each lane whose uniform number is ``threshold / 2**23`` or more, else 0.

    The uniform number of a word, in [0, 1), is its low 23 bits divided by 2**23.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        numbers = builder.and_(args[0], ir.Constant(kind, [_MANTISSA] * kind.count))
        bound = splat(builder, builder.trunc(args[1], I32), kind)
        return builder.zext(builder.icmp_signed(">=", numbers, bound), kind)

    return words(words, types.int64), codegen
