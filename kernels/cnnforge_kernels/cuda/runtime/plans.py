"""Plans: the kernels to run for one shape, with their grids and arguments.

A plan is made once per shape and kept. It is plain data and needs no device. ``driver.py`` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from cnnforge_kernels.cuda.codegen.jit import Kernel

Pair = tuple[int, int]
Shape = tuple[int, ...]

# Number of multiprocessors of a large device. Plans use this constant and not the number of the
# device, because a result must not depend on the device that computed it.
MULTIPROCESSORS = 132
# Limit on the blocks of a two-stage reduction: several times what the largest device can run at
# once.
BLOCKS = 1024
# Limit on the partial sums of a two-stage reduction: 64 MiB.
SCRATCH_FLOATS = 1 << 24
# Limit on every number of a launch. Kernels count with 31 bits, and the threads of the last block
# count past the end.
_MAX_COUNT = 2**31 - 2**16
_MAX_GRID_YZ = 65535


@dataclass(frozen=True)
class Launch:
    """One kernel to run.

    Attributes:
        kernel: The kernel.
        grid: Number of blocks along x, y, z.
        arguments: For each argument: the name of an array, a tuple of its name and an offset in
            elements, or a number.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: tuple[str | tuple[str, int] | int, ...]


@dataclass(frozen=True)
class Plan:
    """Kernels to run one after the other.

    Attributes:
        launches: Launches in order.
        scratch: Number of float32 elements of the array ``"scratch"``, which is 16-byte aligned.
        problem: Op, shapes, options and precision as text, the same in every process.
        options: Functions that make the plan of each configuration, by name. The first one makes
            this plan. ``tuning.py`` can measure which plan is the fastest.
    """

    launches: tuple[Launch, ...] = ()
    scratch: int = 0
    problem: str = ""
    options: Mapping[str, Callable[[], Plan]] = field(default_factory=dict, compare=False)


def offer(problem: str, options: Mapping[str, Callable[[], Plan]]) -> Plan:
    """Return the plan of the first configuration, with all configurations as its options.

    Args:
        problem: Op, shapes, options and precision as text.
        options: Functions that make the plan of each configuration, by name.
    """
    first = next(iter(options.values()))()
    return replace(first, problem=problem, options=options) if len(options) > 1 else first


def launch(kernel: Kernel, grid: Shape, *arguments: str | tuple[str, int] | int) -> Launch:
    """Make a launch, after a check that its grid and its numbers are not too large.

    Raises:
        ValueError: The arrays are too large for one call.
    """
    x, y, z = (*grid, 1, 1)[:3]
    numbers = [value for value in arguments if isinstance(value, int)]
    if max(x, *numbers) > _MAX_COUNT or max(y, z) > _MAX_GRID_YZ:
        raise ValueError(
            f"{kernel.name}: too large for one call (grid {(x, y, z)}, numbers up to "
            f"{max(numbers)}, expected at most {_MAX_COUNT}). Split the batch into smaller ones."
        )
    return Launch(kernel, (x, y, z), arguments)


def check_images(**shapes: Shape) -> None:
    """Check that 31 bits can count the elements of each image. A batch may have more elements.

    Raises:
        ValueError: An image is too large.
    """
    for name, shape in shapes.items():
        if prod(shape[1:]) > _MAX_COUNT:
            raise ValueError(
                f"`{name}` has images of {prod(shape[1:])} elements. Expected at most "
                f"{_MAX_COUNT}. Cut the images into smaller ones."
            )


def blocks(count: int, each: int) -> int:
    """Number of blocks for ``count`` items with ``each`` items per block."""
    return -(-count // each)


def slices(pixels: int, others: int, floats: int, min_pixels: int) -> tuple[int, int]:
    """Cut the sum of a two-stage reduction into slices.

    Args:
        pixels: Number of pixels to sum over.
        others: Number of blocks per slice.
        floats: Number of floats that each slice writes.
        min_pixels: Minimum number of pixels per slice if there are several slices.

    Returns:
        The number of slices, and the number of pixels per slice.
    """
    limit = min(
        *(BLOCKS // max(others, 1), SCRATCH_FLOATS // floats, pixels // min_pixels, _MAX_GRID_YZ),
    )
    each = blocks(pixels, max(limit, 1))
    return max(blocks(pixels, max(each, 1)), 1), max(each, 1)
