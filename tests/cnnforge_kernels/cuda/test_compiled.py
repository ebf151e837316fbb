"""Tests of the machine code of the kernels, compiled without a device."""

import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED, cuda, kernel
from cnnforge_kernels.cuda.runtime import compiler
from cnnforge_kernels.cuda.runtime.compiler import cached_kernel, compile_kernel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda: pip install 'cnnforge[cuda13]'"),
    pytest.mark.skipif(SIMULATED, reason="the compiler is off while the simulator is on"),
]
if AVAILABLE and not SIMULATED:
    import cuda_resources as resources

    # The tensor-core kernels have a separate file.
    KERNELS = {
        name: found for name, found in resources.catalogue().items() if found.since == (7, 5)
    }
    ARCHITECTURES = resources.ARCHITECTURES
else:
    KERNELS, ARCHITECTURES = {}, ()

TABLE = Path(__file__).parents[3] / "benchmarks" / "results" / "cuda_kernels.md"
# Maximum number of registers by the first word of a name. With 128, two blocks of 256 threads or
# four of 128 fit on a multiprocessor with 65536 registers.
MAX_REGISTERS = {
    "conv2d_direct": 128,
    "conv2d_gemm": 128,
    "conv2d_grad_inputs": 128,
    "conv2d_grad_weights": 128,
    "conv_block": 128,
    "conv_block_grad_inputs": 128,
    "conv_block_grad_weights": 128,
    "depthwise_conv2d": 96,
    "depthwise_grad_inputs": 64,
    "depthwise_grad_weights": 96,
    "max_pool2d": 48,
    "max_pool2d_grad": 64,
    "average_pool2d": 64,
    "average_pool2d_grad": 96,
    "global_average_pool2d": 48,
    "global_average_pool2d_grad": 48,
    "reduce_slices": 48,
    "dense_copy": 48,
    "conv2d_relu_mask": 32,
}
# Kernels, by the beginning of their name, and their instructions that move 128 bits at a time.
WIDE = {
    "conv2d_direct 5x5x1x8": ("LDS", "STG"),
    "conv2d_direct 3x3x8x16": ("LDG", "LDS", "STG"),
    "conv2d_gemm 3x3x64x64": ("LDG", "LDS", "STS", "STG"),
    "conv2d_gemm 3x3x128x128": ("LDG", "LDS", "STS", "STG"),
    "conv2d_direct 7x7x3x64": ("LDG", "LDS", "STS", "STG"),
    "conv2d_gemm 3x3x10x14": ("LDS",),
    "conv2d_grad_inputs 3x3x8x16 direct": ("LDG", "LDS", "STS", "STG"),
    "conv2d_grad_inputs 3x3x3x32 direct": ("LDG", "LDS", "STS"),
    "conv2d_grad_inputs 7x7x3x64 strides 2x2 direct": ("LDG", "LDS", "STS"),
    "conv2d_grad_inputs 3x3x64x64": ("LDG", "LDS", "STG"),
    "conv2d_grad_inputs 3x3x128x128": ("LDG", "LDS", "STG"),
    "conv2d_grad_weights 3x3x64x64": ("LDG", "LDS", "STS", "STG"),
    "conv2d_grad_weights 5x5x1x8 direct": ("LDG", "LDS", "STS"),
    "conv2d_grad_weights 3x3x8x16 direct": ("LDG", "LDS", "STS"),
    "conv2d_grad_weights 3x3x10x14 strides 2x1 tile": ("LDS",),
    "conv_block 5x5x1x8": ("LDS", "STG"),
    "conv_block 3x3x64x64": ("LDG", "LDS", "STG"),
    "conv_block_grad_weights 3x3x64x64": ("LDG",),
    "conv_block_grad_inputs 3x3x64x64": ("LDG", "LDS", "STG"),
    "conv_block_grad_inputs 3x3x8x16 pool 2x2 direct": ("LDG", "LDS", "STS", "STG"),
    "conv_block_grad_weights 3x3x8x16 pool 2x2 direct": ("LDG", "LDS", "STS"),
    "depthwise_conv2d 3x3x32x1": ("LDG", "STG"),
    "depthwise_grad_inputs 3x3x32x1": ("LDG", "STG"),
    "max_pool2d 2x2 strides 2x2 vector 4": ("LDG", "STG"),
    "max_pool2d_grad 2x2 strides 2x2 vector 4": ("LDG", "STG"),
    "average_pool2d 2x2 strides 2x2 vector 4": ("LDG", "STG"),
    "average_pool2d_grad 2x2 strides 2x2 vector 4": ("LDG", "STG"),
    "global_average_pool2d_grad vector 4": ("LDG", "STG"),
}
# Kernels, by the beginning of their name, and the minimum share of multiply-adds in their innermost
# loop. It falls if an array leaves the registers or a loop is not unrolled.
MIN_MULTIPLY_ADDS = {
    "conv2d_direct 5x5x1x8": 0.7,
    "conv2d_direct 3x3x3x32": 0.7,
    "conv_block 5x5x1x8 pool 2x2 windows 2": 0.7,
    "conv_block 7x7x1x8 pool 2x2 windows 2": 0.7,
    "conv2d_grad_inputs 5x5x1x8 direct": 0.8,
    "conv2d_grad_inputs 3x3x8x16 direct": 0.8,
    "conv_block_grad_inputs 3x3x8x16 pool 2x2 direct": 0.8,
    "conv2d_grad_weights 5x5x1x8 direct": 0.8,
    "conv2d_grad_weights 3x3x8x16 direct": 0.8,
    "conv_block_grad_weights 5x5x1x8 pool 2x2 direct": 0.8,
}


@pytest.fixture(scope="module", autouse=True)
def _disassembler():
    try:
        resources.disassembler()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@cache
def committed():
    """Read the lines of the committed table, by kernel and architecture."""
    cells = [line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    return {(row[1].strip().strip("`"), row[2].strip()): "|".join(row) for row in cells}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("capability", ARCHITECTURES, ids="sm_{0[0]}{0[1]}".format)
def test_every_kernel(name, capability):
    found = resources.measure(tuple(KERNELS.values()), capability)[name]
    assert found.spills == 0
    assert not found.float64
    assert found.registers <= MAX_REGISTERS[name.split()[0]]
    for beginning, instructions in WIDE.items():
        if name.startswith(beginning):
            for instruction in instructions:
                assert found.count(instruction, ".128"), instruction
    # Another compiler may give other instructions.
    if resources.toolchain() in TABLE.read_text():
        row = resources.row(KERNELS[name], capability, found)
        assert committed()[name, "sm_{}{}".format(*capability)] == row


def test_the_table_has_every_kernel_on_every_architecture():
    expected = {
        (name, "sm_{}{}".format(*capability))
        for name, found in resources.catalogue().items()
        for capability in ARCHITECTURES
        if found.since <= capability
    }
    assert set(committed()) == expected


def test_kernels_linked_together_equal_kernels_linked_alone():
    together = resources.measure(tuple(KERNELS.values()), (9, 0))
    for beginning in ("conv2d_gemm 3x3x64x64", "max_pool2d_grad 2x2"):
        name = next(name for name in KERNELS if name.startswith(beginning))
        alone = resources.measure((KERNELS[name],), (9, 0))[name]
        assert alone.registers == together[name].registers
        # Only the names are compared, because operands contain labels, whose numbers differ.
        names = [name for name, _ in alone.instructions]
        assert names == [name for name, _ in together[name].instructions]


def max_multiply_adds(found):
    """Return the max share of multiply-adds among the instructions of a loop."""
    bodies = (found.instructions[begin:end] for begin, end in found.loops)
    return max(sum(name == "FFMA" for name, _ in body) / len(body) for body in bodies)


@pytest.mark.parametrize("beginning", MIN_MULTIPLY_ADDS)
def test_the_innermost_loop_multiplies(beginning):
    for name in KERNELS:
        if name.startswith(beginning):
            found = resources.measure(tuple(KERNELS.values()), (9, 0))[name]
            assert max_multiply_adds(found) > MIN_MULTIPLY_ADDS[beginning], name


def test_all_limits_name_kernels_of_the_catalogue():
    for beginning in (*WIDE, *MIN_MULTIPLY_ADDS):
        assert any(name.startswith(beginning) for name in KERNELS), beginning


@kernel("add_one", "float32*", "int32", threads=32)
def add_one(results, count):
    thread = cuda.threadIdx.x
    if thread < count:
        results[thread] += np.float32(1)


def test_a_second_process_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "cache_directory", lambda: str(tmp_path))
    first = cached_kernel(add_one, (9, 0))
    assert first.log
    again = cached_kernel(add_one, (9, 0))
    assert not again.log
    assert (again.code, again.symbol) == (first.code, first.symbol)
    assert "add_one" in first.symbol
    # Another architecture has another file. A damaged file is compiled again.
    assert cached_kernel(add_one, (8, 0)).log
    files = sorted(tmp_path.rglob("*.cubin"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert cached_kernel(add_one, (9, 0)).log
    # After a change of the sources, everything is compiled again.
    assert not cached_kernel(add_one, (9, 0)).log
    monkeypatch.setattr(compiler, "sources", lambda: "others")
    assert cached_kernel(add_one, (9, 0)).log


def test_kernels_that_were_compiled_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "cache_directory", lambda: str(tmp_path / "there"))
    path = compiler.export_kernel(add_one, (9, 0), tmp_path / "cubins")
    monkeypatch.setattr(compiler, "cache_directory", lambda: str(tmp_path / "here"))
    monkeypatch.setattr(compiler, "toolchain", lambda: "other compilers, or none")
    monkeypatch.setenv("CNNFORGE_CUBINS", str(path.parent))
    found = cached_kernel(add_one, (9, 0))
    assert not found.log
    assert "add_one" in found.symbol
    # Another architecture and other sources are compiled here.
    assert cached_kernel(add_one, (8, 0)).log
    monkeypatch.setattr(compiler, "sources", lambda: "others")
    assert cached_kernel(add_one, (9, 0)).log
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        compiler.export_kernel(add_one, (9, 0), tmp_path / "a file")


def test_an_architecture_that_the_compiler_does_not_know():
    with pytest.raises(CudaUnavailableError, match=r"'add_one' could not be compiled for sm_10"):
        compile_kernel(add_one, (1, 0))


def test_without_numba_cuda(monkeypatch):
    monkeypatch.setattr(compiler, "AVAILABLE", False)
    with pytest.raises(CudaUnavailableError, match=r"numba-cuda.*cnnforge\[cuda13\]"):
        compile_kernel(add_one, (9, 0))


def test_the_modules_import_without_numba_cuda():
    code = """
        import importlib.util, sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "numba_cuda" else find(name, *a)
        import cnnforge_kernels
        from cnnforge_kernels.cuda import launch
        from cnnforge_kernels.cuda.runtime import driver
        from cnnforge_kernels.cuda.runtime import simulated_driver
        assert "numba.cuda" not in sys.modules
        try:
            driver.driver()
        except RuntimeError as error:
            assert "pip install" in str(error), error
        else:
            raise SystemExit("no error")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_importing_the_kernels_does_not_import_the_compiler():
    code = "import sys, cnnforge_kernels; sys.exit('numba.cuda' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_numpy_without_row_stack():
    code = """
    import numpy as np
    if hasattr(np, "row_stack"):
        del np.row_stack
    import sys
    from cnnforge_kernels.cuda.runtime.compiler import intermediate
    from cnnforge_kernels.cuda.runtime.contiguous import copy_kernel
    sys.exit(not intermediate(copy_kernel("float32")) or hasattr(np, "row_stack"))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
