"""The machine code of the tensor-core kernels, compiled with no device."""

import re
import subprocess
from collections import Counter
from functools import cache

import pytest

from cnnforge_kernels.cuda.compiler import compile_kernel
from cnnforge_kernels.cuda.jit import AVAILABLE, SIMULATED
from cnnforge_kernels.cuda.tensor_core_convolution import convolution
from cnnforge_kernels.cuda.tensor_core_grad_weights import grad_weights, relu_mask
from cnnforge_kernels.cuda.tensor_core_maps import NARROW, WIDE

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda: pip install 'cnnforge[cuda13]'"),
    pytest.mark.skipif(SIMULATED, reason="the compiler is off while the simulator is on"),
]

ARCHITECTURES = (8, 0), (9, 0), (12, 0)
OPS = "conv2d", "conv2d_grad_inputs", "conv2d_grad_weights"
SHAPES = {"tf32": "HMMA.1688.F32.TF32", "bfloat16": "HMMA.16816.F32.BF16"}
# Four blocks of 128 threads on a multiprocessor, of 65536 registers.
REGISTERS = 128
# Bytes, of three stages: (128 + columns) * 16 words each; what is stored term by term has rows
# that are 8 words longer.
SHARED = {
    "conv2d": {WIDE: 3 * 4 * (128 * 16 + 16 * 72), NARROW: 3 * 4 * (128 * 16 + 16 * 40)},
    "conv2d_grad_inputs": {WIDE: 3 * 4 * 192 * 16, NARROW: 3 * 4 * 160 * 16},
    "conv2d_grad_weights": {WIDE: 3 * 4 * 16 * (136 + 72), NARROW: 3 * 4 * 16 * (136 + 40)},
}
# But for those that are never executed, which the assembler puts before copies.
INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]+\*/\s+(?!@!PT )(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)(.*)", re.M
)


@cache
def disassembler() -> str:
    from cuda.pathfinder import find_nvidia_binary_utility

    path = find_nvidia_binary_utility("nvdisasm")
    if path is None:
        pytest.skip("needs nvdisasm: pip install nvidia-cuda-nvdisasm")
    return path


def machine_code(kernel, capability, folder):
    """The assembler's log, the number of each instruction, and all instructions with operands."""
    compiled = compile_kernel(kernel, capability)
    path = folder / "kernel.cubin"
    path.write_bytes(compiled.code)
    done = subprocess.run(
        [disassembler(), "-c", str(path)], capture_output=True, text=True, check=True
    )
    lines = INSTRUCTION.findall(done.stdout)
    return compiled.log, Counter(name for name, _ in lines), lines


def build(op, precision, tile, vector):
    if op == "conv2d_grad_weights":
        return grad_weights(precision, tile, vector)
    return convolution(precision, tile, vector, gradient=op == "conv2d_grad_inputs")


def check_resources(log, counts, registers):
    assert re.search(r"\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", log)
    used = int(re.search(r"Used (\d+) registers", log)[1])
    assert used <= registers
    assert not [n for n in counts if re.match(r"(LDL|STL)\b|D(ADD|MUL|FMA|SETP|MNMX)|.*\.F64", n)]


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda c: "sm_{}{}".format(*c))
@pytest.mark.parametrize("precision", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_wide(op, precision, capability, tmp_path):
    check(op, precision, WIDE, True, capability, tmp_path)


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("precision", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_narrow(op, precision, vector, tmp_path):
    check(op, precision, NARROW, vector, (8, 0), tmp_path)


def check(op, precision, tile, vector, capability, folder):
    log, counts, lines = machine_code(build(op, precision, tile, vector), capability, folder)
    check_resources(log, counts, REGISTERS)
    assert int(re.search(r"(\d+) bytes smem", log)[1]) == SHARED[op][tile]

    kinds = Counter(name.split(".")[0] for name in counts.elements())
    # A warp multiplies 4 by 4 or 2 by 4 pieces, in two halves where the instruction takes 8 terms;
    # the compiler may leave the halves to a loop.
    pieces = 16 if tile is WIDE else 8
    assert kinds["HMMA"] == counts[SHAPES[precision]]
    assert kinds["HMMA"] in {pieces, pieces * (2 if precision == "tf32" else 1)}
    # What is read from global memory goes straight to shared memory, but for the bias.
    assert kinds["LDGSTS"]
    assert counts["LDGSTS.E.BYPASS.128"] == (kinds["LDGSTS"] if vector else 0)
    assert kinds["LDG"] == (8 if op == "conv2d" else 0)
    assert not kinds["STS"]
    assert not kinds["LD"]
    assert bool(counts["LDSM.16.M88.4"]) == (op != "conv2d_grad_weights")
    assert bool(kinds["LDS"]) == (op != "conv2d_grad_inputs")
    assert bool(counts["STG.E.64"]) == vector
    # One barrier, behind the wait that leaves one group of copies under way.
    order = [(n, o) for n, o in lines if n in {"LDGDEPBAR", "DEPBAR.LE"} or n.startswith("BAR")]
    waits = [n.split(".")[0] for n, _ in order]
    assert waits == ["DEPBAR", "BAR", "LDGDEPBAR"]
    assert order[0][1].split(",")[1].strip(" ;") == "0x1"


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda c: "sm_{}{}".format(*c))
def test_relu_mask(capability, tmp_path):
    log, counts, _ = machine_code(relu_mask, capability, tmp_path)
    check_resources(log, counts, 32)
