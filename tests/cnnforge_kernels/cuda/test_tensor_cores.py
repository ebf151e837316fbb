"""Tests of the tensor-core kernels in the warp emulator, against the oracle."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.conv import plans as conv_plans
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.tensor_cores import convolution, fragments, layout, plans
from cnnforge_kernels.cuda.tensor_cores import weights as tensor_core_weights


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checks = _load("tensor_core_checks")
emulator, MODULES = checks.emulator, checks.MODULES
check_forward, check_gradients = checks.check_forward, checks.check_gradients
execute, poisoned, random, rounded = checks.execute, checks.poisoned, checks.random, checks.rounded


PROBLEMS = {
    # More than one tile in each direction, and a remainder in each.
    "wide": ((3, 8, 9, 20), (3, 3, 20, 72), (1, 1), True, (1, 1)),
    "narrow": ((1, 12, 13, 36), (3, 2, 36, 24), (1, 1), False, (1, 1)),
    "odd channels": ((2, 7, 9, 5), (2, 3, 5, 37), (1, 1), True, (1, 1)),
    "strides": ((2, 9, 11, 8), (3, 4, 8, 36), (2, 3), True, (1, 1)),
    "strides above the window": ((2, 9, 8, 4), (1, 2, 4, 8), (3, 3), False, (1, 1)),
    "dilation": ((1, 11, 12, 4), (3, 2, 4, 4), (1, 1), True, (2, 3)),
    "one pixel": ((1, 1, 1, 3), (3, 3, 3, 2), (1, 1), True, (1, 1)),
    "window above the image": ((2, 2, 3, 4), (5, 5, 4, 4), (2, 1), True, (1, 1)),
}
# The halo kernels compute this one: test_tensor_cores_halo.py.
HALO = (2, 16, 16, 64), (3, 3, 64, 64), (1, 1), True, (1, 1)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_conv2d(name, precision):
    counts = check_forward(Convolution(*PROBLEMS[name]), precision, bias=True, relu=name != "wide")
    assert counts[f"mma_{precision}"]
    assert counts["load_matrices"]


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients(name, precision):
    first, second = check_gradients(Convolution(*PROBLEMS[name]), precision, relu=name == "strides")
    assert first[f"mma_{precision}"]
    assert first["load_matrices"]
    assert second[f"mma_{precision}"]


def test_misaligned_arrays_are_copied_word_by_word():
    c = Convolution((1, 4, 4, 8), (3, 3, 8, 8), same=True, aligned=False)
    counts = check_forward(c, "tf32", bias=False)
    assert counts["copy_async_4"]
    assert "copy_async_16" not in counts


def test_several_splits_of_the_pixels():
    c = Convolution((2, 17, 17, 4), (1, 1, 4, 4))
    assert plans.grad_weights(c, False, "tf32").launches[0].grid[2] == 2
    check_gradients(c, "tf32")
    check_gradients(c, "tf32", relu=True)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_shape(data):
    def pair(low, high):
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    window, strides, dilation = pair(1, 4), pair(1, 3), pair(1, 3)
    if max(strides) > 1:
        dilation = (1, 1)
    channels, filters = pair(1, 20)
    same = data.draw(st.booleans())
    sizes = pair(1, 7)
    if not same:
        sizes = tuple(s + (w - 1) * d for s, w, d in zip(sizes, window, dilation, strict=True))
    inputs = (data.draw(st.integers(1, 3)), *sizes, channels)
    precision = data.draw(st.sampled_from(["tf32", "bfloat16"]))
    c = Convolution(inputs, (*window, channels, filters), strides, same, dilation)
    check_forward(c, precision, bias=data.draw(st.booleans()), relu=data.draw(st.booleans()))
    check_gradients(c, precision, relu=data.draw(st.booleans()))


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_non_finite_values_stay(precision):
    x = np.zeros((1, 4, 4, 4), np.float32)
    x[0, 0, 0, 0], x[0, 3, 3, 1] = np.nan, np.inf
    w = np.ones((1, 1, 4, 4), np.float32)
    outputs = poisoned(1, 4, 4, 4)
    c = Convolution(x.shape, w.shape)
    execute(plans.forward(c, False, True, precision), inputs=x, weights=w, outputs=outputs)
    np.testing.assert_array_equal(outputs, reference.conv2d(x, w, relu=True))


def test_empty_sums_are_zero():
    c = Convolution((2, 2, 2, 4), (3, 3, 4, 8))
    assert c.outputs == (2, 0, 0, 8)
    assert plans.forward(c, True, False, "tf32").launches == ()
    check_gradients(c, "tf32")
    check_gradients(c, "tf32", relu=True)


def test_float32_is_exact():
    c = Convolution((1, 4, 4, 8), (3, 3, 8, 8))
    assert plans.forward(c, True, True) is conv_plans.forward(c, True, True)
    assert plans.grad_inputs(c, True, "float32") is conv_plans.grad_inputs(c, True)
    assert plans.grad_weights(c, True, "float32") is conv_plans.grad_weights(c, True)
    assert plans.forward(c, True, True, "tf32") is not conv_plans.forward(c, True, True)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_groups_are_an_error(precision):
    c = Convolution((1, 4, 4, 8), (3, 3, 4, 8), groups=2)
    assert plans.forward(c, True, True) is conv_plans.forward(c, True, True)
    for plan in (
        lambda: plans.forward(c, True, True, precision),
        lambda: plans.grad_inputs(c, True, precision),
        lambda: plans.grad_weights(c, True, precision),
    ):
        with pytest.raises(
            ValueError,
            match=r"needs a convolution without groups. Received: groups=2. Use precision=",
        ):
            plan()


def test_an_unknown_precision_is_an_error():
    with pytest.raises(ValueError, match=r"`precision` must be .* Received: 'fp16'"):
        plans.forward(Convolution((1, 4, 4, 8), (3, 3, 8, 8)), True, True, "fp16")


def test_older_devices_are_an_error():
    plans.check_capability((8, 0), "tf32")
    plans.check_capability((7, 5), "float32")
    with pytest.raises(CudaUnavailableError, match=r"8.0 or later .* Received: 7.5. Use"):
        plans.check_capability((7, 5), "tf32")


def test_every_kernel_has_its_own_name():
    kernels = plans.all_kernels()
    assert len({kernel.name for kernel in kernels}) == len(kernels) == 31
    used = {
        launch.kernel
        for shape in (*PROBLEMS.values(), HALO)
        for precision in ("tf32", "bfloat16")
        for launch in (
            *plans.forward(Convolution(*shape), True, True, precision).launches,
            *plans.grad_inputs(Convolution(*shape), True, precision).launches,
            *plans.grad_weights(Convolution(*shape), True, precision).launches,
        )
        if not launch.kernel.name.startswith("reduce_slices")
    }
    # Without a ReLU, the gradients have no mask.
    c = Convolution(*HALO)
    for precision in ("tf32", "bfloat16"):
        for plan in (plans.grad_inputs, plans.grad_weights):
            used |= {launch.kernel for launch in plan(c, False, precision).launches}
    used = {kernel for kernel in used if not kernel.name.startswith("reduce_slices")}
    assert used == set(kernels)


def test_too_many_elements_for_32_bits():
    c = Convolution((70000, 100, 100, 4), (3, 3, 4, 4), same=True)
    for plan in (plans.grad_inputs, plans.grad_weights):
        with pytest.raises(ValueError, match=r"Split the batch .* precision=\"float32\""):
            plan(c, False, "tf32")
    with pytest.raises(ValueError, match=r"Split the batch .* precision=\"float32\""):
        plans.forward(c, False, False, "tf32")


# Mistakes that the emulator must report, although no result in lockstep shows them.

HAZARDS = {
    "barrier": "no barrier",
    "wait": "a copy to it is under way",
    "empty groups": "a copy to it is under way",
    "swizzle": "bank conflict",
}


# The rows of the gradient of the weights have padding instead of a swizzle.
@pytest.mark.parametrize(
    ("gradient", "name"),
    [
        (gradient, name)
        for gradient in ("forward", "grad_inputs", "grad_weights")
        for name in HAZARDS
        if (gradient, name) != ("grad_weights", "swizzle")
    ],
)
def test_hazards_are_reported(monkeypatch, name, gradient):
    instructions = emulator.Instructions
    if name == "barrier":
        monkeypatch.setattr(emulator.Block, "syncthreads", lambda self: None)
    elif name == "wait":
        wait = instructions.copy_async_wait
        monkeypatch.setattr(instructions, "copy_async_wait", lambda s, n: wait(s, n + 1))
    elif name == "empty groups":
        commit = instructions.copy_async_commit
        monkeypatch.setattr(
            instructions, "copy_async_commit", lambda s: commit(s) if s.open else None
        )
    else:
        for module in (fragments, convolution):
            monkeypatch.setattr(
                module, "swizzled", lambda row, chunk: layout.U(16 * row + 4 * chunk)
            )
    c = Convolution((1, 4, 4, 36), (2, 2, 36, 36), same=True)
    x, w, g = random(*c.inputs), random(*c.weights), random(*c.outputs)
    plan = {
        "forward": plans.forward(c, False, False, "tf32"),
        "grad_inputs": plans.grad_inputs(c, False, "tf32"),
        "grad_weights": plans.grad_weights(c, False, "tf32"),
    }[gradient]
    with pytest.raises(emulator.HazardError, match=HAZARDS[name]):
        execute(
            plan,
            **{"inputs": x, "weights": w, "grad_outputs": g, "outputs": g.copy()},
            **{"grad_inputs": x.copy(), "grad_weights": w.copy(), "grad_bias": random(36)},
        )


def test_a_copy_to_a_word_that_is_being_read_is_reported():
    block, instructions = emulator.Block(0, 0, 0), emulator.Instructions({})
    shared = block.shared.array(128, np.uint32, 16)
    memory, thread = emulator.Memory(random(128)), block.threadIdx.x

    def copy():
        instructions.copy_async_4(shared, thread, memory, thread, np.uint32(4))
        instructions.copy_async_commit()

    copy()
    with pytest.raises(emulator.HazardError, match="being copied"):
        copy()
    instructions.copy_async_wait(0)
    with pytest.raises(emulator.HazardError, match="no barrier between copy and read"):
        shared[thread]
    block.syncthreads()
    np.testing.assert_array_equal(shared[thread], memory.words)
    with pytest.raises(emulator.HazardError, match="no barrier between read and copy"):
        copy()
    block.syncthreads()
    copy()


@pytest.mark.parametrize("count", [2, 4])
def test_the_pipeline_works_with_any_number_of_stages(monkeypatch, count):
    x, w = random(1, 5, 5, 20), random(3, 3, 20, 8)
    c = Convolution(x.shape, w.shape, same=True)
    for module in (convolution, tensor_core_weights):
        monkeypatch.setattr(module, "STAGES", count)
    launch = plans.forward(c, False, False, "tf32").launches[0]
    kernel = convolution.convolution.__wrapped__("tf32", layout.NARROW, True, False)
    outputs = poisoned(*c.outputs)
    with emulator.lockstep(*MODULES) as run:
        run(kernel, launch.grid, x, w, w, outputs, *launch.arguments[4:])
    expected = reference.conv2d(rounded(x, "tf32"), rounded(w, "tf32"), same=True)
    assert_close(outputs, expected, 180)
