"""Choose the kernels that compute convolution, bias, ReLU and max pooling as one op.

A plan (``runtime/plans.py``) lists the kernels to run for one shape, with their grids and
arguments. The pooling windows do not overlap (the stride equals the window), and all of them lie
inside the outputs of the convolution (VALID). No kernel writes the outputs of the convolution
before pooling to memory.

The forward pass writes an argmax of one byte for each pooled value: the index of the cell of the
pooling window that holds the maximum. The backward pass reads the argmax to find the output of the
convolution that gets the gradient.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from math import prod

from cnnforge_kernels.cuda.conv.direct.forward import NO_ARGMAX, Direct
from cnnforge_kernels.cuda.conv.direct.inputs_tiles import DirectInputs
from cnnforge_kernels.cuda.conv.direct.weights_tiles import DirectWeights
from cnnforge_kernels.cuda.conv.gather import Gather
from cnnforge_kernels.cuda.conv.problem import Convolution
from cnnforge_kernels.cuda.conv.scatter import Scatter, scatter_inputs
from cnnforge_kernels.cuda.conv.shared_plans import (
    THREADS,
    direct_grad_inputs,
    direct_grad_weights,
    gathered_grad_weights,
    launch_direct,
)
from cnnforge_kernels.cuda.runtime.plans import Pair, Plan, Shape, blocks, launch, offer

# Number of threads that fill a large device: about eight blocks of 128 per multiprocessor.
_MANY_THREADS = 1 << 17


def pooled(c: Convolution, pool_size: Pair) -> Shape:
    """Return the shape of the pooled outputs, (N, PH, PW, F)."""
    images, rows, columns, filters = c.outputs
    return images, rows // pool_size[0], columns // pool_size[1], filters


def _check(c: Convolution, pool_size: Pair) -> None:
    c.check()
    if pool_size[0] * pool_size[1] > NO_ARGMAX:
        raise ValueError(
            f"`pool_size` must have at most {NO_ARGMAX} cells, because an argmax is one byte. "
            f"Received: {pool_size}"
        )


def _too_large(window: Pair) -> ValueError:
    return ValueError(
        f"A window of {window[0]} x {window[1]} is too large for the fused kernels: its weights do "
        "not fit into shared memory. Use conv2d and max_pool2d instead."
    )


@lru_cache(maxsize=1024)
def forward(c: Convolution, pool_size: Pair, bias: bool) -> Plan:
    """Plan the forward pass.

    The plan uses the arrays inputs, weights, bias, outputs and argmax.

    Raises:
        ValueError: The arrays or the window are too large for the kernels.
    """
    shape = pooled(c, pool_size)
    if not prod(shape):
        return Plan()
    _check(c, pool_size)
    specialization = Direct(**c.constants, **c.group, bias=bias, relu=True, pool=pool_size)
    if not specialization.possible:
        raise _too_large(specialization.window)
    problem = f"conv_block {c} pool_size={pool_size} bias={bias}"
    options = {
        f"threads {threads}": partial(_direct, replace(specialization, threads=threads), c, shape)
        for threads in THREADS
    }
    paired = specialization.paired
    if paired is not None:
        two = {
            f"two windows, {name}": partial(_direct, replace(paired, threads=threads), c, shape)
            for threads, name in zip(THREADS, options, strict=True)
        }
        # Two pooling windows per thread halve the number of threads. This configuration is the
        # default only if the remaining threads fill a large device.
        many = prod(shape[:3]) * specialization.filter_blocks >= _MANY_THREADS
        options = two | options if many else options | two
    return offer(problem, options)


def _direct(specialization: Direct, c: Convolution, shape: Shape) -> Plan:
    return Plan(
        (
            launch_direct(
                specialization, c, shape[1:3], "bias" if specialization.bias else "weights"
            ),
        )
    )


@lru_cache(maxsize=1024)
def grad_inputs(c: Convolution, pool_size: Pair) -> Plan:
    """Plan the gradient of the inputs.

    The plan uses the arrays grad_outputs, argmax, weights and grad_inputs.

    Raises:
        ValueError: The arrays or the window are too large for the kernels.
    """
    if not prod(c.inputs):
        return Plan()
    _check(c, pool_size)
    constants = {**c.constants, **c.group, "pool": pool_size}
    problem = f"conv_block_grad_inputs {c} pool_size={pool_size}"
    names = "grad_outputs", "grad_outputs", "argmax", "weights", "grad_inputs"
    options = direct_grad_inputs(DirectInputs(**constants), c, pooled(c, pool_size)[1:3], names)
    specialization = Scatter(**constants)
    if specialization.possible:
        for threads in THREADS:
            options[f"threads {threads}"] = partial(
                _scatter, replace(specialization, threads=threads), c
            )
    if not options:
        raise _too_large(specialization.window)
    return offer(problem, options)


def _scatter(specialization: Scatter, c: Convolution) -> Plan:
    pixels = prod(c.inputs[:3])
    grid = (
        blocks(pixels, specialization.threads // specialization.lanes),
        specialization.channel_blocks * c.groups,
    )
    rows, columns = pooled(c, specialization.pool)[1:3]
    return Plan(
        (
            launch(
                scatter_inputs(specialization),
                grid,
                *("grad_outputs", "argmax", "weights", "grad_inputs"),
                *c.inputs[1:3],
                *(rows, columns),
                *c.padding,
                pixels,
            ),
        )
    )


@lru_cache(maxsize=1024)
def grad_weights(c: Convolution, pool_size: Pair) -> Plan:
    """Plan the gradients of the weights and the bias.

    The plan uses the arrays inputs, grad_outputs, argmax, grad_weights, grad_bias and scratch.

    Raises:
        ValueError: The arrays are too large for the kernels.
    """
    if not prod(c.weights):
        return Plan()
    _check(c, pool_size)
    names = ("inputs", "grad_outputs", "grad_outputs", "argmax")
    problem = f"conv_block_grad_weights {c} pool_size={pool_size}"
    constants = {**c.constants, **c.group, "pool": pool_size}
    options = direct_grad_weights(DirectWeights(**constants), c, pooled(c, pool_size), names)
    options |= gathered_grad_weights(Gather(**constants), c, pooled(c, pool_size), names)
    return offer(problem, options)
