"""Tests that all configurations of a plan compute the same."""

import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels.cuda.conv import block_plans
from cnnforge_kernels.cuda.conv import plans as conv_plans
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.pooling import plans as pool_plans
from cnnforge_kernels.cuda.pooling.plans import Pooling
from cnnforge_kernels.cuda.runtime.simulated_driver import simulate

C = Convolution((2, 6, 5, 4), (3, 3, 4, 8), same=True)
DEPTHWISE = Convolution((2, 6, 5, 8), (3, 3, 1, 8), same=True, groups=8)
POOL = Pooling((2, 6, 6, 4), (2, 2), (2, 2), False)
POOLED = block_plans.pooled(C, (2, 2))


def gradients(c):
    return {"grad_weights": c.weights, "grad_bias": c.weights[3:]}


PLANS = {
    "forward": (conv_plans.forward(C, True, True), {"outputs": C.outputs}),
    "grad_inputs": (conv_plans.grad_inputs(C, True), {"grad_inputs": C.inputs}),
    "grad_weights": (conv_plans.grad_weights(C, True), gradients(C)),
    "depthwise": (conv_plans.forward(DEPTHWISE, True, True), {"outputs": DEPTHWISE.outputs}),
    "depthwise_grad_inputs": (
        conv_plans.grad_inputs(DEPTHWISE, False),
        {"grad_inputs": DEPTHWISE.inputs},
    ),
    "depthwise_grad_weights": (conv_plans.grad_weights(DEPTHWISE, False), gradients(DEPTHWISE)),
    "block": (block_plans.forward(C, (2, 2), True), {"outputs": POOLED, "argmax": POOLED}),
    "block_grad_inputs": (block_plans.grad_inputs(C, (2, 2)), {"grad_inputs": C.inputs}),
    "block_grad_weights": (block_plans.grad_weights(C, (2, 2)), gradients(C)),
    "max": (pool_plans.forward(POOL, True), {"outputs": POOL.outputs, "argmax": POOL.outputs}),
    "max_grad": (pool_plans.backward(POOL, True), {"grad_inputs": POOL.inputs}),
    "average": (pool_plans.forward(POOL, False), {"outputs": POOL.outputs}),
    "average_grad": (pool_plans.backward(POOL, False), {"grad_inputs": POOL.inputs}),
}


def shapes(name):
    if name.startswith(("max", "average")):
        return {"inputs": POOL.inputs, "grad_outputs": POOL.outputs, "argmax": POOL.outputs}
    c = DEPTHWISE if name.startswith("depthwise") else C
    above = POOLED if name.startswith("block") else c.outputs
    found = {"inputs": c.inputs, "weights": c.weights, "bias": c.weights[3:]}
    return found | {"grad_outputs": above, "outputs": c.outputs, "argmax": above}


@pytest.mark.parametrize("name", PLANS)
def test_every_configuration(name):
    plan, written = PLANS[name]
    random = np.random.default_rng(0)
    given = {}
    for array, shape in shapes(name).items():
        given[array] = random.standard_normal(shape).astype(np.float32)
        if array == "argmax":
            given[array] = random.integers(0, 4, shape).astype(np.uint8)
    results = []
    for make in plan.options.values():
        found = {
            array: np.full(shape, 254, np.uint8)
            if array == "argmax"
            else np.full(shape, np.nan, np.float32)
            for array, shape in written.items()
        }
        simulate(make(), **given | found)
        results.append(found)
    assert len(results) >= 2
    for other in results[1:]:
        for array, values in other.items():
            if array == "argmax":
                np.testing.assert_array_equal(values, results[0][array])
            else:
                assert_close(values, results[0][array], 72)
