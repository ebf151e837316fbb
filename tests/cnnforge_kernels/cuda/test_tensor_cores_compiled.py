"""Tests of the machine code of the tensor-core kernels, compiled without a device."""

import pytest

from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED
from cnnforge_kernels.cuda.runtime.compiler import compile_kernel
from cnnforge_kernels.cuda.tensor_cores import plans
from cnnforge_kernels.cuda.tensor_cores.convolution import convolution
from cnnforge_kernels.cuda.tensor_cores.halo.convolution import halo_convolution
from cnnforge_kernels.cuda.tensor_cores.halo.weights import halo_grad_weights
from cnnforge_kernels.cuda.tensor_cores.layout import NARROW, WIDE
from cnnforge_kernels.cuda.tensor_cores.weights import grad_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda: pip install 'cnnforge[cuda13]'"),
    pytest.mark.skipif(SIMULATED, reason="the compiler is off while the simulator is on"),
]

ARCHITECTURES = (8, 0), (9, 0), (12, 0)
OPS = "conv2d", "conv2d_grad_inputs", "conv2d_grad_weights"
SHAPES = {"tf32": "HMMA.1688.F32.TF32", "bfloat16": "HMMA.16816.F32.BF16"}
# Four blocks of 128 threads must fit on a multiprocessor with 65536 registers.
REGISTERS = 128
# Bytes of three stages of (128 + columns) * 16 words. Operands that are stored term by term have
# 8 more words per row.
SHARED = {
    "conv2d": {WIDE: 3 * 4 * (128 * 16 + 16 * 72), NARROW: 3 * 4 * (128 * 16 + 16 * 40)},
    "conv2d_grad_inputs": {WIDE: 3 * 4 * 192 * 16, NARROW: 3 * 4 * 160 * 16},
    "conv2d_grad_weights": {WIDE: 3 * 4 * 16 * (136 + 72), NARROW: 3 * 4 * 16 * (136 + 40)},
}


@pytest.fixture
def measure():
    """Return ``measure(kernel, capability)``: the resources and the instructions of a kernel."""
    import cuda_resources as resources

    try:
        resources.disassembler()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return lambda kernel, capability: resources.measure(plans.all_kernels(), capability)[
        kernel.name
    ]


def build(op, precision, tile, vector):
    if op == "conv2d_grad_weights":
        return grad_weights(precision, tile, vector)
    return convolution(precision, tile, vector, gradient=op == "conv2d_grad_inputs")


@pytest.mark.parametrize("capability", ARCHITECTURES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("kind", ["wide", "narrow", "narrow scalar"])
@pytest.mark.parametrize("precision", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_every_kernel(op, precision, kind, capability, measure):
    tile, vector = WIDE if kind == "wide" else NARROW, not kind.endswith("scalar")
    found = measure(build(op, precision, tile, vector), capability)
    assert found.spills == 0
    assert not found.float64
    assert not found.count("LDL") + found.count("STL")
    assert found.registers <= REGISTERS
    assert found.shared == SHARED[op][tile]
    # A warp multiplies 4 by 4 or 2 by 4 pieces, in two halves if the instruction takes 8 terms. The
    # compiler may keep a loop over the halves.
    pieces = 16 if tile is WIDE else 8
    assert found.count("HMMA") == found.counts[SHAPES[precision]]
    assert found.count("HMMA") in {pieces, pieces * (2 if precision == "tf32" else 1)}
    # Only the bias goes from global memory to registers. The operands go to shared memory.
    copies = found.count("LDGSTS")
    assert copies
    assert found.counts["LDGSTS.E.BYPASS.128"] == (copies if vector else 0)
    assert found.count("LDG") == (8 if op == "conv2d" else 0)
    assert not found.count("STS")
    assert not found.count("LD")
    assert bool(found.counts["LDSM.16.M88.4"]) == (op != "conv2d_grad_weights")
    assert bool(found.count("LDS")) == (op != "conv2d_grad_inputs")
    assert bool(found.counts["STG.E.64"]) == vector
    # One barrier follows the wait, which leaves one group of copies pending.
    order = [
        (name, operands)
        for name, operands in found.instructions
        if name in {"LDGDEPBAR", "DEPBAR.LE"} or name.startswith("BAR")
    ]
    waits = [n.split(".")[0] for n, _ in order]
    assert waits == ["DEPBAR", "BAR", "LDGDEPBAR"]
    assert order[0][1].split(",")[1].strip(" ;") == "0x1"


@pytest.mark.parametrize("capability", ARCHITECTURES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("precision", SHAPES)
def test_halo(precision, masked, capability, measure):
    kernel = halo_convolution(precision, masked)
    found = measure(kernel, capability)
    assert found.spills == 0
    assert not found.float64
    assert not found.count("LDL") + found.count("STL")
    # Two blocks of 128 threads must fit on a multiprocessor with 65536 registers and 164 KB (A100).
    assert found.registers <= 255
    assert found.shared == kernel.dynamic_shared <= 81 * 1024
    # A warp multiplies 4 by 8 pieces, four times per line. The whole line is unrolled.
    assert found.count("HMMA") == found.counts[SHAPES[precision]] == 128
    assert found.counts["LDSM.16.M88.4"] == 32
    # A thread copies four channels of several lines at once, and starts all loads first.
    flying = 14 if precision == "bfloat16" and not masked else 7
    assert found.counts["LDG.E.128.CONSTANT"] == flying * (1 + masked)
    assert found.counts["STS.64" if precision == "bfloat16" else "STS.128"] == flying
    assert found.count("STS") == flying
    loads = [i for i, (name, _) in enumerate(found.instructions) if ".128.CONSTANT" in name]
    stores = [i for i, (name, _) in enumerate(found.instructions) if name.startswith("STS")]
    assert max(loads) < min(stores)
    copies = found.count("LDGSTS")
    assert found.counts["LDGSTS.E.BYPASS.128"] == copies
    # Two barriers: before the lines of a chunk are overwritten, and after the wait of each step.
    assert sum(name.startswith("BAR") for name, _ in found.instructions) == 2
    assert found.counts["STG.E.64"]
    # Nearly half of the loop over the taps, which has the second barrier, are products.
    names = [name.split(".")[0] for name, _ in found.instructions]
    begin = [i for i, name in enumerate(names) if name == "BAR"][-1]
    assert names[begin:].index("BRA") <= 2.2 * 128


@pytest.mark.parametrize("capability", ARCHITECTURES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("precision", SHAPES)
def test_halo_grad_weights(precision, masked, capability, measure):
    kernel = halo_grad_weights(precision, masked)
    found = measure(kernel, capability)
    assert found.spills == 0
    assert not found.float64
    assert not found.count("LDL") + found.count("STL")
    # One block of 256 threads must fit, with the memory that every device since 8.6 has.
    assert found.registers <= 255
    assert found.shared == kernel.dynamic_shared <= 99 * 1024
    # Nine taps by four pieces, in both steps of a quarter of a tile.
    assert found.count("HMMA") == found.counts[SHAPES[precision]]
    assert found.count("HMMA") in {36, 72}
    # Copies of a thread in a quarter: of the inputs, and of the gradient with its mask.
    inputs, grads = {"bfloat16": (4, 2), "tf32": (2, 1)}[precision]
    assert found.counts["LDG.E.128.CONSTANT"] == inputs + grads * (1 + masked)
    # Loads start before the products, and their values are stored after them.
    names = [name.split(".")[0] for name, _ in found.instructions]
    first, last = names.index("HMMA"), len(names) - 1 - names[::-1].index("HMMA")
    wide = [i for i, (name, _) in enumerate(found.instructions) if ".128.CONSTANT" in name]
    assert max(wide) < first
    assert any(name == "STS" for name in names[last:])
    assert found.counts["STG.E.64"] == 72


def test_older_architectures_lack_the_instructions():
    """tf32, bfloat16 and asynchronous copies need compute capability 8.0."""
    kernels = plans.all_kernels()
    old = [kernel.name for kernel in kernels if kernel.since < (8, 0)]
    assert old == ["conv2d_relu_mask"]
    with pytest.raises(CudaUnavailableError, match=r"could not be compiled for sm_75"):
        compile_kernel(kernels[0], (7, 5))
