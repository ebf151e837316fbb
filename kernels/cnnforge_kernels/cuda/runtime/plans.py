"""Define plans: lists of the kernels to run for one shape, with their grids and arguments.

A plan is made once per shape and kept in memory. It is plain data, so making it needs no device.
``driver.py`` runs plans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from cnnforge_kernels.cuda.codegen.jit import Kernel

Pair = tuple[int, int]
Shape = tuple[int, ...]

# Number of multiprocessors of a large device. Plans cut sums into parts for this number and not for
# that of the actual device, so that all devices add in the same order and give the same result.
MULTIPROCESSORS = 132
# Maximum number of blocks in the first stage of a two-stage reduction (partial sums, then their
# sum). This is several times as many as the largest device can run at the same time.
BLOCKS = 1024
# Maximum number of floats that the first stage writes: 64 MiB of partial sums.
SCRATCH_FLOATS = 1 << 24
# Maximum of every number of a launch. Above it, `launch` raises an error. Kernels use int32
# indices, and the last block may compute indices beyond the number of elements. So the maximum is
# less than 2**31.
_MAX_COUNT = 2**31 - 2**16
_MAX_GRID_YZ = 65535


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: The kernel.
        grid: Number of blocks along x, y, z.
        arguments: Arguments of the kernel. Each is the name of an array, a tuple (name of an array,
            offset in elements), or a number.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: tuple[str | tuple[str, int] | int, ...]


@dataclass(frozen=True)
class Plan:
    """Launches that compute one op for one shape, one after the other.

    Attributes:
        launches: Launches in order.
        scratch: Number of float32 elements of the temporary array ``"scratch"``, which the driver
            allocates for each run, 16-byte aligned.
        problem: Op, shapes, options and precision as text. The tuner stores its choice under it.
        options: Functions that make other plans for the same problem, by the name of their
            configuration, such as a tile size. The first function makes this plan. ``tuning.py``
            can measure which plan is the fastest.
    """

    launches: tuple[Launch, ...] = ()
    scratch: int = 0
    problem: str = ""
    options: Mapping[str, Callable[[], Plan]] = field(default_factory=dict, compare=False)


def offer(problem: str, options: Mapping[str, Callable[[], Plan]]) -> Plan:
    """Return the plan of the first configuration, and store all configurations in its ``options``.

    Args:
        problem: Op, shapes, options and precision as text.
        options: Functions that make a plan, by the name of its configuration.
    """
    first = next(iter(options.values()))()
    return replace(first, problem=problem, options=options) if len(options) > 1 else first


def launch(kernel: Kernel, grid: Shape, *arguments: str | tuple[str, int] | int) -> Launch:
    """Return a ``Launch``, after a check that its grid and its numbers are not too large.

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
    """Check that an int32 can index the elements of one image. A batch may have more elements.

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
    """Return the number of blocks for ``count`` items with ``each`` items per block."""
    return -(-count // each)


def slices(pixels: int, others: int, floats: int, min_pixels: int) -> tuple[int, int]:
    """Return the number of slices of a sum over pixels, and the number of pixels per slice.

    The first stage of a two-stage reduction computes one partial sum per slice.

    Args:
        pixels: Number of pixels to sum over.
        others: Number of blocks that compute one slice.
        floats: Number of floats in the partial sums of one slice.
        min_pixels: Minimum number of pixels per slice if there are several slices.

    Returns:
        The number of slices, and the number of pixels per slice.
    """
    limit = min(
        *(BLOCKS // max(others, 1), SCRATCH_FLOATS // floats, pixels // min_pixels, _MAX_GRID_YZ),
    )
    each = blocks(pixels, max(limit, 1))
    return max(blocks(pixels, max(each, 1)), 1), max(each, 1)
