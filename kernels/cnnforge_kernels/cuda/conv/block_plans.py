"""Convolution, bias, ReLU and max pooling as one op on a device: which kernels run.

The pooling windows do not overlap (the stride is the window) and lie within the convolution's
outputs (VALID). Neither pass ever writes or reads a map that is not pooled: forward leaves, for
each pooled value, the cell of its window that won, as one byte, and backward finds its way by it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from math import prod

from cnnforge_kernels.cuda.conv.direct.forward import NO_WINNER, Direct
from cnnforge_kernels.cuda.conv.direct.inputs_tiles import DirectInputs
from cnnforge_kernels.cuda.conv.direct.weights_tiles import DirectWeights
from cnnforge_kernels.cuda.conv.gather import Gather
from cnnforge_kernels.cuda.conv.plans import (
    THREADS,
    Convolution,
    directly,
    gathered,
    inputs_directly,
    launch_direct,
)
from cnnforge_kernels.cuda.conv.scatter import Scatter, scatter_inputs
from cnnforge_kernels.cuda.runtime.plans import Pair, Plan, Shape, blocks, launch, offer

# Eight blocks of 128 threads for each multiprocessor of a large device.
_MANY_THREADS = 1 << 17


def pooled(c: Convolution, pool_size: Pair) -> Shape:
    """The shape of the op's outputs, (N, PH, PW, F)."""
    images, rows, columns, filters = c.outputs
    return images, rows // pool_size[0], columns // pool_size[1], filters


def _check(c: Convolution, pool_size: Pair) -> None:
    c.check()
    if pool_size[0] * pool_size[1] > NO_WINNER:
        raise ValueError(
            f"`pool_size` must have at most {NO_WINNER} cells, which a byte can count. "
            f"Received: {pool_size}"
        )


def _too_large(window: Pair) -> ValueError:
    return ValueError(
        f"A window of {window[0]} x {window[1]} is too large for the fused kernels: its weights do "
        "not fit into shared memory. Use conv2d and max_pool2d instead."
    )


@lru_cache(maxsize=1024)
def forward(c: Convolution, pool_size: Pair, bias: bool) -> Plan:
    """The plan of ``conv_block``; arrays: inputs, weights, bias, outputs, winners.

    Raises:
        ValueError: too large for the kernels.
    """
    shape = pooled(c, pool_size)
    if not prod(shape):
        return Plan()
    _check(c, pool_size)
    kind = Direct(**c.constants, **c.group, bias=bias, relu=True, pool=pool_size)
    if not kind.possible:
        raise _too_large(kind.window)
    problem = f"conv_block {c} pool_size={pool_size} bias={bias}"
    options = {
        f"threads {it}": partial(_direct, replace(kind, threads=it), c, shape) for it in THREADS
    }
    paired = kind.paired
    if paired is not None:
        two = {
            f"two windows, {name}": partial(_direct, replace(paired, threads=it), c, shape)
            for it, name in zip(THREADS, options, strict=True)
        }
        # Half as many threads still fill a large device.
        many = prod(shape[:3]) * kind.filter_blocks >= _MANY_THREADS
        options = two | options if many else options | two
    return offer(problem, options)


def _direct(kind: Direct, c: Convolution, shape: Shape) -> Plan:
    return Plan((launch_direct(kind, c, shape[1:3], "bias" if kind.bias else "weights"),))


@lru_cache(maxsize=1024)
def grad_inputs(c: Convolution, pool_size: Pair) -> Plan:
    """The plan of the inputs' gradient; arrays: grad_outputs, winners, weights, grad_inputs.

    Raises:
        ValueError: too large for the kernels.
    """
    if not prod(c.inputs):
        return Plan()
    _check(c, pool_size)
    constants = {**c.constants, **c.group, "pool": pool_size}
    problem = f"conv_block_grad_inputs {c} pool_size={pool_size}"
    names = "grad_outputs", "grad_outputs", "winners", "weights", "grad_inputs"
    options = inputs_directly(DirectInputs(**constants), c, pooled(c, pool_size)[1:3], names)
    kind = Scatter(**constants)
    if kind.possible:
        for it in THREADS:
            options[f"threads {it}"] = partial(_scatter, replace(kind, threads=it), c)
    if not options:
        raise _too_large(kind.window)
    return offer(problem, options)


def _scatter(kind: Scatter, c: Convolution) -> Plan:
    pixels = prod(c.inputs[:3])
    grid = blocks(pixels, kind.threads // kind.lanes), kind.channel_blocks * c.groups
    rows, columns = pooled(c, kind.pool)[1:3]
    return Plan(
        (
            launch(
                scatter_inputs(kind),
                grid,
                *("grad_outputs", "winners", "weights", "grad_inputs"),
                *c.inputs[1:3],
                *(rows, columns),
                *c.padding,
                pixels,
            ),
        )
    )


@lru_cache(maxsize=1024)
def grad_weights(c: Convolution, pool_size: Pair) -> Plan:
    """The plan of the gradients of weights and bias.

    Arrays: inputs, grad_outputs, winners, grad_weights, grad_bias, scratch.

    Raises:
        ValueError: too large for the kernels.
    """
    if not prod(c.weights):
        return Plan()
    _check(c, pool_size)
    names = ("inputs", "grad_outputs", "grad_outputs", "winners")
    problem = f"conv_block_grad_weights {c} pool_size={pool_size}"
    constants = {**c.constants, **c.group, "pool": pool_size}
    options = directly(DirectWeights(**constants), c, pooled(c, pool_size), names)
    options |= gathered(Gather(**constants), c, pooled(c, pool_size), names)
    return offer(problem, options)
