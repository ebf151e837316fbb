"""Tests of the tensor-core kernels on a real device, against the oracle: ``pytest -m gpu``."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.codegen.jit import SIMULATED, cuda
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.tensor_cores.plans import check_capability

pytestmark = pytest.mark.gpu

# inputs, weights, strides, padding, dilation_rate
PROBLEMS = (
    ((8, 28, 28, 64), (3, 3, 64, 128), (1, 1), "same", (1, 1)),
    ((7, 6, 8, 64), (3, 3, 64, 96), (1, 1), "same", (1, 1)),
    ((3, 20, 37, 112), (2, 5, 112, 60), (1, 1), "valid", (2, 3)),
    ((4, 29, 27, 32), (5, 3, 32, 36), (2, 3), "same", (1, 1)),
    ((2, 31, 33, 3), (3, 3, 3, 37), (1, 1), "valid", (2, 1)),
    ((64, 28, 28, 8), (3, 3, 8, 16), (1, 1), "valid", (1, 1)),
    ((16, 14, 14, 256), (1, 1, 256, 64), (2, 2), "valid", (1, 1)),
    ((1, 1, 1, 5), (3, 3, 5, 7), (1, 1), "same", (1, 1)),
)


def _load(name):
    specification = importlib.util.spec_from_file_location(
        name, Path(__file__).with_name(f"{name}.py")
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def named(problem):
    """Add "large" to the name of a large problem, which takes too long under compute-sanitizer."""
    products = math.prod(problem[0][:3]) * math.prod(problem[1])
    return f"{'large ' * (products > 1e7)}{problem}"


def terms(count):
    """K of the tolerance. Tensor cores truncate sums: see ``_terms`` in gpu/parity.py."""
    return max(count, (count // 16) ** 2)


@pytest.fixture(scope="module")
def rounding():
    if SIMULATED:
        pytest.skip("the CUDA simulator is on")
    try:
        check_capability(driver.driver().capability(0), "tf32")
    except CudaUnavailableError as error:
        pytest.skip(f"no CUDA device: {error}")
    emulator = _load("warp_emulator")
    return {"tf32": emulator.round_tf32, "bfloat16": emulator.round_bfloat16}


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=named)
def test_on_a_device(problem, precision, relu, rounding):
    inputs, weights, strides, padding, dilation = problem
    options = {"strides": strides, "dilation_rate": dilation}
    generator = np.random.default_rng(0)

    def random(*shape):
        return generator.standard_normal(shape, np.float32)

    def rounded(values):
        return rounding[precision](values.view(np.uint32)).view(np.float32)

    def empty(*shape):
        return cuda.to_device(np.full(shape, np.nan, np.float32))

    x, w, b = random(*inputs), random(*weights), random(weights[3])
    same = padding == "same"
    expected = reference.conv2d(rounded(x), rounded(w), b, same=same, relu=relu, **options)
    g, results = random(*expected.shape), []
    options |= {"precision": precision, "padding": padding}
    # Twice: the same arguments give the same bits.
    for _ in range(2):
        y, gx, gw = empty(*expected.shape), empty(*inputs), empty(*weights)
        dx, dw, db, dg = (cuda.to_device(v) for v in (x, w, b, g))
        kernels.conv2d(dx, dw, db, activation="relu" if relu else None, out=y, **options)
        mask = {"outputs": y} if relu else {}
        kernels.conv2d_grad_inputs(dg, dw, inputs, out=gx, **options, **mask)
        kernels.conv2d_grad_weights(dx, dg, weights, out=gw, **options, **mask)
        results.append([v.copy_to_host() for v in (y, gx, gw)])
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
    y, gx, gw = results[0]
    gradients = reference.conv2d_gradients(
        *(rounded(v) for v in (x, w, g)),
        outputs=y if relu else None,
        same=same,
        strides=strides,
        dilation_rate=dilation,
    )
    assert_close(y, expected, terms(math.prod(weights[:3])))
    assert_close(gx, gradients[0], terms(math.prod(weights[:2]) * weights[3]))
    assert_close(gw, gradients[1], terms(math.prod(expected.shape[:3])))
