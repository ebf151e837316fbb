"""Tests of the kernels that keep a tile of the source in shared memory, in the warp emulator."""

import importlib.util
import sys
from math import prod
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnforge_kernels import reference
from cnnforge_kernels.cuda.conv.problem import Convolution
from cnnforge_kernels.cuda.tensor_cores import plans as tensor_core_plans
from cnnforge_kernels.cuda.tensor_cores.halo import convolution, layout, plans, weights


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checks = _load("tensor_core_checks")
PRECISIONS = "tf32", "bfloat16"
PROBLEMS = {
    # Two tiles of pixels, two of columns.
    "tiles": ((1, 20, 20, 64), (3, 3, 64, 96), (1, 1), True, (1, 1)),
    # Several chunks of channels, the last of which is filled with zeros.
    "chunks": ((4, 8, 8, 112), (3, 3, 112, 112), (1, 1), True, (1, 1)),
    # One block has five whole images, and another has two.
    "images": ((7, 6, 8, 64), (3, 3, 64, 64), (1, 1), True, (1, 1)),
    "valid": ((2, 9, 11, 64), (2, 4, 64, 64), (1, 1), False, (1, 1)),
    "dilation": ((1, 13, 18, 52), (2, 3, 52, 60), (1, 1), True, (2, 3)),
    "one tap": ((1, 16, 16, 128), (1, 1, 128, 64), (1, 1), True, (1, 1)),
}


# Problems whose gradients of the weights these kernels compute. The outputs of the others have no
# suitable divisors, or the window has only one tap.
WEIGHTS = "tiles", "chunks", "images", "valid"


def runs_here(plan):
    assert ["halo" in launch.kernel.name for launch in plan.launches] == [False, True]


def weights_run_here(plan):
    assert "halo" in plan.launches[0].kernel.name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_conv2d(name, precision):
    c, bias = Convolution(*PROBLEMS[name]), name != "images"
    runs_here(tensor_core_plans.forward(c, bias, name != "tiles", precision))
    counts = checks.check_forward(c, precision, bias, relu=name != "tiles")
    assert counts[f"mma_{precision}"] == 4 * counts["load_matrices"]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients(name, precision, relu):
    c = Convolution(*PROBLEMS[name])
    runs_here(tensor_core_plans.grad_inputs(c, relu, precision))
    assert (plans.weights_tile_of(c, precision) is not None) == (name in WEIGHTS)
    if name in WEIGHTS:
        weights_run_here(tensor_core_plans.grad_weights(c, relu, precision))
    checks.check_gradients(c, precision, relu)


@pytest.mark.parametrize("blocks", [1, 6, 128])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_slices(precision, blocks, monkeypatch):
    # 25 taps in groups of nine. A slice has one, two or all tiles, or one less than the others.
    c = Convolution((5, 8, 8, 64), (5, 5, 64, 64), same=True)
    monkeypatch.setattr(plans, "_BLOCKS", blocks)
    plan = plans.weights_plan(c, precision, True, plans.weights_tile_of(c, precision))
    tiles = {"tf32": 10, "bfloat16": 5}[precision]
    each = {1: tiles, 6: -(-tiles // 2), 128: 1}[blocks]
    assert plan.launches[0].grid[:2] == (3, -(-tiles // each))
    assert len(plan.launches) == (1 if blocks == 1 else 2)
    monkeypatch.setattr(tensor_core_plans, "grad_weights", lambda *_: plan)
    checks.check_gradients(c, precision, relu=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_non_finite_values_reach_the_weights_that_they_meet(precision):
    c = Convolution((3, 8, 8, 64), (3, 3, 64, 64), same=True)
    inputs, grads = np.zeros(c.inputs, np.float32), np.ones(c.outputs, np.float32)
    inputs[0, 7, 7, 3], inputs[2, 0, 4, 60], inputs[1, 4, 4, 17] = np.nan, np.inf, -np.inf
    made, bias = checks.poisoned(*c.weights), checks.poisoned(64)
    plan = tensor_core_plans.grad_weights(c, False, precision)
    weights_run_here(plan)
    checks.execute(plan, inputs=inputs, grad_outputs=grads, grad_weights=made, grad_bias=bias)
    unused = np.zeros(c.weights, np.float32)
    _, expected, _ = reference.conv2d_gradients(inputs, unused, grads, same=True)
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(bias, np.full(64, 192, np.float32))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_barrier_of_the_weights_is_needed(precision, monkeypatch):
    # Two tiles, one after the other.
    size = {"tf32": 8, "bfloat16": 16}[precision]
    c = Convolution((1, 16, size, 64), (3, 3, 64, 64), same=True)
    monkeypatch.setattr(plans, "_BLOCKS", 1)
    plan = plans.weights_plan(c, precision, False, plans.weights_tile_of(c, precision))
    arrays = {"inputs": checks.random(*c.inputs), "grad_outputs": checks.random(*c.outputs)}
    arrays |= {"grad_weights": checks.poisoned(*c.weights), "grad_bias": checks.poisoned(64)}
    # After the table, each round of copies, the last tile, and the sums of the bias.
    assert barriers(monkeypatch, plan, arrays, None) == 5
    for skipped in range(5):
        with pytest.raises(checks.emulator.HazardError, match="no barrier between"):
            barriers(monkeypatch, plan, arrays, skipped)


def test_each_pixel_is_copied_once_for_all_taps():
    c = Convolution(*PROBLEMS["tiles"])
    counts = checks.check_forward(c, "bfloat16")
    tile = layout.halo(1, 20, 20, (2, 2))
    blocks = prod(tile.grid(1, 20, 20)) * 2
    # Copies run in rounds of lines. 16 threads copy a line, so a block copies 8 at once.
    together = layout.together(bfloat16=True, masked=False)
    assert counts["store2_shared"] == blocks * -(-tile.lines // together) * together // 8


@pytest.mark.parametrize("precision", PRECISIONS)
def test_non_finite_values_stay_where_they_are(precision):
    inputs = np.zeros((1, 16, 16, 64), np.float32)
    inputs[0, 3, 4, 5], inputs[0, 15, 15, 63] = np.nan, np.inf
    ones = np.ones((3, 3, 64, 64), np.float32)
    outputs = checks.poisoned(1, 16, 16, 64)
    plan = tensor_core_plans.forward(
        Convolution(inputs.shape, ones.shape, same=True), False, True, precision
    )
    runs_here(plan)
    checks.execute(plan, inputs=inputs, weights=ones, outputs=outputs)
    expected = reference.conv2d(inputs, ones, relu=True, same=True)
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_mask_hides_non_finite_values(precision):
    c = Convolution((1, 4, 4, 64), (1, 1, 64, 64))
    grads = np.ones(c.outputs, np.float32)
    outputs = np.ones(c.outputs, np.float32)
    grads[0, 1, 1], outputs[0, 1, 1], outputs[0, 2, 2] = np.nan, 0, np.nan
    made = checks.poisoned(*c.inputs)
    checks.execute(
        tensor_core_plans.grad_inputs(c, True, precision),
        **{"grad_outputs": grads, "outputs": outputs},
        **{"weights": np.ones(c.weights, np.float32), "grad_inputs": made},
    )
    expected = np.full(c.inputs, 64, np.float32)
    expected[0, 1, 1] = expected[0, 2, 2] = 0
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    "c",
    [
        Convolution((2, 16, 16, 64), (3, 3, 64, 64), strides=(2, 1), same=True),
        Convolution((2, 16, 16, 64), (3, 3, 64, 64), same=True, aligned=False),
        Convolution((2, 16, 16, 62), (3, 3, 62, 64), same=True),
        Convolution((2, 16, 16, 64), (3, 3, 64, 62), same=True),
        # Too few products of a tile would be needed.
        Convolution((2, 16, 16, 16), (3, 3, 16, 64), same=True),
        Convolution((1, 4, 4, 64), (3, 3, 64, 64), same=True),
        # The window reaches further than the lines.
        Convolution((1, 40, 40, 64), (30, 30, 64, 64), same=True),
    ],
)
@pytest.mark.parametrize("gradient", [False, True])
def test_problems_of_the_general_kernel(c, gradient):
    assert plans.tile_of(c, "bfloat16", gradient) is None
    assert plans.weights_tile_of(c, "bfloat16") is None
    plan = tensor_core_plans.forward(c, True, True, "bfloat16")
    assert len(plan.launches) == 1


def test_the_tuner_may_choose_the_general_kernel():
    c = Convolution(*PROBLEMS["tiles"])
    for plan in (
        tensor_core_plans.forward(c, True, True, "tf32"),
        tensor_core_plans.grad_inputs(c, True, "tf32"),
        tensor_core_plans.grad_weights(c, True, "tf32"),
    ):
        assert list(plan.options) == ["halo", "wide tile", "narrow tile"]


def barriers(monkeypatch, plan, arrays, skipped):
    """Count the barriers of a plan, and leave one out."""
    synchronize, calls = checks.emulator.Block.syncthreads, []

    def sometimes(self):
        calls.append(None)
        if len(calls) - 1 != skipped:
            synchronize(self)

    with monkeypatch.context() as patch:
        patch.setattr(checks.emulator.Block, "syncthreads", sometimes)
        checks.execute(plan, **arrays)
    return len(calls)


def test_every_barrier_is_needed(monkeypatch):
    c = Convolution((1, 16, 16, 128), (1, 1, 128, 64))
    arrays = {"inputs": checks.random(*c.inputs), "weights": checks.random(*c.weights)}
    arrays["outputs"] = checks.poisoned(*c.outputs)
    plan = tensor_core_plans.forward(c, False, False, "bfloat16")
    # One barrier per step, and one before the lines are overwritten.
    assert barriers(monkeypatch, plan, arrays, None) == 3
    for skipped in range(3):
        with pytest.raises(checks.emulator.HazardError, match="no barrier between"):
            barriers(monkeypatch, plan, arrays, skipped)


@pytest.mark.parametrize("name", ["wait", "empty groups", "swizzle"])
def test_hazards_are_reported(monkeypatch, name):
    emulator = checks.emulator
    instructions = emulator.Instructions
    if name == "wait":
        wait = instructions.copy_async_wait
        monkeypatch.setattr(instructions, "copy_async_wait", lambda s, n: wait(s, n + 1))
    elif name == "empty groups":
        commit = instructions.copy_async_commit
        monkeypatch.setattr(
            instructions, "copy_async_commit", lambda s: commit(s) if s.open else None
        )
    else:
        monkeypatch.setattr(
            convolution, "line_word", lambda line, chunk: layout.U(32 * line + 4 * chunk)
        )
    c = Convolution((1, 16, 16, 64), (3, 3, 64, 64), same=True)
    plan = tensor_core_plans.forward(c, False, False, "tf32")
    message = "bank conflict" if name == "swizzle" else "a copy to it is under way"
    with pytest.raises(emulator.HazardError, match=message):
        checks.execute(
            plan,
            **{"inputs": checks.random(*c.inputs), "weights": checks.random(*c.weights)},
            outputs=checks.poisoned(*c.outputs),
        )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_whole_rounds_of_copies_fill_the_lines(bfloat16, masked):
    together = layout.together(bfloat16, masked)
    assert layout.LINES % together == 0
    # In each round every thread has the same number of lines.
    assert together % (layout.THREADS * 4 // layout.terms(bfloat16)) == 0


def test_quotients_of_all_lines():
    values = np.arange(layout.LINES + 1, dtype=np.uint32)
    for divisor in range(1, layout.LINES + 1):
        found = layout.small_quotient(values, np.uint32(layout.reciprocal(divisor)))
        np.testing.assert_array_equal(found, values // divisor)


def test_lines_fill_the_shared_memory():
    lines, chunks = np.divmod(np.arange(layout.LINES * 8), 8)
    places = layout.line_word(lines, chunks)
    assert sorted(places) == list(range(0, layout.LINES * layout.LINE, 4))
    assert (places // layout.LINE == lines).all()


def test_place_word_equals_line_word():
    lines, chunks = np.divmod(np.arange(layout.LINES * 8, dtype=np.uint32), 8)
    found = layout.place_word(layout.LINE * lines, 4 * chunks)
    np.testing.assert_array_equal(found, layout.line_word(lines, chunks))


@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize("chunk", range(8))
def test_eight_lines_have_their_chunks_in_different_banks(first, chunk):
    words = layout.line_word(np.arange(first, first + 8), chunk)[:, None] + np.arange(4)
    assert np.unique(words % 32).size == 32


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    images=st.integers(1, 40),
    height=st.integers(1, 70),
    width=st.integers(1, 300),
    reach=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_tiles_cover_the_target(images, height, width, reach):
    tile = layout.halo(images, height, width, reach)
    assert tile is not None
    assert tile.images * tile.rows * tile.columns <= layout.PIXELS
    assert tile.lines <= layout.LINES
    groups, down, across = tile.grid(images, height, width)
    assert tile.images == 1 or (down, across) == (1, 1)
    assert groups * tile.images >= images
    assert down * tile.rows >= height
    assert across * tile.columns >= width


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # No remainder: r64 and r128 of benchmarks/cases.py, and the last stage of resnet20.
        ((256, 32, 32), (1, 16, 16)),
        ((256, 16, 16), (1, 16, 16)),
        ((64, 8, 8), (4, 8, 8)),
    ],
)
def test_tiles_of_common_images(target, expected):
    tile = layout.halo(*target, (2, 2))
    assert (tile.images, tile.rows, tile.columns) == expected
    assert prod(tile.grid(*target)) * layout.PIXELS == prod(target)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    images=st.integers(1, 40),
    height=st.integers(1, 70),
    width=st.integers(1, 300),
    reach=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    precision=st.sampled_from(PRECISIONS),
)
def test_exact_tiles_have_no_remainder(images, height, width, reach, precision):
    sizes = weights.SIZES[precision]
    limits = sizes.pixels, sizes.lines, sizes.step
    tile = layout.exact_halo(images, height, width, reach, *limits)
    if tile is None:
        return
    pixels = tile.images * tile.rows * tile.columns
    assert pixels <= sizes.pixels
    assert tile.lines <= sizes.lines
    assert pixels % sizes.step == tile.columns % 2 == 0
    assert height % tile.rows == width % tile.columns == 0
    assert tile.images == 1 or (tile.rows, tile.columns) == (height, width)


@pytest.mark.parametrize("target", [(256, 32, 32), (256, 16, 16), (64, 8, 8)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_exact_tiles_of_common_images_are_full(target, precision):
    sizes = weights.SIZES[precision]
    tile = layout.exact_halo(*target, (2, 2), sizes.pixels, sizes.lines, sizes.step)
    assert tile is not None
    assert tile.images * tile.rows * tile.columns == sizes.pixels
