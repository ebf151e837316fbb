"""Which tensor-core kernels run for a shape, on which grids, with which numbers.

Plain integer arithmetic, done once per shape; nothing here needs a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

from cnnforge_kernels.cuda.jit import Kernel
from cnnforge_kernels.cuda.reduce import reduce_slices
from cnnforge_kernels.cuda.tensor_core_convolution import Precision, convolution
from cnnforge_kernels.cuda.tensor_core_grad_weights import grad_weights as grad_weights_kernel
from cnnforge_kernels.cuda.tensor_core_grad_weights import relu_mask
from cnnforge_kernels.cuda.tensor_core_maps import (
    DEPTH,
    NARROW,
    THREADS,
    WIDE,
    Tile,
    division,
)
from cnnforge_kernels.geometry import output_size, padding_before

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]

# Enough blocks for the largest devices several times over. Not the device's own number: a result
# shall not depend on the device that it was computed on.
_BLOCKS = 1024
# A split costs a pass over its part of the result: it shall sum at least so many pixels, and all
# parts together shall take no more than 64 MiB.
_PIXELS_OF_A_SPLIT = 16 * DEPTH
_WORKSPACE = 1 << 24
_GRID_Z = 65535


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
    """

    launches: tuple[Launch, ...]
    scratch: int = 0


@dataclass(frozen=True)
class Problem:
    """A convolution without groups.

    Attributes:
        inputs: (N, H, W, C).
        weights: (KH, KW, C, F).
        strides: of rows and columns; so is ``dilation``.
        same: SAME padding, else VALID.
        precision: of the operands.
        aligned: every array starts at a multiple of 16 bytes.
    """

    inputs: Shape
    weights: Shape
    strides: Pair
    same: bool
    dilation: Pair
    precision: Precision
    aligned: bool = True

    @property
    def outputs(self) -> Shape:
        """(N, OH, OW, F)."""
        rows, columns = (
            output_size(
                self.inputs[1 + a], self.weights[a], self.strides[a], self.dilation[a], self.same
            )
            for a in (0, 1)
        )
        return self.inputs[0], rows, columns, self.weights[3]

    @property
    def padding(self) -> Pair:
        """At the top and left."""
        top, left = (
            padding_before(
                self.inputs[1 + a], self.weights[a], self.strides[a], self.dilation[a], self.same
            )
            for a in (0, 1)
        )
        return top, left

    @property
    def vector(self) -> bool:
        """Whether 16 bytes can be copied at a time."""
        return self.aligned and self.weights[2] % 4 == 0 and self.weights[3] % 4 == 0

    def tile(self, columns: int) -> Tile:
        """The tile for a result of so many columns."""
        return WIDE if self.vector and columns > NARROW.columns else NARROW

    def check(self) -> None:
        """Require that 32-bit indices are enough.

        Raises:
            ValueError: an array of 2**31 elements or more, or a window as large as that, or more
                than 65535 phases of a stride.
        """
        reach = max(
            self.inputs[1 + a] + self.weights[a] * self.dilation[a] + self.strides[a]
            for a in (0, 1)
        )
        largest = max(reach, *(prod(s) for s in (self.inputs, self.weights, self.outputs)))
        if largest >= (1 << 31) - 1024 or self.phases > _GRID_Z:
            raise ValueError(
                f'precision="{self.precision}" takes arrays of fewer than 2**31 - 1024 elements '
                f"and fewer than {_GRID_Z} combinations of strides. Received: inputs "
                f"{self.inputs}, weights {self.weights}, strides {self.strides}. Split the batch, "
                'or use precision="float32".'
            )

    @property
    def phases(self) -> int:
        """Combinations of row and column modulo the strides that the inputs have."""
        return prod(min(self.strides[a], self.inputs[1 + a]) for a in (0, 1))


def _blocks(size: int, tile: int) -> int:
    return -(-size // tile)


@cache
def forward(problem: Problem, bias: bool, relu: bool) -> Plan:
    """Arrays: ``inputs``, ``weights``, ``bias`` (if any), ``outputs``."""
    problem.check()
    images, height, width, channels = problem.inputs
    _, rows, columns, filters = outputs = problem.outputs
    if not prod(outputs):
        return Plan(())
    tile = problem.tile(filters)
    kernel = convolution(problem.precision, tile, problem.vector, gradient=False)
    grid = _blocks(images * rows * columns, tile.rows), _blocks(filters, tile.columns), 1
    arrays = "inputs", "weights", "bias" if bias else "weights", "outputs"
    numbers = (
        *(images, height, width, channels, rows, columns, filters, *problem.weights[:2]),
        *(*problem.strides, *problem.dilation, *problem.padding),
        *(filters if bias else 0, int(relu)),
    )
    return Plan((Launch(kernel, grid, arrays + numbers),))


def _masked(problem: Problem, relu: bool) -> tuple[str, tuple[Launch, ...], int]:
    """Name of the gradient to start from, the launch that makes it, and its size in scratch."""
    size = prod(problem.outputs)
    if not relu or not size:
        return "grad_outputs", (), 0
    arguments = "grad_outputs", "outputs", "scratch", size
    return "scratch", (Launch(relu_mask, (_blocks(size, THREADS), 1, 1), arguments),), size


@cache
def grad_inputs(problem: Problem, relu: bool) -> Plan:
    """Arrays: ``grad_outputs``, ``weights``, ``outputs`` (with ``relu``), ``grad_inputs``."""
    problem.check()
    images, height, width, channels = problem.inputs
    _, rows, columns, filters = problem.outputs
    if not prod(problem.inputs):
        return Plan(())
    source, launches, scratch = _masked(problem, relu)
    if not rows * columns:
        # Nothing to sum: the kernel writes zeros, and must not form an address in an empty array.
        source, filters = "weights", 0
    tile = problem.tile(channels)
    kernel = convolution(problem.precision, tile, problem.vector, gradient=True)
    # As many blocks as the first phase needs, which is the largest.
    pixels = images * prod(_blocks(problem.inputs[1 + a], problem.strides[a]) for a in (0, 1))
    grid = _blocks(pixels, tile.rows), _blocks(channels, tile.columns), problem.phases
    numbers = (
        *(images, rows, columns, filters, height, width, channels, *problem.weights[:2]),
        *(*problem.strides, *problem.dilation, *problem.padding, 0, 0),
    )
    launch = Launch(kernel, grid, (source, "weights", "weights", "grad_inputs", *numbers))
    return Plan((*launches, launch), scratch)


@cache
def grad_weights(problem: Problem, relu: bool) -> Plan:
    """Arrays: those of ``grad_inputs`` but ``inputs``, ``grad_weights`` and ``grad_bias``."""
    problem.check()
    _, height, width, channels = problem.inputs
    images, rows, columns, filters = problem.outputs
    if not filters:
        return Plan(())
    source, launches, scratch = _masked(problem, relu)
    tile = problem.tile(filters)
    kernel = grad_weights_kernel(problem.precision, tile, problem.vector)
    lines, pixels = prod(problem.weights[:3]), images * rows * columns
    tiles = max(_blocks(lines, tile.rows), 1) * _blocks(filters, tile.columns)
    part = lines * filters + filters
    splits = min(
        *(_blocks(_BLOCKS, tiles), _blocks(pixels, _PIXELS_OF_A_SPLIT)),
        *(_WORKSPACE // part, _GRID_Z),
    )
    per_split = max(_blocks(_blocks(pixels, max(splits, 1)), DEPTH) * DEPTH, DEPTH)
    splits = max(_blocks(pixels, per_split), 1)
    grid = max(_blocks(lines, tile.rows), 1), _blocks(filters, tile.columns), splits
    numbers = (
        *(height, width, max(channels, 1), rows, columns, filters, problem.weights[1]),
        *(*problem.strides, *problem.dilation, *problem.padding),
        *(lines, pixels, per_split, part),
        *(*division(max(rows * columns, 1)), *division(max(columns, 1))),
    )
    if splits == 1:
        results: tuple = ("grad_weights", "grad_bias")
    else:
        # Parts start at a multiple of 16 bytes, whatever the size of the masked gradient.
        scratch = _blocks(scratch, 4) * 4
        results = (("scratch", scratch), ("scratch", scratch + lines * filters))
    launches += (Launch(kernel, grid, ("inputs", source, *results, *numbers)),)
    if splits > 1:
        reduce = reduce_slices()
        arguments = (results[0], "grad_weights", "grad_bias", lines * filters, part, splits)
        launches += (Launch(reduce, (_blocks(part, reduce.threads), 1, 1), arguments),)
        scratch += splits * part
    return Plan(launches, scratch)
