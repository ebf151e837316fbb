"""Tests of every instruction of ptx.py, as PTX that the assembler accepts."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from llvmlite import ir
from numba.core.errors import TypingError

from cnnforge_kernels.cuda.codegen import ptx
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED, cuda, kernel
from cnnforge_kernels.cuda.runtime.compiler import compile_kernel

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda: pip install 'cnnforge[cuda13]'"),
    pytest.mark.skipif(SIMULATED, reason="the compiler is off while the simulator is on"),
]
U = np.uint32


def compiled(function, *arguments):
    made = kernel(function.__name__, *arguments, threads=32, since=(8, 0))(function)
    for capability in ((8, 0), (9, 0), (12, 0)):
        compile_kernel(made, capability)
    text, _ = cuda.compile_ptx(function, made.signature, cc=(8, 0))
    return re.sub(r"[ \t]+", " ", text)


def test_products_and_conversions():
    def f(x, y):
        t = U(cuda.threadIdx.x)
        a = ptx.round_tf32(U(t))
        b = ptx.pack_bfloat16(U(t), U(t + U(1)))
        z = ptx.relu(ptx.as_float(a))
        s = ptx.mma_tf32(a, a, a, a, a, a, z, z, z, z)
        r = ptx.mma_bfloat16(b, b, b, b, b, b, s[0], s[1], s[2], s[3])
        y[t] = r[0] + r[1] + r[2] + r[3] + x[t]

    text = compiled(f, "float32*", "float32*")
    for instruction in (
        "cvt.rna.tf32.f32 %r",
        "cvt.rn.bf16x2.f32 %r",
        "max.NaN.f32 %f",
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f",
    ):
        assert text.count(instruction) == 1


def test_bfloat16_pairs_have_the_first_argument_in_the_lower_half():
    def f(y):
        t = U(cuda.threadIdx.x)
        y[0] = ptx.pack_bfloat16(U(t), U(U(0x40000000) + t))

    # PTX names the upper half first.
    text = compiled(f, "uint32*")
    upper, lower = re.search(r"cvt\.rn\.bf16x2\.f32 %r\d+, (%r\d+), (%r\d+)", text).groups()
    assert re.search(rf"\w+\.\w32 {upper}, %r\d+, 1073741824", text)
    assert re.search(rf"mov\.u32 {lower}, %tid\.x", text)


def test_copies_and_matrices():
    def f(x, y):
        shared = cuda.shared.array(256, U, alignment=16)
        t = U(cuda.threadIdx.x)
        ptx.copy_async_16(shared, U(t * U(4)), x, U(t * U(4)), U(16))
        ptx.copy_async_4(shared, U(t + U(128)), x, t, U(0))
        ptx.copy_async_commit()
        ptx.copy_async_wait(2)
        cuda.syncthreads()
        m = ptx.load_matrices(shared, U(t * U(4)))
        y[t] = m[0] + m[1] + m[2] + m[3]

    text = compiled(f, "float32*", "uint32*")
    order = (
        r"cp\.async\.cg\.shared\.global \[%r\d+\], \[%rd\d+\], 16, %r\d+;",
        r"cp\.async\.ca\.shared\.global \[%r\d+\], \[%rd\d+\], 4, %r\d+;",
        r"cp\.async\.commit_group;",
        r"cp\.async\.wait_group 2;",
        r"bar\.sync 0;",
        r"ldmatrix\.sync\.aligned\.m8n8\.x4\.shared\.b16 {%r.*}, \[%r\d+\];",
    )
    assert re.search(r"[\s\S]*".join(order), text)


def test_the_number_of_pending_groups_is_a_constant():
    def f(n):
        ptx.copy_async_wait(n)

    with pytest.raises(TypingError, match="copy_async_wait"):
        cuda.compile_ptx(f, cuda.types.void(cuda.types.uint32), cc=(8, 0))


def test_conditional_access():
    def f(x, y):
        t = U(cuda.threadIdx.x)
        value = ptx.load_if(x, t, U(t < 20))
        ptx.store_if(y, t, value, U(t > 3))
        ptx.store2_if(y, U(U(64) + U(2) * t), value, value, U(t > 5))

    text = compiled(f, "float32*", "float32*")
    assert re.search(r"@p ld\.global\.f32 %f\d+, \[%rd\d+\]", text)
    assert re.search(r"@p st\.global\.f32 \[%rd\d+\], %f\d+", text)
    assert re.search(r"@p st\.global\.v2\.f32 \[%rd\d+\], {%f\d+, ?%f\d+}", text)


def test_an_index_above_31_bits_is_not_negative():
    def f(x, y):
        y[0] = ptx.load_if(x, U(U(cuda.threadIdx.x) + U(0xFFFFFF00)), U(1))

    text = compiled(f, "float32*", "float32*")
    assert "mul.wide.u32" in text
    assert "mul.wide.s32" not in text


def test_words_of_shared_memory():
    def f(x, y):
        shared = cuda.shared.array(0, U, alignment=128)
        t = U(cuda.threadIdx.x)
        v = ptx.load4_if(x, U(t * U(4)), U(t < 20))
        ptx.store4_shared(shared, U(t * U(4)), v[0], v[1], v[2], v[3])
        ptx.store2_shared(shared, U(U(t * U(2)) + U(512)), v[1], v[0])
        cuda.syncthreads()
        w = ptx.load2_shared(shared, U(t * U(2)))
        m = ptx.load_matrices_turned(shared, U(t * U(4)))
        bits = ptx.where_positive(w[0], ptx.as_bits(ptx.as_float(w[1])))
        y[t] = m[0] + m[1] + m[2] + m[3] + ptx.opaque(bits) + ptx.load_shared(shared, U(t + U(7)))

    text = compiled(f, "float32*", "uint32*")
    order = (
        r"@p ld\.global\.nc\.v4\.b32 {%r.*}, \[%rd\d+\];",
        r"st\.shared\.v4\.b32 \[%r\d+\], {%r.*};",
        r"st\.shared\.v2\.b32 \[%r\d+\], {%r.*};",
        r"bar\.sync 0;",
        r"ld\.shared\.v2\.b32 {%r\d+, ?%r\d+}, \[%r\d+\];",
        r"ldmatrix\.sync\.aligned\.m8n8\.x4\.trans\.shared\.b16 {%r.*}, \[%r\d+\];",
        r"ld\.shared\.b32 %r\d+, \[%r\d+\];",
    )
    assert re.search(r"[\s\S]*".join(order), text)
    assert "setp.gt.f32 p, m" in text


def test_constants_of_an_index_go_into_the_instruction():
    def f(y):
        shared = cuda.shared.array(0, U, alignment=128)
        t = U(cuda.threadIdx.x)
        y[t] = ptx.load_shared(shared, t) + ptx.load_shared(shared, U(t + U(8)))

    # The second load has the address of the first plus 32 bytes, modulo 2**32.
    text = compiled(f, "uint32*")
    first, second = re.findall(r"ld\.shared\.b32 %r\d+, \[(%r\d+)\];", text)
    assert re.search(rf"add\.s32 {second}, {first}, 32;", text)


WARP_WIDE = "mma_tf32", "mma_bfloat16", "load_matrices", "load_matrices_turned"


@pytest.mark.parametrize("name", WARP_WIDE)
def test_warp_wide_instructions_are_convergent(name):
    """Run the code generator alone and look at its LLVM text, which numba-cuda hides."""
    types, llvm_types = cuda.types, {"float32": ir.FloatType(), "uint32": ir.IntType(32)}
    if name.startswith("load_matrices"):
        pointer = types.CPointer(types.uint32)
        arguments = (pointer, types.uint32)
        inputs = [ir.IntType(32).as_pointer(), ir.IntType(64)]
    else:
        arguments = (types.uint32,) * 6 + (types.float32,) * 4
        inputs = [llvm_types[str(a)] for a in arguments]
    signature, codegen = getattr(ptx, name)._defn(None, *arguments)
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), inputs), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    context = SimpleNamespace(
        cast=lambda builder, value, source, target: value,
        make_tuple=lambda builder, tuple_type, values: values,
    )
    codegen(context, builder, signature, function.args)
    assert re.search(r'call \{.*asm .*".*convergent', str(function))


def test_only_ptx_py_has_assembly():
    def having(text):
        folder = Path(ptx.__file__).parents[1]
        return [path.name for path in folder.rglob("*.py") if text in path.read_text()]

    assert having("InlineAsm") == ["assembly.py"]
    assert having("codegen.assembly import") == ["ptx.py"]
