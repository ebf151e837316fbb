"""2D convolution and its gradients on a device: which kernels run for which shape.

Depthwise convolutions have kernels of their own. With few channels all three passes are direct,
with weights or gradients in shared memory; all else is an implicit matrix product, whose tile
follows from its size. A plan is made once for each shape and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from typing import Any

from cnnforge_kernels.cuda.conv.depthwise import Depthwise, depthwise, depthwise_backward
from cnnforge_kernels.cuda.conv.direct.forward import Direct, direct
from cnnforge_kernels.cuda.conv.direct.inputs import direct_inputs
from cnnforge_kernels.cuda.conv.direct.inputs_tiles import DirectInputs
from cnnforge_kernels.cuda.conv.direct.inputs_tiles import fitting as fitting_inputs
from cnnforge_kernels.cuda.conv.direct.weights import direct_weights
from cnnforge_kernels.cuda.conv.direct.weights_tiles import MOST_SLICES, DirectWeights, fitting
from cnnforge_kernels.cuda.conv.gather import Gather, gather_weights
from cnnforge_kernels.cuda.conv.gemm.forward import Gemm, Tile, gemm
from cnnforge_kernels.cuda.conv.gemm.weights import GemmWeights, WeightsTile, gemm_weights
from cnnforge_kernels.cuda.conv.problem import Convolution as Convolution
from cnnforge_kernels.cuda.conv.reduce import reduction
from cnnforge_kernels.cuda.runtime.plans import (
    BLOCKS,
    Launch,
    Plan,
    Shape,
    blocks,
    launch,
    offer,
    slices,
)

# Most weights of a tap for a direct forward pass.
_DIRECT_WEIGHTS = 16 * 32
# Of a large device.
_MULTIPROCESSORS = 132
# Most channels for a direct gradient of the inputs.
_MOST_CHANNELS = 32
# From large to small; a larger one is taken where it still makes enough blocks.
TILES = (
    Tile(128, 128, 8, 8),
    Tile(128, 64, 8, 4),
    Tile(64, 64, 8, 4),
    Tile(64, 32, 4, 4),
    Tile(128, 16, 4, 4),
    Tile(128, 8, 4, 4),
    Tile(32, 16, 4, 4),
)
WEIGHTS_TILES = (
    WeightsTile(128, 64, 8, 4),
    WeightsTile(64, 64, 8, 4, pixels=16),
    WeightsTile(64, 32, 4, 4, copies=2, pixels=16),
    WeightsTile(32, 8, 4, 4, copies=8, pixels=32),
)
# Threads of a block of the other kernels: those it is written for, and others to choose from.
THREADS = (128, 64, 256)
# About one for each multiprocessor of a large device.
_ENOUGH_BLOCKS = 128


@lru_cache(maxsize=1024)
def forward(c: Convolution, bias: bool, relu: bool) -> Plan:
    """The plan of ``conv2d``; arrays: inputs, weights, bias, outputs.

    Raises:
        ValueError: too large for the kernels.
    """
    outputs = c.outputs
    if not prod(outputs):
        return Plan()
    c.check()
    problem = f"conv2d {c} bias={bias} relu={relu}"
    if c.is_depthwise:
        kind = Depthwise(**c.constants, **c.depthwise, bias=bias, relu=relu)
        return offer(
            problem,
            {f"threads {it}": partial(_depthwise, replace(kind, threads=it), c) for it in THREADS},
        )
    usual = _tile(prod(outputs[:3]), outputs[3] // c.groups)
    options = {}
    for tile in _usual_first(usual, TILES):
        kind = Gemm(**c.constants, **c.group, tile=tile, bias=bias, relu=relu)
        options[f"product {tile.name}"] = partial(_gemm, kind, c, ("inputs", "weights", "outputs"))
    few = Direct(**c.constants, **c.group, bias=bias, relu=relu)
    if few.channels * few.filters <= _DIRECT_WEIGHTS and few.possible:
        tiles = c.inputs[0] * blocks(outputs[1], few.cells[0]) * blocks(outputs[2], few.cells[1])
        threads = tiles * few.filter_blocks * few.groups
        # Those of the fullest multiprocessor: where there are few blocks, halves spread better.
        usual = min(THREADS[:2], key=lambda it: it * blocks(threads, it * _MULTIPROCESSORS))
        direct = {
            f"direct, threads {it}": partial(_direct, replace(few, threads=it), c)
            for it in _usual_first(usual, THREADS)
        }
        options = direct | options
    return offer(problem, options)


def _usual_first(usual: Any, every: Iterable[Any]) -> list[Any]:
    return [usual, *(it for it in every if it != usual)]


def _depthwise(kind: Depthwise, c: Convolution) -> Plan:
    outputs = c.outputs
    tasks = outputs[0] * outputs[1] * blocks(outputs[2], kind.cells)
    tasks *= outputs[3] // kind.vector
    return Plan(
        (
            launch(
                depthwise(kind),
                (blocks(tasks, kind.threads),),
                *("inputs", "weights", "bias" if kind.bias else "weights", "outputs"),
                *c.sizes,
                tasks,
            ),
        )
    )


def _direct(kind: Direct, c: Convolution) -> Plan:
    return Plan((launch_direct(kind, c, c.outputs[1:3], "bias" if kind.bias else "weights"),))


def launch_direct(kind: Direct, c: Convolution, rows_columns: Shape, bias: str) -> Launch:
    """The launch of a direct kernel whose outputs have so many rows and columns."""
    rows, columns = rows_columns
    down, across = rows, blocks(columns, kind.windows)
    winners = "winners"
    if kind.pool is None:
        down, across = blocks(rows, kind.cells[0]), blocks(columns, kind.cells[1])
        winners = "outputs"
    tiles = c.inputs[0] * down * across
    return launch(
        direct(kind),
        (blocks(tiles * kind.lanes, kind.threads), kind.filter_blocks // kind.lanes * kind.groups),
        *("inputs", "weights", bias, "outputs", winners),
        *c.inputs[1:3],
        *(rows, columns, down, across),
        *c.padding,
        tiles,
    )


def _tile(rows: int, columns: int) -> Tile:
    for tile in TILES[:-1]:
        count = blocks(rows, tile.rows) * blocks(columns, tile.columns)
        if columns > tile.columns // 2 and count >= _ENOUGH_BLOCKS:
            return tile
    return TILES[-1]


def _gemm(kind: Gemm, c: Convolution, names: tuple[str, str, str]) -> Plan:
    """``names`` of source, mask and target."""
    source, mask, target = names
    small, large = c.outputs, c.inputs
    if not kind.backward:
        small, large = large, small
    phases = kind.phases
    pixels = c.inputs[0] * blocks(large[1], phases[0]) * blocks(large[2], phases[1])
    columns = large[3] // c.groups
    return Plan(
        (
            launch(
                gemm(kind),
                (
                    blocks(pixels, kind.tile.rows),
                    blocks(columns, kind.tile.columns),
                    c.groups * phases[0] * phases[1],
                ),
                *(source, mask, "weights", "bias" if kind.bias else "weights", target),
                c.inputs[0],
                *small[1:3],
                *large[1:3],
                *c.padding,
            ),
        )
    )


@lru_cache(maxsize=1024)
def grad_inputs(c: Convolution, relu: bool) -> Plan:
    """The plan of ``conv2d_grad_inputs``; arrays: grad_outputs, outputs, weights, grad_inputs.

    Raises:
        ValueError: too large for the kernels.
    """
    if not prod(c.inputs):
        return Plan()
    c.check()
    problem, mask = f"conv2d_grad_inputs {c} relu={relu}", "outputs" if relu else "grad_outputs"
    options = {}
    if c.is_depthwise:
        kind = Depthwise(**c.constants, **c.depthwise, relu=relu, backward=True)
        for it in THREADS:
            options[f"threads {it}"] = partial(
                _depthwise_backward, replace(kind, threads=it), c, mask
            )
        return offer(problem, options)
    direct = DirectInputs(**c.constants, **c.group, relu=relu)
    names = "grad_outputs", mask, "grad_outputs", "weights", "grad_inputs"
    options |= inputs_directly(direct, c, c.outputs[1:3], names)
    phases = c.strides[0] * c.strides[1]
    usual = _tile(prod(c.inputs[:3]) // phases, c.weights[2])
    for tile in _usual_first(usual, TILES):
        kind = Gemm(**c.constants, **c.group, tile=tile, relu=relu, backward=True)
        names = "grad_outputs", mask, "grad_inputs"
        options[f"product {tile.name}"] = partial(_gemm, kind, c, names)
    return offer(problem, options)


def inputs_directly(
    kind: DirectInputs, c: Convolution, rows_columns: Shape, names: tuple[str, ...]
) -> dict[str, Callable[[], Plan]]:
    """The plans of a direct gradient of the inputs, by configuration; none for many channels.

    Args:
        kind: the kernel's constants.
        c: the convolution.
        rows_columns: of the upstream gradient.
        names: of upstream gradient, mask, winners, weights and the gradient.
    """
    if kind.channels > _MOST_CHANNELS:
        return {}
    # Cells of strides[0] x strides[1] inputs, counted from the padding's beginning.
    cells = [
        (c.inputs[1 + a] - 1 + c.padding[a]) // c.strides[a] - c.padding[a] // c.strides[a] + 1
        for a in (0, 1)
    ]
    fitted = fitting_inputs(kind, c.inputs[0] * c.groups, *cells)
    if fitted is None:
        return {}
    name = f"direct {fitted.area}, filters {fitted.chunk}, shares {fitted.shares}"
    down = blocks(cells[0], fitted.area[0])
    across = blocks(cells[1], fitted.area[1] * fitted.cells)

    def plan() -> Plan:
        return Plan(
            (
                launch(
                    direct_inputs(fitted),
                    (c.inputs[0] * down * across, c.groups),
                    *names,
                    *c.inputs[1:3],
                    *rows_columns,
                    *c.padding,
                    *(down, across),
                ),
            )
        )

    return {name: plan}


def _depthwise_backward(kind: Depthwise, c: Convolution, mask: str) -> Plan:
    tasks = prod(c.inputs) // kind.vector
    return Plan(
        (
            launch(
                depthwise_backward(kind),
                (blocks(tasks, kind.threads),),
                *("grad_outputs", mask, "weights", "grad_inputs"),
                *c.sizes,
                tasks,
            ),
        )
    )


def _weights_tile(rows: int, filters: int) -> WeightsTile:
    for tile in WEIGHTS_TILES[:-1]:
        if rows > tile.rows // 2 and filters > tile.columns // 2:
            return tile
    return WEIGHTS_TILES[-1]


@lru_cache(maxsize=1024)
def grad_weights(c: Convolution, relu: bool) -> Plan:
    """The plan of ``conv2d_grad_weights``.

    Arrays: inputs, grad_outputs, outputs (with ``relu``), grad_weights, grad_bias, scratch.

    Raises:
        ValueError: too large for the kernels.
    """
    if not prod(c.weights):
        return Plan()
    c.check()
    mask = "outputs" if relu else "grad_outputs"
    problem = f"conv2d_grad_weights {c} relu={relu}"
    if c.is_depthwise:
        kind = Gather(**c.constants, **c.group, relu=relu)
        names = "inputs", "grad_outputs", mask, "grad_outputs"
        return offer(problem, gathered(kind, c, c.outputs, names))
    kind = DirectWeights(**c.constants, **c.group, relu=relu)
    names = "inputs", "grad_outputs", mask, "grad_outputs"
    options = directly(kind, c, c.outputs, names)
    usual = _weights_tile(prod(c.weights[:3]), c.weights[3] // c.groups)
    for tile in _usual_first(usual, WEIGHTS_TILES):
        kind = GemmWeights(**c.constants, **c.group, tile=tile, relu=relu)
        options[f"product {tile.name}"] = partial(_gemm_weights, kind, c, mask)
    return offer(problem, options)


def _gemm_weights(kind: GemmWeights, c: Convolution, mask: str) -> Plan:
    rows, filters, tile = prod(c.weights[:3]), c.weights[3] // c.groups, kind.tile
    pixels, floats = prod(c.outputs[:3]), prod(c.weights) + c.weights[3]
    tiles = blocks(rows, tile.rows) * blocks(filters, tile.columns)
    count, each = slices(pixels, tiles * c.groups, floats, 8 * tile.pixels)
    first = launch(
        gemm_weights(kind),
        (tiles, count, c.groups),
        *("inputs", "grad_outputs", mask, "scratch"),
        *c.sizes,
        *(pixels, each, floats),
    )
    return Plan((first, reduction(prod(c.weights), floats, count)), count * floats)


def directly(
    kind: DirectWeights, c: Convolution, grads: Shape, names: tuple[str, ...]
) -> dict[str, Callable[[], Plan]]:
    """The plans of a direct gradient of the weights, by configuration; none for many channels.

    The arguments are those of ``gathered``.
    """
    fitted = fitting(kind, *grads[:3])
    if fitted is None:
        return {}
    return {f"direct {fitted.area}": partial(_direct_weights, fitted, c, grads, names)}


def _direct_weights(
    kind: DirectWeights, c: Convolution, grads: Shape, names: tuple[str, ...]
) -> Plan:
    down, across = (blocks(grads[1 + a], kind.area[a]) for a in (0, 1))
    tiles, floats = c.inputs[0] * down * across, prod(c.weights) + c.weights[3]
    count, each = slices(tiles, BLOCKS // MOST_SLICES * c.groups, floats, 1)
    first = launch(
        direct_weights(kind),
        (c.groups, count),
        *(*names, "scratch"),
        *c.inputs[1:3],
        *grads[1:3],
        *c.padding,
        *(down, across, tiles, each, floats),
    )
    return Plan((first, reduction(prod(c.weights), floats, count)), count * floats)


def gathered(
    kind: Gather, c: Convolution, grads: Shape, names: tuple[str, ...]
) -> dict[str, Callable[[], Plan]]:
    """The plans of gradients that are gathered filter by filter, by configuration.

    Args:
        kind: the kernel's constants.
        c: the convolution.
        grads: shape of the upstream gradient.
        names: of inputs, upstream gradient, mask and winners.
    """
    return {
        f"threads {it}": partial(_gathered, replace(kind, threads=it), c, grads, names)
        for it in THREADS
    }


def _gathered(kind: Gather, c: Convolution, grads: Shape, names: tuple[str, ...]) -> Plan:
    pixels, floats = prod(grads[:3]), prod(c.weights) + c.weights[3]
    count, each = slices(pixels, kind.blocks, floats, 8 * kind.threads // kind.lanes)
    first = launch(
        gather_weights(kind),
        (kind.blocks, count),
        *(*names, "scratch"),
        *c.inputs[1:3],
        *grads[1:3],
        *c.padding,
        *(pixels, each, floats),
    )
    return Plan((first, reduction(prod(c.weights), floats, count)), count * floats)
