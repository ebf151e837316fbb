"""Make a Numba intrinsic from a line of inline PTX, NVIDIA's assembly language."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from cnnforge_kernels.cuda.codegen.jit import cuda
from cnnforge_kernels.cuda.codegen.memory import element_pointer

_LLVM = {
    "float32": ir.FloatType(),
    "uint32": ir.IntType(32),
}
SHARED, GLOBAL = 3, 1  # address spaces of LLVM
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


class Place:
    """An operand that is an address. The kernel passes two arguments for it: memory and index."""

    def __init__(self, numba_type: Any, space: int) -> None:
        self.numba_type, self.space = numba_type, space

    def address(self, context: Any, builder: Any, value: Any, index: Any) -> Any:
        """Emit code that computes the address of an element as an integer."""
        if self.space == GLOBAL:
            generic = element_pointer(context, builder, self.numba_type, value, index)
            return self._number(builder, generic, 64)
        # An address in shared memory has 32 bits. Compute it in 32 bits: the address and the index
        # then both wrap at 2**32, so the compiler can move the constant part of an index into the
        # instruction.
        first = element_pointer(context, builder, self.numba_type, value, ir.Constant(_INT64, 0))
        words = builder.trunc(index, _INT32)
        size = ir.Constant(_INT32, self.numba_type.dtype.bitwidth // 8)
        return builder.add(self._number(builder, first, 32), builder.mul(words, size))

    def _number(self, builder: Any, generic: Any, width: int) -> Any:
        space = ir.PointerType(generic.type.pointee, self.space)
        return builder.ptrtoint(builder.addrspacecast(generic, space), ir.IntType(width))


def assembly(
    template: str,
    constraints: str,
    results: tuple[str, ...],
    *operands: str | Place,
    convergent: bool = False,
    effects: bool = False,
) -> tuple:
    """Return the Numba signature and the code generator of an intrinsic that is inline PTX.

    Args:
        template: PTX, in which ``$0``, ``$1``, ... stand for the results and then the operands.
        constraints: LLVM constraints of the results and operands.
        results: Type of each result. Several results must have the same type.
        *operands: Type of each operand that is a number, and a ``Place`` for each address.
        convergent: Whether all threads of a warp must execute the instruction at the same time.
        effects: Whether the instruction does more than compute its results, such as write to
            memory. If so, the compiler must not remove it.
    """
    types = cuda.types
    arguments: list[Any] = []
    for operand in operands:
        if isinstance(operand, Place):
            arguments += [operand.numba_type, types.uint32]
        else:
            arguments.append(getattr(types, operand))
    returned = [getattr(types, name) for name in results]
    several = types.UniTuple(returned[0], len(returned)) if len(returned) > 1 else None
    signature = (several or (returned[0] if returned else types.void))(*arguments)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values, left = [], list(zip(args, sig.args, strict=True))
        for operand in operands:
            value, numba_type = left.pop(0)
            if isinstance(operand, Place):
                index, index_type = left.pop(0)
                # Cast without a sign, because an index of 2**31 or more must not become negative.
                index = context.cast(builder, index, index_type, types.uint64)
                values.append(operand.address(context, builder, value, index))
            else:
                values.append(context.cast(builder, value, numba_type, getattr(types, operand)))
        if several:
            result = ir.LiteralStructType([_LLVM[name] for name in results])
        else:
            result = _LLVM[results[0]] if results else ir.VoidType()
        function = ir.InlineAsm(
            ir.FunctionType(result, [value.type for value in values]),
            template,
            constraints,
            side_effect=effects,
        )
        out = builder.call(function, values, attrs=("convergent",) if convergent else ())
        if not results:
            return context.get_dummy_value()
        if not several:
            return out
        parts = [builder.extract_value(out, k) for k in range(len(results))]
        return context.make_tuple(builder, sig.return_type, parts)

    return signature, codegen
