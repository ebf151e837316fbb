"""All inline PTX of the project, one function per instruction.

Register operands and results are values. A place in memory is a pair of arguments: the array or
pointer, and the index of an element. NVIDIA's "PTX ISA" defines each instruction and its fragment
layouts (sections "Warp-level matrix instructions" and "Data movement and conversion instructions").
``tensor_cores/layout.py`` lists the layouts.

Instructions that a whole warp executes together are marked convergent, because the compiler must
not move them into or out of a branch. Instructions that access memory have a memory clobber. LLVM
does not know which memory they access, so it must not move them across a barrier. ``load4_if`` has
no clobber, because the memory that it reads is never written while the kernel runs.

None of these runs in Numba's simulator. Most need compute capability 8.0.
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
    """Multiply tf32 matrices, (16, 8) by (8, 8), and add the product to the sums of the warp.

    The sums are a (16, 8) matrix of float32, four per lane.
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
    """Multiply bf16 matrices, (16, 16) by (16, 8), and add the product as ``mma_tf32`` does.

    Each word of an operand holds two bf16.
    """
    return _mma("m16n8k16.row.col.f32.bf16.bf16.f32")


@intrinsic(no_twin)
def load_matrices(typingctx: Any, shared: Any, index: Any) -> Any:
    """Load four 8x8 matrices of 16 bits, or 8x4 of 32 bits, from shared memory (``ldmatrix.x4``).

    Lane l passes the place of row ``l % 8`` of matrix ``l // 8``: 16 bytes, 16-byte aligned. From
    each matrix it receives the 32 bits in row ``l // 4`` at position ``l % 4``.
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
    """Load four 8x8 matrices of 16 bits as ``load_matrices`` does, but transposed (``.trans``).

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
    """Start a copy of 16 bytes from global to shared memory, without the L1 cache.

    It copies ``read`` bytes and fills the rest with zeros. Both places must be 16-byte aligned. The
    address must be valid even if ``read`` is 0 and nothing is read.
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
    """Start a copy of 4 bytes as ``copy_async_16`` does, but through L1."""
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
    """Make a group of the copies that this thread started since the last call. It may be empty."""
    return assembly("cp.async.commit_group;", "~{memory}", (), effects=True)


@intrinsic(no_twin)
def copy_async_wait(typingctx: Any, pending: Any) -> Any:
    """Wait until all groups of this thread are finished, except the ``pending`` newest ones.

    ``pending`` is a constant. The copies of other threads may not be finished, so a barrier must
    follow.
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
    """Round the bits of a float32 to tf32 (10 bits of mantissa), to nearest, ties away from 0."""
    return assembly("cvt.rna.tf32.f32 $0, $1;", "=r,r", ("uint32",), "uint32")


@intrinsic(no_twin)
def pack_bfloat16(typingctx: Any, low: Any, high: Any) -> Any:
    """Round the bits of two float32 to bf16, to nearest even. ``low`` goes to the lower 16 bits."""
    return assembly("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", ("uint32",), "uint32", "uint32")


@intrinsic(no_twin)
def as_float(typingctx: Any, bits: Any) -> Any:
    """Return the float32 with these bits."""
    return assembly("mov.b32 $0, $1;", "=f,r", ("float32",), "uint32")


@intrinsic(no_twin)
def opaque(typingctx: Any, bits: Any) -> Any:
    """Return ``bits``. The compiler cannot see their source, so no loop recomputes them."""
    return assembly("mov.b32 $0, $1;", "=r,r", ("uint32",), "uint32", effects=True)


@intrinsic(no_twin)
def as_bits(typingctx: Any, value: Any) -> Any:
    """Return the bits of a float32."""
    return assembly("mov.b32 $0, $1;", "=r,f", ("uint32",), "float32")


@intrinsic(no_twin)
def where_positive(typingctx: Any, mask: Any, value: Any) -> Any:
    """Return ``value`` if ``mask`` is positive, otherwise 0. All are the bits of a float32."""
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
    """Read the bits of four float32 at ``index``, or return four zeros if ``condition`` is 0.

    The memory is global. It must be 16-byte aligned and must not be written while the kernel
    runs.
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
    """Read a word of shared memory."""
    return assembly(
        "ld.shared.b32 $0, [$1];",
        "=r,r,~{memory}",
        ("uint32",),
        Place(shared, SHARED),
        effects=True,
    )


@intrinsic(no_twin)
def load2_shared(typingctx: Any, shared: Any, index: Any) -> Any:
    """Read two words of shared memory, 8-byte aligned."""
    return assembly(
        "ld.shared.v2.b32 {$0,$1}, [$2];",
        "=r,=r,r,~{memory}",
        ("uint32",) * 2,
        Place(shared, SHARED),
        effects=True,
    )


@intrinsic(no_twin)
def store2_shared(typingctx: Any, shared: Any, index: Any, a: Any, b: Any) -> Any:
    """Write two words to shared memory, 8-byte aligned."""
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
    """Write four words to shared memory, 16-byte aligned."""
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
    """Write two float32 to global memory, 8-byte aligned, if ``condition`` is not 0."""
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
