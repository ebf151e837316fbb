"""The code generator of inline assembly: what turns a line of PTX into an intrinsic of Numba's."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from cnnforge_kernels.cuda.codegen.jit import cuda
from cnnforge_kernels.cuda.codegen.memory import element_pointer

_LLVM = {
    "float32": ir.FloatType(),
    "uint32": ir.IntType(32),
}
SHARED, GLOBAL = 3, 1  # address spaces
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


class Place:
    """An operand that is an address: two arguments, memory and index."""

    def __init__(self, kind: Any, space: int) -> None:
        self.kind, self.space = kind, space

    def address(self, context: Any, builder: Any, value: Any, index: Any) -> Any:
        """The address of an element, as the number that an instruction takes."""
        if self.space == GLOBAL:
            generic = element_pointer(context, builder, self.kind, value, index)
            return self._number(builder, generic, 64)
        # Shared memory is addressed with 32 bits, modulo 2**32 as indices are: so that the
        # compiler may take what is constant in an index into the instruction.
        first = element_pointer(context, builder, self.kind, value, ir.Constant(_INT64, 0))
        words = builder.trunc(index, _INT32)
        size = ir.Constant(_INT32, self.kind.dtype.bitwidth // 8)
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
    """The signature and code generator of one piece of assembly.

    Args:
        template: PTX with ``$0``, ``$1``, ... for results, then operands.
        constraints: of the results and operands, as LLVM writes them.
        results: their types; none, one, or a tuple of equal ones.
        operands: types and places.
        convergent: executed by a warp together.
        effects: does more than compute its results.
    """
    types = cuda.types
    arguments: list[Any] = []
    for operand in operands:
        if isinstance(operand, Place):
            arguments += [operand.kind, types.uint32]
        else:
            arguments.append(getattr(types, operand))
    kinds = [getattr(types, name) for name in results]
    several = types.UniTuple(kinds[0], len(kinds)) if len(kinds) > 1 else None
    signature = (several or (kinds[0] if kinds else types.void))(*arguments)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values, left = [], list(zip(args, sig.args, strict=True))
        for operand in operands:
            value, kind = left.pop(0)
            if isinstance(operand, Place):
                index, index_kind = left.pop(0)
                # Unsigned: an index beyond 2**31 must not become a negative one.
                index = context.cast(builder, index, index_kind, types.uint64)
                values.append(operand.address(context, builder, value, index))
            else:
                values.append(context.cast(builder, value, kind, getattr(types, operand)))
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
