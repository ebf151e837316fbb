"""Checks that run plans of tensor-core kernels in the warp emulator and compare with the oracle."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from cnnforge.testing import assert_close, error_bounds
from cnnforge_kernels import reference
from cnnforge_kernels.cuda.tensor_cores import convolution, fragments, plans
from cnnforge_kernels.cuda.tensor_cores import weights as tensor_core_weights
from cnnforge_kernels.cuda.tensor_cores.halo import convolution as halo_convolution
from cnnforge_kernels.cuda.tensor_cores.halo import fragments as halo_fragments
from cnnforge_kernels.cuda.tensor_cores.halo import packing
from cnnforge_kernels.cuda.tensor_cores.halo import weights as halo_weights


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


emulator = _load("warp_emulator")
MODULES = (
    convolution,
    tensor_core_weights,
    fragments,
    halo_convolution,
    halo_fragments,
    halo_weights,
    packing,
)
ROUND = {"tf32": emulator.round_tf32, "bfloat16": emulator.round_bfloat16}
# Relative error of one rounding: 11 and 8 bits of significand.
UNIT = {"tf32": 2.0**-11, "bfloat16": 2.0**-8}


def rounded(values, precision):
    return ROUND[precision](values.view(np.uint32)).view(np.float32)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def broken_rows(launch):
    """Whether eight consecutive pixels of a tile in shared memory may be in two of its rows."""
    if "halo" not in launch.kernel.name:
        return False
    weights = "grad_weights" in launch.kernel.name
    names = (halo_weights if weights else halo_convolution).PARAMETERS
    return launch.arguments[5 + names.index("tile_columns")] % 8 != 0


def execute(plan, **arrays):
    """Run the kernels of a plan in the emulator. Returns the counts of instructions."""
    arrays["scratch"] = np.full(max(plan.scratch, 1), np.nan, np.float32)
    counts = {}
    with emulator.lockstep(*MODULES) as run:
        for launch in plan.launches:
            values = []
            for argument in launch.arguments:
                if isinstance(argument, str):
                    argument = arrays[argument]
                values.append(argument)
            if launch.kernel.name.startswith("reduce_slices"):
                # An ordinary kernel, which other tests run in Numba's simulator.
                parts, weights, bias, size, part, splits = values
                total = parts[: splits * part].reshape(splits, part).sum(0)
                weights.reshape(-1)[:], bias[:] = total[:size], total[size:]
            else:
                counts |= run(launch.kernel, launch.grid, *values, conflicts=broken_rows(launch))
    return counts


def poisoned(*shape):
    return np.full(shape, np.nan, np.float32)


def options(c):
    return {
        "strides": c.strides,
        "same": c.same,
        "dilation_rate": c.dilation_rate,
    }


def check_forward(c, precision, bias=True, relu=False):
    x, w = random(*c.inputs), random(*c.weights, seed=1)
    b = random(c.weights[3]) if bias else None
    outputs = poisoned(*c.outputs)
    counts = execute(
        plans.forward(c, bias, relu, precision), inputs=x, weights=w, bias=b, outputs=outputs
    )
    operands = rounded(x, precision), rounded(w, precision)
    terms = math.prod(c.weights[:3])
    expected = reference.conv2d(*operands, b, relu=relu, **options(c))
    assert_close(outputs, expected, terms)
    # Each operand is rounded once. The error of that adds to the error of the sum.
    exact = reference.conv2d(x, w, b, relu=relu, **options(c))
    sizes = reference.conv2d(abs(x), abs(w), None, **options(c))
    unit = UNIT[precision]
    allowed = (2 * unit + unit**2) * sizes + error_bounds(exact, terms)[1]
    assert (abs(outputs - exact) <= allowed).all()
    return counts


def check_gradients(c, precision, relu=False):
    x, w = random(*c.inputs), random(*c.weights, seed=1)
    g, y = random(*c.outputs, seed=2), random(*c.outputs, seed=3)
    gx, gw, gb = (poisoned(*v.shape) for v in (x, w, w[0, 0, 0]))
    masks = {"outputs": y} if relu else {}
    first = execute(
        plans.grad_inputs(c, relu, precision), grad_outputs=g, weights=w, grad_inputs=gx, **masks
    )
    second = execute(
        plans.grad_weights(c, relu, precision),
        **{"inputs": x, "grad_outputs": g, "grad_weights": gw, "grad_bias": gb},
        **masks,
    )
    operands = (rounded(v, precision) for v in (x, w, g))
    expected = reference.conv2d_gradients(*operands, outputs=masks.get("outputs"), **options(c))
    exact = reference.conv2d_gradients(x, w, g, outputs=masks.get("outputs"), **options(c))
    assert_close(gx, expected[0], math.prod(c.weights[:2]) * c.weights[3])
    pixels = math.prod(c.outputs[:3])
    assert_close(gw, expected[1], pixels)
    # The gradient of the bias is a float32 sum of values that are not rounded.
    assert_close(gb, exact[2], pixels)
    return first, second
