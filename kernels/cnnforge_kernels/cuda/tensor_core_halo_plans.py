"""Which convolutions keep their source's tile in shared memory, and how they are launched."""

from __future__ import annotations

from math import prod
from typing import Any

from cnnforge_kernels.cuda.convolution import Convolution
from cnnforge_kernels.cuda.plans import Plan, Shape, blocks, launch
from cnnforge_kernels.cuda.tensor_core_halo import halo_convolution
from cnnforge_kernels.cuda.tensor_core_halo_maps import (
    COLUMNS,
    PIXELS,
    STEP,
    THREADS,
    halo,
    reciprocal,
    terms,
)
from cnnforge_kernels.cuda.tensor_core_pack import pack

# The general kernel issues about five times as many instructions for a product. Where a smaller
# share of a tile's products is asked for, it is expected to be ahead.
_LEAST_SHARE = 0.4


def _sides(c: Convolution, gradient: bool) -> tuple[Shape, Shape]:
    return (c.outputs, c.inputs) if gradient else (c.inputs, c.outputs)


def _reach(c: Convolution) -> tuple[int, int]:
    return tuple((c.weights[a] - 1) * c.dilation_rate[a] for a in (0, 1))


def fits(c: Convolution, precision: Any, gradient: bool) -> bool:
    """Whether a convolution without groups, or the gradient of its inputs, is one for ``plan``.

    Args:
        c: shapes and options.
        precision: of the operands.
        gradient: of the inputs; else the forward pass.
    """
    source, target = _sides(c, gradient)
    vector = c.aligned and source[3] % 4 == 0 and target[3] % 4 == 0
    if c.strides != (1, 1) or not vector or not prod(source):
        return False
    tile = halo(*target[:3], _reach(c))
    if tile is None:
        return False
    each = terms(precision == "bfloat16")
    share = prod(target[:3]) / (prod(tile.grid(*target[:3])) * PIXELS)
    share *= source[3] / (blocks(source[3], each) * each)
    share *= target[3] / (blocks(target[3], COLUMNS) * COLUMNS)
    return share >= _LEAST_SHARE


def plan(c: Convolution, precision: Any, gradient: bool, bias: bool, relu: bool) -> Plan:
    """The plan of a convolution that ``fits``, or of the gradient of its inputs.

    Args:
        c: shapes and options.
        precision: of the operands.
        gradient: arrays: grad_outputs, outputs (with ``relu``), weights, grad_inputs, scratch; else
            inputs, weights, bias, outputs, scratch.
        bias: whether there is one, in the forward pass.
        relu: apply a ReLU, or mask the gradient by its outputs.
    """
    source, target = _sides(c, gradient)
    reach = _reach(c)
    tile = halo(*target[:3], reach)
    assert tile is not None
    grid = tile.grid(*target[:3])
    line_rows, line_columns = tile.rows + reach[0], tile.columns + reach[1]
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
        *(chunks, line_rows, line_columns, tile.lines),
        *(reciprocal(line_rows * line_columns), reciprocal(line_columns)),
        *(reciprocal(tile.rows * tile.columns), reciprocal(tile.columns)),
        *(target[3] if bias else 0, int(relu and not gradient)),
    )
    return Plan((first, second), words)
