"""All inline PTX (NVIDIA's assembly language) of the project, one function per instruction.

Operands and results in registers are values. An operand in memory is passed as two arguments: the
array or pointer, and the index of an element. NVIDIA's manual "PTX ISA" defines each instruction
and which elements of a matrix each thread of the warp holds (sections "Warp-level matrix
instructions" and "Data movement and conversion instructions"). ``tensor_cores/layout.py`` lists
these layouts. A *lane* is a thread of a warp, from 0 to 31.

An instruction that all threads of a warp execute at the same time is marked convergent, so that the
compiler does not move it into or out of a branch. LLVM does not know which memory an instruction
accesses. So each instruction that accesses memory has a memory clobber, which prevents LLVM from
moving it across a barrier. ``load4_if`` has no clobber, because the memory that it reads is never
written while the kernel runs.

None of these functions runs in Numba's simulator. Most need compute capability 8.0.
"""

from __future__ import annotations

from typing import Any

from cnnforge_kernels.cuda.codegen.assembly import GLOBAL, SHARED, Place, assembly
from cnnforge_kernels.cuda.codegen.jit import cuda, intrinsic, no_twin

_MMA = "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
_MMA_CONSTRAINTS = "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f"


def _mma(shape_and_types: str) -> tuple:
    return assembly(
        f"mma.sync.aligned.{shape_and_types} {_MMA}",
        _MMA_CONSTRAINTS,
        ("float32",) * 4,
        *("uint32",) * 6,
        *("float32",) * 4,
        convergent=True,
    )


@intrinsic(no_twin)
def mma_tf32(
    typingctx: Any,
    a0: Any,
    a1: Any,
    a2: Any,
    a3: Any,
    b0: Any,
    b1: Any,
    c0: Any,
    c1: Any,
    c2: Any,
    c3: Any,
) -> Any:
    """Multiply a (16, 8) matrix A by an (8, 8) matrix B, both tf32, and return A @ B + C.

    C and the result are (16, 8) matrices of float32. The warp holds all matrices: each lane has
    four elements of A, two of B and four of C, and receives four elements of the result.
    """
    return _mma("m16n8k8.row.col.f32.tf32.tf32.f32")


@intrinsic(no_twin)
def mma_bfloat16(
    typingctx: Any,
    a0: Any,
    a1: Any,
    a2: Any,
    a3: Any,
    b0: Any,
    b1: Any,
    c0: Any,
    c1: Any,
    c2: Any,
    c3: Any,
) -> Any:
    """Multiply a (16, 16) matrix A by a (16, 8) matrix B, both bf16, and return A @ B + C.

    C and the result are as for ``mma_tf32``. Each 32-bit word of A or B holds two bf16.
    """
    return _mma("m16n8k16.row.col.f32.bf16.bf16.f32")


@intrinsic(no_twin)
def load_matrices(typingctx: Any, shared: Any, index: Any) -> Any:
    """Load four matrices of 8x8 16-bit or 8x4 32-bit elements from shared memory.

    Lane l passes the address of row ``l % 8`` of matrix ``l // 8``. A row has 16 bytes and must be
    16-byte aligned. From each matrix, lane l receives the 32-bit word ``l % 4`` of row ``l // 4``.
    """
    return assembly(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];",
        "=r,=r,=r,=r,r,~{memory}",
        ("uint32",) * 4,
        Place(shared, SHARED),
        convergent=True,
        effects=True,
    )


@intrinsic(no_twin)
def load_matrices_turned(typingctx: Any, shared: Any, index: Any) -> Any:
    """Load four 8x8 matrices of 16-bit elements as ``load_matrices`` does, but transposed.

    From each matrix, lane l receives two elements of column ``l // 4``: those in rows
    ``2 * (l % 4)`` and ``2 * (l % 4) + 1``.
    """
    return assembly(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];",
        "=r,=r,=r,=r,r,~{memory}",
        ("uint32",) * 4,
        Place(shared, SHARED),
        convergent=True,
        effects=True,
    )


@intrinsic(no_twin)
def copy_async_16(
    typingctx: Any, shared: Any, index: Any, memory: Any, offset: Any, read: Any
) -> Any:
    """Start an asynchronous copy of 16 bytes from global to shared memory, without the L1 cache.

    The first ``read`` bytes are copied, and the rest of the 16 bytes is filled with zeros. Both
    addresses must be 16-byte aligned. The address in global memory must be valid even if ``read``
    is 0.
    """
    return assembly(
        "cp.async.cg.shared.global [$0], [$1], 16, $2;",
        "r,l,r,~{memory}",
        (),
        Place(shared, SHARED),
        Place(memory, GLOBAL),
        "uint32",
        effects=True,
    )


@intrinsic(no_twin)
def copy_async_4(
    typingctx: Any, shared: Any, index: Any, memory: Any, offset: Any, read: Any
) -> Any:
    """Start an asynchronous copy of 4 bytes as ``copy_async_16`` does, but through the L1 cache."""
    return assembly(
        "cp.async.ca.shared.global [$0], [$1], 4, $2;",
        "r,l,r,~{memory}",
        (),
        Place(shared, SHARED),
        Place(memory, GLOBAL),
        "uint32",
        effects=True,
    )


@intrinsic(no_twin)
def copy_async_commit(typingctx: Any) -> Any:
    """Put the copies that this thread started since the last call into a new group.

    The group may be empty. ``copy_async_wait`` counts groups.
    """
    return assembly("cp.async.commit_group;", "~{memory}", (), effects=True)


@intrinsic(no_twin)
def copy_async_wait(typingctx: Any, pending: Any) -> Any:
    """Wait until all groups of copies of this thread are finished, except the ``pending`` newest.

    ``pending`` must be a constant. The copies of other threads may not be finished, so call
    ``syncthreads`` before data of other threads is read.
    """
    if not isinstance(pending, cuda.types.IntegerLiteral):
        return None
    signature, codegen = assembly(
        f"cp.async.wait_group {pending.literal_value};", "~{memory}", (), effects=True
    )
    return signature.return_type(pending), lambda context, builder, sig, args: codegen(
        context, builder, signature, ()
    )


@intrinsic(no_twin)
def round_tf32(typingctx: Any, bits: Any) -> Any:
    """Round a float32, given by its bits, to tf32 (10 bits of mantissa). Ties go away from 0."""
    return assembly("cvt.rna.tf32.f32 $0, $1;", "=r,r", ("uint32",), "uint32")


@intrinsic(no_twin)
def pack_bfloat16(typingctx: Any, low: Any, high: Any) -> Any:
    """Round two float32, given by their bits, to nearest even bf16. Return both in one word.

    ``low`` is in the lower 16 bits of the word.
    """
    return assembly("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", ("uint32",), "uint32", "uint32")


@intrinsic(no_twin)
def as_float(typingctx: Any, bits: Any) -> Any:
    """Return the float32 with these bits."""
    return assembly("mov.b32 $0, $1;", "=f,r", ("float32",), "uint32")


@intrinsic(no_twin)
def opaque(typingctx: Any, bits: Any) -> Any:
    """Return ``bits``, and hide from the compiler how they were computed.

    The compiler then keeps the value in a register and cannot compute it again in a loop.
    """
    return assembly("mov.b32 $0, $1;", "=r,r", ("uint32",), "uint32", effects=True)


@intrinsic(no_twin)
def as_bits(typingctx: Any, value: Any) -> Any:
    """Return the bits of a float32."""
    return assembly("mov.b32 $0, $1;", "=r,f", ("uint32",), "float32")


@intrinsic(no_twin)
def where_positive(typingctx: Any, mask: Any, value: Any) -> Any:
    """Return ``value`` if ``mask`` is positive, otherwise 0.

    Both arguments and the result are the bits of a float32.
    """
    return assembly(
        "{ .reg .pred p; .reg .f32 m; mov.b32 m, $1; setp.gt.f32 p, m, 0f00000000; "
        "selp.b32 $0, $2, 0, p; }",
        "=r,r,r",
        ("uint32",),
        "uint32",
        "uint32",
    )


@intrinsic(no_twin)
def relu(typingctx: Any, value: Any) -> Any:
    """Return the larger of ``value`` and 0, or NaN if ``value`` is NaN."""
    return assembly("max.NaN.f32 $0, $1, 0f00000000;", "=f,f", ("float32",), "float32")


@intrinsic(no_twin)
def load_if(typingctx: Any, memory: Any, index: Any, condition: Any) -> Any:
    """Read the float32 at ``index`` of global memory, or return 0 if ``condition`` is 0."""
    return assembly(
        "{ .reg .pred p; setp.ne.u32 p, $2, 0; mov.f32 $0, 0f00000000; "
        "@p ld.global.f32 $0, [$1]; }",
        "=f,l,r,~{memory}",
        ("float32",),
        Place(memory, GLOBAL),
        "uint32",
        effects=True,
    )


@intrinsic(no_twin)
def load4_if(typingctx: Any, memory: Any, index: Any, condition: Any) -> Any:
    """Read four float32 at ``index`` of global memory, or return zeros if ``condition`` is 0.

    The results are the bits of the four floats. The address must be 16-byte aligned. No thread may
    write to this memory while the kernel runs.
    """
    return assembly(
        "{ .reg .pred p; setp.ne.u32 p, $5, 0; mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; "
        "mov.b32 $3, 0; @p ld.global.nc.v4.b32 {$0,$1,$2,$3}, [$4]; }",
        "=&r,=&r,=&r,=&r,l,r",
        ("uint32",) * 4,
        Place(memory, GLOBAL),
        "uint32",
        effects=True,
    )


@intrinsic(no_twin)
def load_shared(typingctx: Any, shared: Any, index: Any) -> Any:
    """Read a 32-bit word of shared memory."""
    return assembly(
        "ld.shared.b32 $0, [$1];",
        "=r,r,~{memory}",
        ("uint32",),
        Place(shared, SHARED),
        effects=True,
    )


@intrinsic(no_twin)
def load2_shared(typingctx: Any, shared: Any, index: Any) -> Any:
    """Read two 32-bit words of shared memory. The address must be 8-byte aligned."""
    return assembly(
        "ld.shared.v2.b32 {$0,$1}, [$2];",
        "=r,=r,r,~{memory}",
        ("uint32",) * 2,
        Place(shared, SHARED),
        effects=True,
    )


@intrinsic(no_twin)
def store2_shared(typingctx: Any, shared: Any, index: Any, a: Any, b: Any) -> Any:
    """Write two 32-bit words to shared memory. The address must be 8-byte aligned."""
    return assembly(
        "st.shared.v2.b32 [$0], {$1,$2};",
        "r,r,r,~{memory}",
        (),
        Place(shared, SHARED),
        *("uint32",) * 2,
        effects=True,
    )


@intrinsic(no_twin)
def store4_shared(typingctx: Any, shared: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write four 32-bit words to shared memory. The address must be 16-byte aligned."""
    return assembly(
        "st.shared.v4.b32 [$0], {$1,$2,$3,$4};",
        "r,r,r,r,r,~{memory}",
        (),
        Place(shared, SHARED),
        *("uint32",) * 4,
        effects=True,
    )


@intrinsic(no_twin)
def store_if(typingctx: Any, memory: Any, index: Any, value: Any, condition: Any) -> Any:
    """Write a float32 to global memory if ``condition`` is not 0."""
    return assembly(
        "{ .reg .pred p; setp.ne.u32 p, $2, 0; @p st.global.f32 [$0], $1; }",
        "l,f,r,~{memory}",
        (),
        Place(memory, GLOBAL),
        "float32",
        "uint32",
        effects=True,
    )


@intrinsic(no_twin)
def store2_if(typingctx: Any, memory: Any, index: Any, a: Any, b: Any, condition: Any) -> Any:
    """Write two float32 to global memory if ``condition`` is not 0.

    The address must be 8-byte aligned.
    """
    return assembly(
        "{ .reg .pred p; setp.ne.u32 p, $3, 0; @p st.global.v2.f32 [$0], {$1,$2}; }",
        "l,f,f,r,~{memory}",
        (),
        Place(memory, GLOBAL),
        "float32",
        "float32",
        "uint32",
        effects=True,
    )
