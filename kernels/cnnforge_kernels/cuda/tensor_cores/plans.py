"""Choose the kernels that compute 2D convolution and its gradients on tensor cores.

Experimental: not yet run on a device. A plan (``runtime/plans.py``) lists the kernels to run for
one shape, with their grids and arguments. The operands are rounded to tf32 or bfloat16. Tensor
cores are off by default: the default precision, ``"float32"``, uses the plans of ``conv/plans.py``.
A caller must ask for ``"tf32"`` or ``"bfloat16"``. Convolutions with groups have no tensor-core
kernel, so these two precisions are an error for them.

Each operand is rounded once, to 11 bits of significand (tf32, ties away from zero) or to 8 bits
(bfloat16, ties to even). With u = 2**-11 or 2**-8, a result differs by up to
``(2u + u**2) * sum(|a| * |b|)`` from the result without rounding. Products are exact. Sums, bias
and results are float32, and the gradient of the bias is a float32 sum of values that are not
rounded. NaN and infinity stay as they are. A value beyond the largest bfloat16 or tf32 rounds to
infinity.

The same arguments give the same bits on every device of an architecture: no sum is atomic, and the
shape alone decides the number of partial sums.
"""

from __future__ import annotations

from functools import lru_cache, partial
from math import prod
from typing import Any, Literal

from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.codegen.jit import Kernel
from cnnforge_kernels.cuda.conv import plans as float32_plans
from cnnforge_kernels.cuda.conv.problem import Convolution
from cnnforge_kernels.cuda.conv.reduce import reduction
from cnnforge_kernels.cuda.runtime.plans import (
    BLOCKS,
    SCRATCH_FLOATS,
    Launch,
    Plan,
    blocks,
    launch,
    offer,
)
from cnnforge_kernels.cuda.tensor_cores.convolution import convolution
from cnnforge_kernels.cuda.tensor_cores.halo import plans as halo_plans
from cnnforge_kernels.cuda.tensor_cores.halo.convolution import halo_convolution
from cnnforge_kernels.cuda.tensor_cores.halo.packing import pack
from cnnforge_kernels.cuda.tensor_cores.halo.weights import halo_grad_weights
from cnnforge_kernels.cuda.tensor_cores.layout import (
    DEPTH,
    NARROW,
    THREADS,
    WIDE,
    Tile,
    division,
)
from cnnforge_kernels.cuda.tensor_cores.weights import grad_weights as grad_weights_kernel
from cnnforge_kernels.cuda.tensor_cores.weights import relu_mask

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS = ("float32", "tf32", "bfloat16")

# Minimum number of pixels per slice of a sum. Each slice writes all of its partial sums to memory,
# which would be too slow for few pixels.
_MIN_SLICE_PIXELS = 16 * DEPTH
_MAX_SLICES = 65535
# The indices that kernels compute exceed the end of an array by less than this, so an array must be
# this much shorter than 2**31 elements.
_MARGIN = 1024


def all_kernels() -> tuple[Kernel, ...]:
    """Return all tensor-core kernels. They suffice for all shapes."""
    kernels = []
    for precision in ("tf32", "bfloat16"):
        for tile, vector in ((WIDE, True), (NARROW, True), (NARROW, False)):
            kernels += [convolution(precision, tile, vector, gradient=g) for g in (False, True)]
            kernels.append(grad_weights_kernel(precision, tile, vector))
        for second in (False, True):
            kernels += [pack(precision, second), halo_convolution(precision, second)]
            kernels.append(halo_grad_weights(precision, second))
    return (*kernels, relu_mask)


def check_capability(capability: tuple[int, int], precision: Precision) -> None:
    """Check that the tensor cores of a device support the precision.

    Raises:
        CudaUnavailableError: The compute capability of the device is below 8.0.
    """
    if precision != "float32" and capability < (8, 0):
        raise CudaUnavailableError(
            f'precision="{precision}" needs a device of compute capability 8.0 or later (Ampere). '
            'Received: {}.{}. Use precision="float32".'.format(*capability)
        )


def _is_float32(c: Convolution, precision: Precision) -> bool:
    if precision not in PRECISIONS:
        raise ValueError(
            f'`precision` must be "float32", "tf32" or "bfloat16". Received: {precision!r}'
        )
    if precision != "float32" and c.groups > 1:
        raise ValueError(
            f"precision={precision!r} needs a convolution without groups. "
            f'Received: groups={c.groups}. Use precision="float32".'
        )
    return precision == "float32"


def _check(c: Convolution, precision: Precision) -> None:
    c.check()
    reach = max(c.inputs[1 + a] + c.weights[a] * c.dilation_rate[a] + c.strides[a] for a in (0, 1))
    largest = max(reach, *(prod(shape) for shape in (c.inputs, c.weights, c.outputs)))
    if largest >= 2**31 - _MARGIN:
        raise ValueError(
            f'precision="{precision}" takes arrays of fewer than 2**31 - {_MARGIN} elements, and '
            f"windows that reach no further. Received: inputs {c.inputs}, weights {c.weights}, "
            f"strides {c.strides}, dilation_rate {c.dilation_rate}. Split the batch into smaller "
            'ones, or use precision="float32".'
        )


def _tiles(c: Convolution, columns: int) -> dict[str, Tile]:
    """Return the possible tiles by name. The first is the default for a product of ``columns``."""
    tiles = {"narrow tile": NARROW}
    if not c.whole_vectors:
        return tiles
    wide = {"wide tile": WIDE}
    return wide | tiles if columns > NARROW.columns else tiles | wide


@lru_cache(maxsize=1024)
def forward(c: Convolution, bias: bool, relu: bool, precision: Precision = "float32") -> Plan:
    """Plan the forward pass, ``conv2d``.

    The plan uses the arrays inputs, weights, bias, outputs and scratch.

    Args:
        c: Shapes and options.
        bias: Whether to add a bias.
        relu: Whether to apply a ReLU.
        precision: Precision of the operands. With ``"float32"`` they are not rounded.

    Raises:
        ValueError: The arrays are too large for the kernels, the precision is unknown, or it is
            not ``"float32"`` for a convolution with groups.
    """
    if _is_float32(c, precision):
        return float32_plans.forward(c, bias, relu)
    if not prod(c.outputs):
        return Plan()
    _check(c, precision)
    options = {
        name: partial(_forward, c, bias, relu, precision, tile)
        for name, tile in _tiles(c, c.weights[3]).items()
    }
    kept = halo_plans.tile_of(c, precision, gradient=False)
    if kept is not None:
        halo = partial(halo_plans.plan, c, precision, False, bias, relu, kept)
        options = {"halo": halo} | options
    return offer(f"conv2d {c} bias={bias} relu={relu} {precision}", options)


def _forward(c: Convolution, bias: bool, relu: bool, precision: Any, tile: Tile) -> Plan:
    images, height, width, channels = c.inputs
    _, rows, columns, filters = c.outputs
    return Plan(
        (
            launch(
                convolution(precision, tile, c.whole_vectors, gradient=False),
                (blocks(images * rows * columns, tile.rows), blocks(filters, tile.columns)),
                *("inputs", "weights", "bias" if bias else "weights", "outputs"),
                *(images, height, width, channels, rows, columns, filters, *c.weights[:2]),
                *(*c.strides, *c.dilation_rate, *c.padding, filters if bias else 0, int(relu)),
            ),
        )
    )


def _masked(c: Convolution, start: int) -> Launch:
    """Make the launch that sets ``grad_outputs`` to 0 if ``outputs`` are not positive.

    The launch writes the result to scratch, from element ``start`` on.
    """
    size = prod(c.outputs)
    grid = (blocks(size, THREADS),)
    return launch(relu_mask, grid, "grad_outputs", "outputs", "scratch", size, start)


@lru_cache(maxsize=1024)
def grad_inputs(c: Convolution, relu: bool, precision: Precision = "float32") -> Plan:
    """Plan ``conv2d_grad_inputs``; see ``forward`` for the arguments and errors.

    The plan uses the arrays grad_outputs, outputs (with ``relu``), weights, grad_inputs and
    scratch.
    """
    if _is_float32(c, precision):
        return float32_plans.grad_inputs(c, relu)
    if not prod(c.inputs):
        return Plan()
    _check(c, precision)
    options = {
        name: partial(_grad_inputs, c, relu, precision, tile)
        for name, tile in _tiles(c, c.weights[2]).items()
    }
    kept = halo_plans.tile_of(c, precision, gradient=True)
    if kept is not None:
        halo = partial(halo_plans.plan, c, precision, True, False, relu, kept)
        options = {"halo": halo} | options
    return offer(f"conv2d_grad_inputs {c} relu={relu} {precision}", options)


def _grad_inputs(c: Convolution, relu: bool, precision: Any, tile: Tile) -> Plan:
    images, height, width, channels = c.inputs
    _, rows, columns, filters = c.outputs
    source, depth, first = "grad_outputs", filters, ()
    if not rows * columns:
        # There are no outputs, so there is nothing to sum. With depth 0 the kernel writes zeros and
        # reads no source. The source is empty, so pass `weights` instead.
        source, depth = "weights", 0
    elif relu:
        source, first = "scratch", (_masked(c, 0),)
    # The kernel splits the pixels of the inputs into phases of the strides. The first phase has the
    # maximum number of pixels, so it decides the grid.
    phases = tuple(min(c.strides[a], c.inputs[1 + a]) for a in (0, 1))
    pixels = images * blocks(height, c.strides[0]) * blocks(width, c.strides[1])
    second = launch(
        convolution(precision, tile, c.whole_vectors, gradient=True),
        (blocks(pixels, tile.rows), blocks(channels, tile.columns), phases[0] * phases[1]),
        *(source, "weights", "weights", "grad_inputs"),
        *(images, rows, columns, depth, height, width, channels, *c.weights[:2]),
        *(*c.strides, *c.dilation_rate, *c.padding, 0, 0),
    )
    return Plan((*first, second), prod(c.outputs) if first else 0)


@lru_cache(maxsize=1024)
def grad_weights(c: Convolution, relu: bool, precision: Precision = "float32") -> Plan:
    """Plan ``conv2d_grad_weights``; see ``forward`` for the arguments and errors.

    The plan uses the arrays inputs, grad_outputs, outputs (with ``relu``), grad_weights, grad_bias
    and scratch.
    """
    if _is_float32(c, precision):
        return float32_plans.grad_weights(c, relu)
    if not prod(c.weights):
        return Plan()
    _check(c, precision)
    options = {
        name: partial(_grad_weights, c, relu, precision, tile)
        for name, tile in _tiles(c, c.weights[3]).items()
    }
    kept = halo_plans.weights_tile_of(c, precision)
    if kept is not None:
        options = {"halo": partial(halo_plans.weights_plan, c, precision, relu, kept)} | options
    return offer(f"conv2d_grad_weights {c} relu={relu} {precision}", options)


def _grad_weights(c: Convolution, relu: bool, precision: Any, tile: Tile) -> Plan:
    images, rows, columns, filters = c.outputs
    lines, pixels = prod(c.weights[:3]), images * rows * columns
    tiles = blocks(lines, tile.rows), blocks(filters, tile.columns)
    part = lines * filters + filters
    slices, each = _slices(pixels, tiles[0] * tiles[1], part)
    # Scratch holds the partial sums of the slices if there are several slices, and after them the
    # masked gradient, from element `masked` on.
    masked = 4 * blocks(slices * part, 4) if slices > 1 else 0
    plan = []
    if relu and pixels:
        plan.append(_masked(c, masked))
    plan.append(
        launch(
            grad_weights_kernel(precision, tile, c.whole_vectors),
            (*tiles, slices),
            "inputs",
            "scratch" if relu and pixels else "grad_outputs",
            *(("scratch", "scratch") if slices > 1 else ("grad_weights", "grad_bias")),
            *(*c.inputs[1:], rows, columns, filters, c.weights[1]),
            *(*c.strides, *c.dilation_rate, *c.padding),
            *(lines, pixels, each, part),
            *(masked if relu and pixels else 0, lines * filters if slices > 1 else 0),
            *(*division(max(rows * columns, 1)), *division(max(columns, 1))),
        )
    )
    if slices > 1:
        plan.append(reduction(lines * filters, part, slices))
    return Plan(tuple(plan), masked + (prod(c.outputs) if relu else 0))


def _slices(pixels: int, tiles: int, part: int) -> tuple[int, int]:
    """Return the number of slices and the number of pixels per slice, a multiple of ``DEPTH``."""
    limit = min(
        *(BLOCKS // tiles, pixels // _MIN_SLICE_PIXELS),
        *(SCRATCH_FLOATS // part, _MAX_SLICES),
    )
    each = max(DEPTH * blocks(blocks(pixels, max(limit, 1)), DEPTH), DEPTH)
    return max(blocks(pixels, each), 1), each
