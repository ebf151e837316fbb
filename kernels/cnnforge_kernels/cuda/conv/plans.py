"""Choose the kernels that compute 2D convolution and its gradients.

A plan (``runtime/plans.py``) lists the kernels to run for one shape, with their grids and
arguments. It is made once per shape and kept. Depthwise convolutions have separate kernels. With
few channels all three passes use direct kernels, which keep weights or gradients in shared memory.
Every other convolution is computed as an implicit matrix product. The size of the product decides
how many results a block computes (its tile).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from typing import Any

from cnnforge_kernels.cuda.conv.depthwise import Depthwise, depthwise, depthwise_backward
from cnnforge_kernels.cuda.conv.direct.forward import Direct
from cnnforge_kernels.cuda.conv.direct.inputs_tiles import DirectInputs
from cnnforge_kernels.cuda.conv.direct.weights_tiles import DirectWeights
from cnnforge_kernels.cuda.conv.gather import Gather
from cnnforge_kernels.cuda.conv.gemm.forward import Gemm, Tile, gemm
from cnnforge_kernels.cuda.conv.gemm.weights import GemmWeights, WeightsTile, gemm_weights
from cnnforge_kernels.cuda.conv.problem import Convolution as Convolution
from cnnforge_kernels.cuda.conv.reduce import reduction
from cnnforge_kernels.cuda.conv.shared_plans import (
    THREADS,
    direct_grad_inputs,
    direct_grad_weights,
    gathered_grad_weights,
    launch_direct,
)
from cnnforge_kernels.cuda.runtime.plans import (
    MULTIPROCESSORS,
    Plan,
    blocks,
    launch,
    offer,
    slices,
)

# Above this number of weights per tap and group, the forward pass has no direct kernel.
_MAX_DIRECT_WEIGHTS = 16 * 32
# Tiles of the matrix product, from large to small. The default is the first one that gives at least
# `_MIN_BLOCKS` blocks.
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
# Minimum number of blocks of the default tile: about one per multiprocessor of a large device. With
# fewer blocks, some multiprocessors would have no work.
_MIN_BLOCKS = 128


@lru_cache(maxsize=1024)
def forward(c: Convolution, bias: bool, relu: bool) -> Plan:
    """Plan the forward pass, ``conv2d``.

    The plan uses the arrays inputs, weights, bias and outputs.

    Raises:
        ValueError: The arrays are too large for the kernels.
    """
    outputs = c.outputs
    if not prod(outputs):
        return Plan()
    c.check()
    problem = f"conv2d {c} bias={bias} relu={relu}"
    if c.is_depthwise:
        specialization = Depthwise(**c.constants, **c.depthwise, bias=bias, relu=relu)
        return offer(
            problem,
            {
                f"threads {threads}": partial(
                    _depthwise, replace(specialization, threads=threads), c
                )
                for threads in THREADS
            },
        )
    usual = _tile(prod(outputs[:3]), outputs[3] // c.groups)
    options = {}
    for tile in _usual_first(usual, TILES):
        specialization = Gemm(**c.constants, **c.group, tile=tile, bias=bias, relu=relu)
        options[f"product {tile.name}"] = partial(
            _gemm, specialization, c, ("inputs", "weights", "outputs")
        )
    few = Direct(**c.constants, **c.group, bias=bias, relu=relu)
    if few.channels * few.filters <= _MAX_DIRECT_WEIGHTS and few.possible:
        tiles = c.inputs[0] * blocks(outputs[1], few.cells[0]) * blocks(outputs[2], few.cells[1])
        total = tiles * few.filter_blocks * few.groups
        # The default is the block size that gives the fullest multiprocessor the minimum number of
        # threads. If there are few blocks, smaller blocks divide more evenly among the
        # multiprocessors.
        usual = min(
            THREADS[:2], key=lambda threads: threads * blocks(total, threads * MULTIPROCESSORS)
        )
        direct = {
            f"direct, threads {threads}": partial(_direct, replace(few, threads=threads), c)
            for threads in _usual_first(usual, THREADS)
        }
        options = direct | options
    return offer(problem, options)


def _usual_first(usual: Any, every: Iterable[Any]) -> list[Any]:
    return [usual, *(value for value in every if value != usual)]


def _depthwise(specialization: Depthwise, c: Convolution) -> Plan:
    outputs = c.outputs
    tasks = outputs[0] * outputs[1] * blocks(outputs[2], specialization.cells)
    tasks *= outputs[3] // specialization.vector
    return Plan(
        (
            launch(
                depthwise(specialization),
                (blocks(tasks, specialization.threads),),
                *("inputs", "weights", "bias" if specialization.bias else "weights", "outputs"),
                *c.sizes,
                tasks,
            ),
        )
    )


def _direct(specialization: Direct, c: Convolution) -> Plan:
    return Plan(
        (
            launch_direct(
                specialization, c, c.outputs[1:3], "bias" if specialization.bias else "weights"
            ),
        )
    )


def _tile(rows: int, columns: int) -> Tile:
    for tile in TILES[:-1]:
        count = blocks(rows, tile.rows) * blocks(columns, tile.columns)
        if columns > tile.columns // 2 and count >= _MIN_BLOCKS:
            return tile
    return TILES[-1]


def _gemm(specialization: Gemm, c: Convolution, names: tuple[str, str, str]) -> Plan:
    """Plan an implicit matrix product. ``names`` are its source, mask and target arrays."""
    source, mask, target = names
    small, large = c.outputs, c.inputs
    if not specialization.backward:
        small, large = large, small
    phases = specialization.phases
    pixels = c.inputs[0] * blocks(large[1], phases[0]) * blocks(large[2], phases[1])
    columns = large[3] // c.groups
    return Plan(
        (
            launch(
                gemm(specialization),
                (
                    blocks(pixels, specialization.tile.rows),
                    blocks(columns, specialization.tile.columns),
                    c.groups * phases[0] * phases[1],
                ),
                *(source, mask, "weights", "bias" if specialization.bias else "weights", target),
                c.inputs[0],
                *small[1:3],
                *large[1:3],
                *c.padding,
            ),
        )
    )


@lru_cache(maxsize=1024)
def grad_inputs(c: Convolution, relu: bool) -> Plan:
    """Plan the gradient of the inputs, ``conv2d_grad_inputs``.

    The plan uses the arrays grad_outputs, outputs (with ``relu``), weights and grad_inputs.

    Raises:
        ValueError: The arrays are too large for the kernels.
    """
    if not prod(c.inputs):
        return Plan()
    c.check()
    problem, mask = f"conv2d_grad_inputs {c} relu={relu}", "outputs" if relu else "grad_outputs"
    options = {}
    if c.is_depthwise:
        specialization = Depthwise(**c.constants, **c.depthwise, relu=relu, backward=True)
        for threads in THREADS:
            options[f"threads {threads}"] = partial(
                _depthwise_backward, replace(specialization, threads=threads), c, mask
            )
        return offer(problem, options)
    direct = DirectInputs(**c.constants, **c.group, relu=relu)
    names = "grad_outputs", mask, "grad_outputs", "weights", "grad_inputs"
    options |= direct_grad_inputs(direct, c, c.outputs[1:3], names)
    phases = c.strides[0] * c.strides[1]
    usual = _tile(prod(c.inputs[:3]) // phases, c.weights[2])
    for tile in _usual_first(usual, TILES):
        specialization = Gemm(**c.constants, **c.group, tile=tile, relu=relu, backward=True)
        names = "grad_outputs", mask, "grad_inputs"
        options[f"product {tile.name}"] = partial(_gemm, specialization, c, names)
    return offer(problem, options)


def _depthwise_backward(specialization: Depthwise, c: Convolution, mask: str) -> Plan:
    tasks = prod(c.inputs) // specialization.vector
    return Plan(
        (
            launch(
                depthwise_backward(specialization),
                (blocks(tasks, specialization.threads),),
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
    """Plan the gradients of the weights and the bias, ``conv2d_grad_weights``.

    The plan uses the arrays inputs, grad_outputs, outputs (with ``relu``), grad_weights, grad_bias
    and scratch.

    Raises:
        ValueError: The arrays are too large for the kernels.
    """
    if not prod(c.weights):
        return Plan()
    c.check()
    mask = "outputs" if relu else "grad_outputs"
    problem = f"conv2d_grad_weights {c} relu={relu}"
    if c.is_depthwise:
        specialization = Gather(**c.constants, **c.group, relu=relu)
        names = "inputs", "grad_outputs", mask, "grad_outputs"
        return offer(problem, gathered_grad_weights(specialization, c, c.outputs, names))
    specialization = DirectWeights(**c.constants, **c.group, relu=relu)
    names = "inputs", "grad_outputs", mask, "grad_outputs"
    options = direct_grad_weights(specialization, c, c.outputs, names)
    usual = _weights_tile(prod(c.weights[:3]), c.weights[3] // c.groups)
    for tile in _usual_first(usual, WEIGHTS_TILES):
        specialization = GemmWeights(**c.constants, **c.group, tile=tile, relu=relu)
        options[f"product {tile.name}"] = partial(_gemm_weights, specialization, c, mask)
    return offer(problem, options)


def _gemm_weights(specialization: GemmWeights, c: Convolution, mask: str) -> Plan:
    rows, filters, tile = prod(c.weights[:3]), c.weights[3] // c.groups, specialization.tile
    pixels, floats = prod(c.outputs[:3]), prod(c.weights) + c.weights[3]
    tiles = blocks(rows, tile.rows) * blocks(filters, tile.columns)
    count, each = slices(pixels, tiles * c.groups, floats, 8 * tile.pixels)
    first = launch(
        gemm_weights(specialization),
        (tiles, count, c.groups),
        *("inputs", "grad_outputs", mask, "scratch"),
        *c.sizes,
        *(pixels, each, floats),
    )
    return Plan((first, reduction(prod(c.weights), floats, count)), count * floats)
