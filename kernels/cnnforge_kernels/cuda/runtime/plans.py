"""What runs for one shape: kernels, grids and arguments, found once and kept.

Plans are plain data, made with no device; ``runtime.py`` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from cnnforge_kernels.cuda.codegen.jit import Kernel

Pair = tuple[int, int]
Shape = tuple[int, ...]

# Enough for the largest devices several times over. Not the device's own number: a result shall
# not depend on the device that computed it.
BLOCKS = 1024
# Partial sums of a two-stage reduction shall take no more than 64 MiB.
SCRATCH_FLOATS = 1 << 24
# Kernels count with 31 bits, and the threads of the last block beyond what there is to do.
_MOST = 2**31 - 2**16
_MOST_GRID_YZ = 65535


@dataclass(frozen=True)
class Launch:
    """One kernel to run.

    Attributes:
        kernel: the kernel.
        grid: blocks along x, y, z.
        arguments: the name of an array, a name and an offset in elements, or a number.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: tuple[str | tuple[str, int] | int, ...]


@dataclass(frozen=True)
class Plan:
    """Kernels to run one after the other.

    Attributes:
        launches: in their order.
        scratch: float32 elements of the array ``"scratch"``, 16-byte aligned.
        problem: what it computes: op, shapes, options, precision; the same in every process.
        options: other configurations that compute it, and this one: the first. Any of them is
            right; which is the fastest, ``tuning.py`` can measure.
    """

    launches: tuple[Launch, ...] = ()
    scratch: int = 0
    problem: str = ""
    options: Mapping[str, Callable[[], Plan]] = field(default_factory=dict, compare=False)


def offer(problem: str, options: Mapping[str, Callable[[], Plan]]) -> Plan:
    """The first of several configurations, which is the default, and how to make the others.

    Args:
        problem: what all of them compute.
        options: name of a configuration to its plan.
    """
    first = next(iter(options.values()))()
    return replace(first, problem=problem, options=options) if len(options) > 1 else first


def launch(kernel: Kernel, grid: Shape, *arguments: str | tuple[str, int] | int) -> Launch:
    """A launch whose grid and numbers are within what the kernels and the device can count.

    Raises:
        ValueError: they are not; the arrays are too large for one call.
    """
    x, y, z = (*grid, 1, 1)[:3]
    numbers = [value for value in arguments if isinstance(value, int)]
    if max(x, *numbers) > _MOST or max(y, z) > _MOST_GRID_YZ:
        raise ValueError(
            f"{kernel.name}: too large for one call (grid {(x, y, z)}, numbers up to "
            f"{max(numbers)}, expected at most {_MOST}). Split the batch into smaller ones."
        )
    return Launch(kernel, (x, y, z), arguments)


def check_images(**shapes: Shape) -> None:
    """Require images whose elements 31 bits can count; the batch may be larger.

    Raises:
        ValueError: an image is too large.
    """
    for name, shape in shapes.items():
        if prod(shape[1:]) > _MOST:
            raise ValueError(
                f"`{name}` has images of {prod(shape[1:])} elements. Expected at most {_MOST}: "
                "cut the images into smaller ones."
            )


def blocks(count: int, each: int) -> int:
    """The number of blocks for ``count`` things, ``each`` of them to a block."""
    return -(-count // each)


def slices(pixels: int, others: int, floats: int, least: int) -> tuple[int, int]:
    """(slices, pixels of a slice) of a two-stage reduction.

    Args:
        pixels: to be summed over.
        others: blocks of each slice.
        floats: that each slice writes.
        least: pixels that a slice should have.
    """
    most = min(BLOCKS // max(others, 1), SCRATCH_FLOATS // floats, pixels // least, _MOST_GRID_YZ)
    each = blocks(pixels, max(most, 1))
    return max(blocks(pixels, max(each, 1)), 1), max(each, 1)
