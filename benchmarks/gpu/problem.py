"""Make the arrays of a row (a benchmark case), and the calls that compute it with our kernels.

A ``Call`` holds the name of a function of ``cnnforge_kernels.cuda.launch`` and its arguments, so
both a device and its replacement in a dry run can execute it. The arguments include the arrays for
the results. A call allocates no memory except the temporary memory for partial sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu.rows import Row, Shape

POOL = (2, 2)


@dataclass(frozen=True)
class Call:
    """Call of a function of ``cnnforge_kernels.cuda.launch``.

    Attributes:
        function: Name of the function.
        arguments: Positional arguments.
        options: Tuples (name, value) of the keyword arguments.
    """

    function: str
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()


def given(row: Row) -> dict[str, Shape]:
    """Return the shapes of the arrays that a row reads, by name. All are float32."""
    found = {"inputs": row.inputs}
    if row.weights:
        found["weights"] = row.weights
    if row.op == "block":
        found["bias"] = (row.filters,)
    if row.which != "forward":
        found["grad_outputs"] = row.outputs
    return found


def results(row: Row) -> dict[str, Shape]:
    """Return the shapes of the results of a row, by name. All are float32 except ``argmax``."""
    if row.which == "forward":
        found = {"outputs": row.outputs}
        return found | ({"argmax": row.outputs} if row.op in ("block", "max") else {})
    if row.op in ("max", "average") or row.which == "grad_inputs":
        return {"grad_inputs": row.inputs}
    gradients = {"grad_weights": row.weights, "grad_bias": (row.filters,)}
    if row.which == "grad_weights":
        return gradients
    found = {"outputs": row.outputs, "argmax": row.outputs} | gradients
    return found | ({"grad_inputs": row.inputs} if row.grad_inputs else {})


def written(row: Row) -> dict[str, Shape]:
    """Return the shapes of all arrays that the calls of a row write, by name.

    These are the arrays of ``results``. For the gradient of max pooling, they also include the
    outputs and the argmax of the forward pass, which the calls of ``prepare`` write.
    """
    needed = row.op == "max" and row.which == "backward"
    extra = {"outputs": row.outputs, "argmax": row.outputs} if needed else {}
    return results(row) | extra


def values(row: Row, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random values for the arrays that a row reads, by name.

    The values are exact in the precision of the row: tensor cores round their operands, and this
    does not change the values. So the float64 reference can use the same values.
    """
    random = np.random.default_rng([seed, *row.inputs, *row.weights])
    found = {}
    for name, shape in given(row).items():
        array = random.standard_normal(shape, np.float32)
        # Number of bits to set to zero: the fraction has 23 bits in float32, 10 in tf32 and 7 in
        # bfloat16.
        dropped = {"float32": 0, "tf32": 13, "bfloat16": 16}[row.precision]
        if dropped:
            array.view(np.uint32)[...] &= np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
        found[name] = array
    return found


def prepare(row: Row, arrays: Mapping[str, Any]) -> list[Call]:
    """Return the calls that must run before a row is timed.

    Only the gradient of max pooling needs such a call: the forward pass, which computes the argmax.
    """
    if row.op == "max" and row.which == "backward":
        return [_pool(row, arrays, forward=True)]
    return []


def calls(row: Row, arrays: Mapping[str, Any]) -> list[Call]:
    """Return the calls of a row that are timed.

    Args:
        row: The row.
        arrays: Device arrays with the names and shapes of ``given`` and ``written``.
    """
    if row.op in ("max", "average"):
        return [_pool(row, arrays, forward=row.which == "forward")]
    if row.op == "block":
        return _block(row, arrays)
    return [_convolution(row, arrays)]


def _pool(row: Row, a: Mapping[str, Any], *, forward: bool) -> Call:
    window = POOL, POOL, False
    maximum = row.op == "max"
    name = f"{row.op}_pool2d_{'forward' if forward else 'grad_inputs'}"
    if forward:
        made = (a["outputs"], *([a["argmax"]] if maximum else []))
        return Call(name, (a["inputs"], *window, *made))
    argmax = [a["argmax"]] if maximum else []
    return Call(name, (a["inputs"], *argmax, *window, a["grad_outputs"], a["grad_inputs"]))


def _convolution(row: Row, a: Mapping[str, Any]) -> Call:
    x, w, name = a["inputs"], a["weights"], "conv2d"
    options: tuple[Any, ...] = ((row.stride,) * 2, True, (1, 1), 1, False)
    precision: tuple[tuple[str, Any], ...] = (("precision", row.precision),)
    if row.op == "depthwise":
        name, options, precision = "depthwise_conv2d", (*options[:3], options[4]), ()
    if row.which == "forward":
        return Call(f"{name}_forward", (x, w, None, *options, a["outputs"]), precision)
    g = a["grad_outputs"]
    if row.which == "grad_inputs":
        # The third argument is the outputs. They are read only with a ReLU, which is not used here,
        # so pass any array.
        arguments = (x, w, g, *options, g, a["grad_inputs"])
        return Call(f"{name}_grad_inputs", arguments, precision)
    made = a["grad_weights"], a["grad_bias"]
    return Call(f"{name}_grad_weights", (x, w, made[1], g, *options, g, *made), precision)


def _block(row: Row, a: Mapping[str, Any]) -> list[Call]:
    x, w, b = a["inputs"], a["weights"], a["bias"]
    options = (row.stride,) * 2, True, (1, 1), 1, POOL
    forward = Call("conv_block_forward", (x, w, b, *options, a["outputs"], a["argmax"]))
    if row.which == "forward":
        return [forward]
    k, g = a["argmax"], a["grad_outputs"]
    made = a["grad_weights"], a["grad_bias"]
    found = [forward, Call("conv_block_grad_weights", (x, w, b, k, *options, g, *made))]
    if row.grad_inputs:
        arguments = (x, w, k, *options, g, a["grad_inputs"])
        found.append(Call("conv_block_grad_inputs", arguments))
    return found
