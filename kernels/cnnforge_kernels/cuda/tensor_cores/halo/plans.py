"""Make the plans of the halo kernels, and decide for which shapes these kernels are used.

A halo kernel keeps a tile of the convolved array, with a halo as wide as the window reaches, in
shared memory. A plan (``runtime/plans.py``) lists the kernels to run for one shape.
"""

from __future__ import annotations

from math import prod
from typing import Any

from cnnforge_kernels.cuda.conv.problem import Convolution
from cnnforge_kernels.cuda.conv.reduce import reduction
from cnnforge_kernels.cuda.runtime.plans import SCRATCH_FLOATS, Plan, Shape, blocks, launch
from cnnforge_kernels.cuda.tensor_cores.halo.convolution import halo_convolution
from cnnforge_kernels.cuda.tensor_cores.halo.fragments import CHANNELS, FILTERS, SIZES, TAPS
from cnnforge_kernels.cuda.tensor_cores.halo.layout import (
    COLUMNS,
    PIXELS,
    STEP,
    THREADS,
    Halo,
    exact_halo,
    halo,
    reciprocal,
    terms,
)
from cnnforge_kernels.cuda.tensor_cores.halo.packing import pack
from cnnforge_kernels.cuda.tensor_cores.halo.weights import halo_grad_weights

# Minimum share of needed products among all products of a tile. Below this share the general kernel
# (`tensor_cores/convolution.py`) should be faster. This is so although the general kernel issues
# three times as many instructions per product, including those of the copies.
_MIN_SHARE = 0.4
# Number of blocks of a gradient of the weights: about one for each multiprocessor of a large
# device. The number decides the order of the sums. It is a constant, because a result must not
# depend on the device that computed it.
_BLOCKS = 128


def _sides(c: Convolution, gradient: bool) -> tuple[Shape, Shape]:
    return (c.outputs, c.inputs) if gradient else (c.inputs, c.outputs)


def _reach(c: Convolution) -> tuple[int, int]:
    return tuple((c.weights[a] - 1) * c.dilation_rate[a] for a in (0, 1))


def _lines(tile: Halo) -> tuple[int, ...]:
    """Return seven numbers of a kernel for a tile, from ``line_rows`` to ``by_tile_columns``."""
    rows, columns = tile.rows + tile.reach[0], tile.columns + tile.reach[1]
    return (
        *(rows, columns, tile.lines, reciprocal(rows * columns), reciprocal(columns)),
        *(reciprocal(tile.rows * tile.columns), reciprocal(tile.columns)),
    )


def _share(count: int, each: int) -> float:
    """Return the share that ``count`` items fill of their tiles, which have ``each`` places."""
    return count / (blocks(count, each) * each)


def tile_of(c: Convolution, precision: Any, gradient: bool) -> Halo | None:
    """Find the tile of a convolution without groups, or of the gradient of its inputs.

    Args:
        c: Shapes and options.
        precision: Precision of the operands.
        gradient: Whether it is the gradient of the inputs; otherwise it is the forward pass.

    Returns:
        The tile; ``None`` if ``plan`` should not be used for the convolution.
    """
    source, target = _sides(c, gradient)
    if c.strides != (1, 1) or not c.whole_vectors or not prod(source):
        return None
    tile = halo(*target[:3], _reach(c))
    if tile is None:
        return None
    share = prod(target[:3]) / (prod(tile.grid(*target[:3])) * PIXELS)
    share *= _share(source[3], terms(precision == "bfloat16")) * _share(target[3], COLUMNS)
    return tile if share >= _MIN_SHARE else None


def plan(
    c: Convolution, precision: Any, gradient: bool, bias: bool, relu: bool, tile: Halo
) -> Plan:
    """Plan a convolution, or the gradient of its inputs.

    The plan of the forward pass uses the arrays inputs, weights, bias, outputs and scratch. The
    plan of the gradient uses the arrays grad_outputs, outputs (with ``relu``), weights, grad_inputs
    and scratch.

    Args:
        c: Shapes and options.
        precision: Precision of the operands.
        gradient: Whether it is the gradient of the inputs; otherwise it is the forward pass.
        bias: Whether the forward pass adds a bias.
        relu: Whether to apply a ReLU, or to mask the gradient by its outputs.
        tile: Result of ``tile_of``.
    """
    source, target = _sides(c, gradient)
    reach = _reach(c)
    grid = tile.grid(*target[:3])
    chunks = blocks(source[3], terms(precision == "bfloat16"))
    column_tiles, taps = blocks(target[3], COLUMNS), prod(c.weights[:2])
    words = column_tiles * chunks * taps * STEP
    top, left = c.padding
    if gradient:
        top, left = reach[0] - top, reach[1] - left
    names = "inputs", "inputs", "scratch", "bias" if bias else "inputs", "outputs"
    if gradient:
        mask = "outputs" if relu else "grad_outputs"
        names = "grad_outputs", mask, "scratch", "grad_outputs", "grad_inputs"
    first = launch(
        pack(precision, gradient),
        (blocks(words, THREADS),),
        *("weights", "scratch"),
        *(words, taps, chunks, *c.weights[2:]),
    )
    second = launch(
        halo_convolution(precision, gradient and relu),
        (prod(grid) * column_tiles,),
        *names,
        *(*source, *target[1:], column_tiles),
        *(tile.images, tile.rows, tile.columns, *grid[1:]),
        *(*c.weights[:2], *c.dilation_rate, top, left),
        chunks,
        *_lines(tile),
        *(target[3] if bias else 0, int(relu and not gradient)),
    )
    return Plan((first, second), words)


def weights_tile_of(c: Convolution, precision: Any) -> Halo | None:
    """Find the tile of a gradient of the weights; ``None`` if another kernel should be used."""
    if c.strides != (1, 1) or not c.whole_vectors or not prod(c.outputs):
        return None
    sizes = SIZES[precision]
    tile = exact_halo(*c.outputs[:3], _reach(c), sizes.pixels, sizes.lines, sizes.step)
    if tile is None:
        return None
    share = tile.images * tile.rows * tile.columns / sizes.pixels
    share *= _share(prod(c.weights[:2]), TAPS)
    share *= _share(c.weights[2], CHANNELS) * _share(c.weights[3], FILTERS)
    return tile if share >= _MIN_SHARE else None


def weights_plan(c: Convolution, precision: Any, relu: bool, tile: Halo) -> Plan:
    """Plan a gradient of the weights.

    The plan uses the arrays inputs, grad_outputs, outputs (with ``relu``), grad_weights, grad_bias
    and scratch.

    Args:
        c: Shapes and options.
        precision: Precision of the operands.
        relu: Whether to mask the gradient by the outputs.
        tile: Result of ``weights_tile_of``.
    """
    grid, taps, filters = tile.grid(*c.outputs[:3]), prod(c.weights[:2]), c.weights[3]
    channel_tiles, filter_tiles = blocks(c.weights[2], CHANNELS), blocks(filters, FILTERS)
    across = blocks(taps, TAPS) * channel_tiles * filter_tiles
    tiles, lines = prod(grid), taps * c.weights[2]
    part = lines * filters + filters
    each = blocks(tiles, max(min(_BLOCKS // across, SCRATCH_FLOATS // part), 1))
    slices = blocks(tiles, each)
    names = ("scratch", "scratch") if slices > 1 else ("grad_weights", "grad_bias")
    first = launch(
        halo_grad_weights(precision, relu),
        (across, slices),
        *("inputs", "grad_outputs", "outputs" if relu else "grad_outputs", *names),
        *(*c.inputs, *c.outputs[1:], channel_tiles, filter_tiles),
        *(tile.images, tile.rows, tile.columns, *grid[1:], tiles, each),
        *(taps, c.weights[1], *c.dilation_rate, *c.padding),
        *_lines(tile),
        *(part, lines * filters if slices > 1 else 0),
    )
    if slices == 1:
        return Plan((first,))
    return Plan((first, reduction(lines * filters, part, slices)), slices * part)
