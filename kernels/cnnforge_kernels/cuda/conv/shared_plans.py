"""Plan the direct kernels and the kernel of ``gather.py``.

The ops ``conv2d`` (``plans.py``) and ``conv_block`` (``block_plans.py``) share these functions. A
plan lists the kernels to run for one shape (``runtime/plans.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod

from cnnforge_kernels.cuda.conv.direct.forward import Direct, direct
from cnnforge_kernels.cuda.conv.direct.inputs import direct_inputs
from cnnforge_kernels.cuda.conv.direct.inputs_tiles import DirectInputs, with_inputs_tile
from cnnforge_kernels.cuda.conv.direct.weights import direct_weights
from cnnforge_kernels.cuda.conv.direct.weights_tiles import (
    MAX_SLICES,
    DirectWeights,
    with_weights_tile,
)
from cnnforge_kernels.cuda.conv.gather import Gather, gather_weights
from cnnforge_kernels.cuda.conv.problem import Convolution
from cnnforge_kernels.cuda.conv.reduce import reduction
from cnnforge_kernels.cuda.runtime.plans import BLOCKS, Launch, Plan, Shape, blocks, launch, slices

# Above this number of channels per group there is no direct gradient of the inputs.
_MAX_DIRECT_CHANNELS = 32
# Numbers of threads per block for kernels that have no tile: the default, then the alternatives.
THREADS = (128, 64, 256)


def launch_direct(specialization: Direct, c: Convolution, rows_columns: Shape, bias: str) -> Launch:
    """Make the launch of the direct forward kernel.

    ``rows_columns`` are the rows and columns of the outputs. ``bias`` is the name of the array that
    the kernel reads as its bias.
    """
    rows, columns = rows_columns
    down, across = rows, blocks(columns, specialization.windows)
    argmax = "argmax"
    if specialization.pool is None:
        down, across = (
            blocks(rows, specialization.cells[0]),
            blocks(columns, specialization.cells[1]),
        )
        argmax = "outputs"
    tiles = c.inputs[0] * down * across
    return launch(
        direct(specialization),
        (
            blocks(tiles * specialization.lanes, specialization.threads),
            specialization.filter_blocks // specialization.lanes * specialization.groups,
        ),
        *("inputs", "weights", bias, "outputs", argmax),
        *c.inputs[1:3],
        *(rows, columns, down, across),
        *c.padding,
        tiles,
    )


def direct_grad_inputs(
    specialization: DirectInputs, c: Convolution, rows_columns: Shape, names: tuple[str, ...]
) -> dict[str, Callable[[], Plan]]:
    """Return the possible configurations of the direct gradient of the inputs.

    Args:
        specialization: Constants of the kernel.
        c: The convolution.
        rows_columns: Number of rows and columns of the upstream gradient.
        names: Names of the arrays: upstream gradient, mask, argmax, weights, and gradient of the
            inputs.

    Returns:
        For each configuration, by name, a function that makes its plan; empty if there are too many
        channels or no tile fits.
    """
    if specialization.channels > _MAX_DIRECT_CHANNELS:
        return {}
    # Number of cells that contain inputs, along each axis. A cell is a block of strides[0] x
    # strides[1] pixels, and the first cell begins where the padding begins.
    cells = [
        (c.inputs[1 + a] - 1 + c.padding[a]) // c.strides[a] - c.padding[a] // c.strides[a] + 1
        for a in (0, 1)
    ]
    fitted = with_inputs_tile(specialization, c.inputs[0] * c.groups, *cells)
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


def direct_grad_weights(
    specialization: DirectWeights, c: Convolution, grads: Shape, names: tuple[str, ...]
) -> dict[str, Callable[[], Plan]]:
    """Return the possible configurations of the direct gradients of the weights and the bias.

    The arguments and the result are those of ``gathered_grad_weights``, but the result is empty if
    no tile fits.
    """
    fitted = with_weights_tile(specialization, *grads[:3])
    if fitted is None:
        return {}
    return {f"direct {fitted.area}": partial(_direct_weights, fitted, c, grads, names)}


def _direct_weights(
    specialization: DirectWeights, c: Convolution, grads: Shape, names: tuple[str, ...]
) -> Plan:
    down, across = (blocks(grads[1 + a], specialization.area[a]) for a in (0, 1))
    tiles, floats = c.inputs[0] * down * across, prod(c.weights) + c.weights[3]
    count, each = slices(tiles, BLOCKS // MAX_SLICES * c.groups, floats, 1)
    first = launch(
        direct_weights(specialization),
        (c.groups, count),
        *(*names, "scratch"),
        *c.inputs[1:3],
        *grads[1:3],
        *c.padding,
        *(down, across, tiles, each, floats),
    )
    return Plan((first, reduction(prod(c.weights), floats, count)), count * floats)


def gathered_grad_weights(
    specialization: Gather, c: Convolution, grads: Shape, names: tuple[str, ...]
) -> dict[str, Callable[[], Plan]]:
    """Return the configurations of the kernel of ``gather.py``, for the gradients of the weights.

    Args:
        specialization: Constants of the kernel.
        c: The convolution.
        grads: Shape of the upstream gradient.
        names: Names of the arrays: inputs, upstream gradient, mask, argmax.

    Returns:
        For each configuration, by name, a function that makes its plan.
    """
    return {
        f"threads {threads}": partial(
            _gathered, replace(specialization, threads=threads), c, grads, names
        )
        for threads in THREADS
    }


def _gathered(specialization: Gather, c: Convolution, grads: Shape, names: tuple[str, ...]) -> Plan:
    pixels, floats = prod(grads[:3]), prod(c.weights) + c.weights[3]
    count, each = slices(
        pixels, specialization.blocks, floats, 8 * specialization.threads // specialization.lanes
    )
    first = launch(
        gather_weights(specialization),
        (specialization.blocks, count),
        *(*names, "scratch"),
        *c.inputs[1:3],
        *grads[1:3],
        *c.padding,
        *(pixels, each, floats),
    )
    return Plan((first, reduction(prod(c.weights), floats, count)), count * floats)
