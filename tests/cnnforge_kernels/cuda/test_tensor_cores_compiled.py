"""The machine code of the tensor-core kernels, compiled with no device."""

import re
import subprocess
from collections import Counter

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


@pytest.fixture(scope="module")
def disassembler():
    from cuda_resources import disassembler as find

    try:
        return find()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def machine_code(disassembler, tmp_path):
    """Return ``read(kernel, capability)``: resources, and all instructions with operands."""
    from cuda_resources import Resources

    def read(kernel, capability):
        compiled = compile_kernel(kernel, capability)
        path = tmp_path / "kernel.cubin"
        path.write_bytes(compiled.code)
        listing = subprocess.run(
            [disassembler, "-c", str(path)], capture_output=True, text=True, check=True
        )
        lines = INSTRUCTION.findall(listing.stdout)
        frame = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        registers = re.search(r"Used (\d+) registers", compiled.log)
        shared = re.search(r"(\d+) bytes smem", compiled.log)
        found = Resources(
            int(registers[1]),
            int(shared[1]) if shared else 0,
            sum(int(number) for number in re.search(frame, compiled.log).groups()),
            Counter(name for name, _ in lines),
        )
        assert found.spills == 0
        assert not found.float64
        assert not found.count("LDL") + found.count("STL")
        return found, lines

    return read


def build(op, precision, tile, vector):
    if op == "conv2d_grad_weights":
        return grad_weights(precision, tile, vector)
    return convolution(precision, tile, vector, gradient=op == "conv2d_grad_inputs")


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda c: "sm_{}{}".format(*c))
@pytest.mark.parametrize("precision", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_wide(op, precision, capability, machine_code):
    kernel = build(op, precision, WIDE, True)
    check(op, precision, WIDE, True, *machine_code(kernel, capability))


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("precision", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_narrow(op, precision, vector, machine_code):
    kernel = build(op, precision, NARROW, vector)
    check(op, precision, NARROW, vector, *machine_code(kernel, (8, 0)))


def check(op, precision, tile, vector, found, lines):
    assert found.registers <= REGISTERS
    assert found.shared == SHARED[op][tile]
    # A warp multiplies 4 by 4 or 2 by 4 pieces, in two halves where the instruction takes 8 terms;
    # the compiler may leave the halves to a loop.
    pieces = 16 if tile is WIDE else 8
    assert found.count("HMMA") == found.counts[SHAPES[precision]]
    assert found.count("HMMA") in {pieces, pieces * (2 if precision == "tf32" else 1)}
    # What is read from global memory goes straight to shared memory, but for the bias.
    copies = found.count("LDGSTS")
    assert copies
    assert found.counts["LDGSTS.E.BYPASS.128"] == (copies if vector else 0)
    assert found.count("LDG") == (8 if op == "conv2d" else 0)
    assert not found.count("STS")
    assert not found.count("LD")
    assert bool(found.counts["LDSM.16.M88.4"]) == (op != "conv2d_grad_weights")
    assert bool(found.count("LDS")) == (op != "conv2d_grad_inputs")
    assert bool(found.counts["STG.E.64"]) == vector
    # One barrier, behind the wait that leaves one group of copies under way.
    order = [(n, o) for n, o in lines if n in {"LDGDEPBAR", "DEPBAR.LE"} or n.startswith("BAR")]
    waits = [n.split(".")[0] for n, _ in order]
    assert waits == ["DEPBAR", "BAR", "LDGDEPBAR"]
    assert order[0][1].split(",")[1].strip(" ;") == "0x1"


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda c: "sm_{}{}".format(*c))
def test_relu_mask(capability, machine_code):
    found, _ = machine_code(relu_mask, capability)
    assert found.registers <= 32
