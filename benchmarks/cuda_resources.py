"""Write a table of the resources and instructions of the CUDA kernels, from their machine code.

    python benchmarks/cuda_resources.py > benchmarks/results/cuda_kernels.md

The script compiles the kernels of typical shapes for several architectures. It needs no device. The
table has the registers, shared memory, register spills and instructions of each kernel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

from cases import CONVOLUTIONS

from cnnforge_kernels.cuda.codegen.jit import Kernel
from cnnforge_kernels.cuda.conv import block_plans
from cnnforge_kernels.cuda.conv import plans as conv_plans
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.pooling import plans as pool_plans
from cnnforge_kernels.cuda.pooling.plans import Pooling
from cnnforge_kernels.cuda.runtime.compiler import intermediate, link
from cnnforge_kernels.cuda.runtime.contiguous import copy_kernel
from cnnforge_kernels.cuda.runtime.plans import Plan
from cnnforge_kernels.cuda.tensor_cores import plans as tensor_core_plans

ARCHITECTURES = ((7, 5), (8, 0), (9, 0), (12, 0))
CASES = ("seed1", "seed2", "cifar", "mid", "stem", "r64", "r128")

# The pattern skips instructions that are never executed (marked @!PT), which the assembler adds
# before copies.
_INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]+\*/\s+(?!@!PT )(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)(.*)", re.MULTILINE
)
_LABEL, _TARGET = re.compile(r"^\s*(\.L_x_\d+):"), re.compile(r"`\((\.L_x_\d+)\)")
# The lines of the assembler's log about one kernel, and the section of the disassembler's listing
# with the code of one kernel.
_LOG = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
    re.DOTALL,
)
_LISTING = re.compile(
    r"^//-+ \.text\.(\w+) -+\n(.*?)(?=^//-+ \.text\.|\Z)", re.MULTILINE | re.DOTALL
)
_FLOAT64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)\b|.*\.F64")


@dataclass(frozen=True)
class Resources:
    """Resources and instructions of one kernel on one architecture.

    Attributes:
        registers: Number of registers per thread.
        shared: Static and dynamic shared memory per block in bytes.
        spills: Bytes of the stack frame, of spill stores and of spill loads.
        instructions: Tuple (name with modifiers, operands) of each instruction in order.
        loops: For each loop, a tuple (index of its first instruction, index after its last one).
    """

    registers: int
    shared: int
    spills: int
    instructions: tuple[tuple[str, str], ...]
    loops: tuple[tuple[int, int], ...] = ()

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of instructions of each name, where the name includes modifiers."""
        return Counter(name for name, _ in self.instructions)

    def count(self, name: str, width: str = "") -> int:
        """Return the number of instructions with a name such as ``"LDG"``.

        With a ``width`` such as ``".128"``, only instructions with this modifier count.
        """
        return sum(
            number
            for key, number in self.counts.items()
            if key.split(".")[0] == name and (not width or width in key)
        )

    @property
    def float64(self) -> list[str]:
        """Names of the instructions that compute in double precision."""
        return [name for name in self.counts if _FLOAT64.match(name)]


def _product(plan: Plan) -> Plan:
    """Return the plan (the kernels for a shape) that computes an implicit matrix product.

    ``plan.options`` has a function for each algorithm and tile size, by name.
    """
    return next(make() for name, make in plan.options.items() if name.startswith("product"))


def _plans() -> list[Plan]:
    plans = []
    for case in CONVOLUTIONS:
        if case.name not in CASES:
            continue
        strides = case.stride, case.stride
        c = Convolution(case.input_shape, case.weights_shape, strides, same=True)
        plans += [
            conv_plans.forward(c, True, True),
            conv_plans.grad_weights(c, True),
            conv_plans.grad_inputs(c, True),
        ]
    odd = Convolution((8, 15, 17, 10), (3, 3, 10, 14), (2, 1), same=True)
    few = [
        conv_plans.forward(odd, True, True),
        conv_plans.grad_inputs(odd, True),
        conv_plans.grad_weights(odd, True),
    ]
    plans += [*few, *(_product(plan) for plan in few)]
    dilated = Convolution((8, 32, 32, 32), (3, 3, 16, 32), dilation_rate=(2, 2), groups=2)
    plans += [conv_plans.forward(dilated, True, True), conv_plans.grad_inputs(dilated, False)]
    wide = Convolution((64, 32, 32, 128), (3, 3, 128, 128), (2, 2), same=True)
    plans += [conv_plans.forward(wide, False, False), conv_plans.grad_inputs(wide, False)]
    for channels, multiplier in ((32, 1), (3, 2)):
        weights = (3, 3, 1, channels * multiplier)
        c = Convolution((32, 32, 32, channels), weights, same=True, groups=channels)
        plans += [
            conv_plans.forward(c, True, True),
            conv_plans.grad_inputs(c, True),
            conv_plans.grad_weights(c, True),
        ]
    for shape, weights, pool in (
        ((250, 28, 28, 1), (5, 5, 1, 8), (2, 2)),
        ((4096, 28, 28, 1), (5, 5, 1, 8), (2, 2)),
        ((4096, 28, 28, 1), (7, 7, 1, 8), (2, 2)),
        ((250, 14, 14, 8), (3, 3, 8, 16), (2, 2)),
        ((64, 32, 32, 64), (3, 3, 64, 64), (2, 2)),
        ((64, 27, 27, 5), (3, 3, 5, 7), (3, 3)),
    ):
        c = Convolution(shape, weights, same=True)
        plans += [block_plans.forward(c, pool, True), block_plans.grad_weights(c, pool)]
        if shape[3] > 1:
            plans.append(block_plans.grad_inputs(c, pool))
    for shape, window, strides in (
        ((64, 28, 28, 8), (2, 2), (2, 2)),
        ((64, 28, 28, 3), (3, 3), (2, 2)),
        ((4, 40, 40, 8), (17, 17), (1, 1)),
    ):
        p = Pooling(shape, window, strides, same=True)
        plans += [pool_plans.forward(p, True), pool_plans.backward(p, True)]
        plans += [pool_plans.forward(p, False), pool_plans.backward(p, False)]
    plans += [
        pool_plans.global_forward((64, 7, 7, 64)),
        pool_plans.global_backward((64, 7, 7, 64), True),
        pool_plans.global_backward((64, 7, 7, 63), True),
    ]
    return plans


@cache
def catalogue() -> dict[str, Kernel]:
    """Return the kernels of typical shapes, by name."""
    launches = [launch for plan in _plans() for launch in plan.launches]
    copies = [copy_kernel(dtype) for dtype in ("float32", "uint8", "int32")]
    kernels = [*(launch.kernel for launch in launches), *copies, *tensor_core_plans.all_kernels()]
    return {kernel.name: kernel for kernel in kernels}


@cache
def disassembler() -> str:
    """Return the path of nvdisasm, NVIDIA's disassembler.

    Raises:
        FileNotFoundError: nvdisasm is not installed.
    """
    from cuda.pathfinder import find_nvidia_binary_utility

    path = find_nvidia_binary_utility("nvdisasm")
    if path is None:
        raise FileNotFoundError("needs nvdisasm: pip install nvidia-cuda-nvdisasm")
    return path


_intermediate = cache(intermediate)


@cache
def measure(kernels: tuple[Kernel, ...], capability: tuple[int, int]) -> dict[str, Resources]:
    """Compile kernels for a compute capability and disassemble their machine code.

    Kernels with dynamic shared memory are linked into one cubin (a file of machine code), and the
    other kernels into a second one. So the disassembler runs at most twice. With two cubins, the
    code is the same as if each kernel were linked alone. With one cubin for all kernels, the linker
    would round up the shared memory of the other kernels to the alignment of dynamic shared memory.

    Returns:
        The resources of each kernel, by its name. Kernels that the architecture cannot run are left
        out.
    """
    found = {}
    for dynamic in (False, True):
        group = (kernel for kernel in kernels if bool(kernel.dynamic_shared) == dynamic)
        found |= _measure([kernel for kernel in group if kernel.since <= capability], capability)
    return found


def _measure(known: list[Kernel], capability: tuple[int, int]) -> dict[str, Resources]:
    if not known:
        return {}
    code, log = link([_intermediate(kernel) for kernel in known], capability)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(code)
        listing = subprocess.run(
            [disassembler(), "-c", "-ndf", str(path)], capture_output=True, text=True, check=True
        ).stdout
    logs = {symbol: rest for symbol, *rest in _LOG.findall(log)}
    listings = dict(_LISTING.findall(listing))
    if not len(known) == len(logs) == len(listings):
        raise ValueError(
            f"{len(known)} kernels, {len(logs)} in the log, {len(listings)} disassembled"
        )
    found = {}
    for kernel in known:
        # The symbol in the cubin is a C++ mangled name, in which the length of each part precedes
        # the part.
        part = f"{len(kernel.symbol)}{kernel.symbol}B"
        (symbol,) = (symbol for symbol in logs if part in symbol)
        *spills, registers, rest = logs[symbol]
        shared = re.search(r"(\d+) bytes smem", rest)
        found[kernel.name] = Resources(
            int(registers),
            (int(shared[1]) if shared else 0) + kernel.dynamic_shared,
            sum(int(number) for number in spills),
            *_code(listings[symbol]),
        )
    return found


def _code(listing: str) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[int, int], ...]]:
    """Return the instructions and the loops of a disassembled kernel, in the form of ``Resources``.

    A loop is the code from a label to a later branch to that label.
    """
    instructions, labels, loops = [], {}, []
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(found.groups())
            target = _TARGET.search(found[2])
            if found[1] == "BRA" and target and target[1] in labels:
                loops.append((labels[target[1]], len(instructions)))
    return tuple(instructions), tuple(loops)


def row(kernel: Kernel, capability: tuple[int, int], found: Resources) -> str:
    """Return the line of the table for one kernel."""
    cells = [
        f"`{kernel.name}`",
        "sm_{}{}".format(*capability),
        *(kernel.threads, found.registers, found.shared, found.spills),
        *(found.count("FFMA"), found.count("HMMA")),
    ]
    for name in ("LDG", "LDS", "STG"):
        every, wide = found.count(name), found.count(name, ".128")
        cells.append(f"{wide} / {every}")
    cells.append(sum(found.counts.values()))
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def toolchain() -> str:
    """Return the names and versions of the packages that the machine code depends on."""
    names = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")
    return ", ".join(f"{name} {version(name)}" for name in names)


def document() -> str:
    """Return the text of ``benchmarks/results/cuda_kernels.md``."""
    lines = [
        "# CUDA kernels: resources and machine code",
        "",
        "Written without a device by",
        "`python benchmarks/cuda_resources.py > benchmarks/results/cuda_kernels.md`,",
        f"with {toolchain()}.",
        "",
        "The table has the kernels of typical shapes, each compiled for its constants. Those of",
        "the tensor cores need sm_80, the first architecture with tf32 and bfloat16. The columns",
        "are threads per block, registers per thread, shared memory per block in bytes, spills in",
        "bytes (stack, stores and loads together), and numbers of instructions. For global loads,",
        "shared loads and global stores, the first number counts 128-bit accesses and the second",
        "all of them. An instruction in a loop counts once.",
        "",
        "| kernel | arch | threads | registers | shared | spills | FFMA | HMMA | LDG.128 / all "
        "| LDS.128 / all | STG.128 / all | instructions |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    kernels = tuple(catalogue().values())
    for kernel in kernels:
        for capability in ARCHITECTURES:
            found = measure(kernels, capability).get(kernel.name)
            if found is not None:
                lines.append(row(kernel, capability, found))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
