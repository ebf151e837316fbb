"""Tests of the rows of bench_gpu.py with our kernels. A wrong row must have no time."""

from dataclasses import replace

import numpy as np
import pytest
from gpu import measure, parity
from gpu.rows import ROWS

from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED
from cnnforge_kernels.cuda.runtime import driver, tuning

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda: pip install 'cnnforge[test]'"),
    pytest.mark.skipif(SIMULATED, reason="needs no simulator"),
]
BY_KEY = {row.key: row for row in ROWS}
# One row of each op and pass.
SOME = (
    "seed2.convolution.forward",
    "seed2.convolution.grad_inputs",
    "seed2.convolution.grad_weights",
    "depth.depthwise.forward",
    "seed1@4096.block.full",
    "pool_seed2.max.forward",
    "pool_seed2.max.backward",
    "pool_seed2.average.forward",
    "pool_seed2.average.backward",
)


@pytest.fixture
def device(monkeypatch):
    from gpu.dry_run import DryRunDevice

    monkeypatch.setattr(driver, "_driver", None)
    made = DryRunDevice()
    # PyTorch has separate tests.
    monkeypatch.setattr(made, "variants", lambda row: [])
    return made


def row_of(key):
    from gpu.dry_run import shrunk

    return shrunk(BY_KEY[key])


@pytest.mark.parametrize("key", SOME)
def test_a_row(device, key):
    found = measure.measure(row_of(key), device, device.ceilings(), rounds=3)
    assert (found.key, found.verdict) == (key, "right")
    assert found.ours == (5e-4, 5e-4, 5e-4)
    assert found.floor
    assert found.rounds == 3
    assert found.ratio is None
    assert device.launches


def test_a_row_alone(monkeypatch, device):
    asked = []
    monkeypatch.setattr(device, "variants", lambda row: asked.append(row) or [])
    row = row_of("pool_seed2.max.forward")
    measure.measure(row, device, device.ceilings(), rounds=3)
    assert asked == [row]
    found = measure.measure(row, device, device.ceilings(), rounds=3, alone=True)
    assert found.ours
    assert asked == [row]


def test_every_launch_of_the_table_is_made():
    """Use the real sizes, so shapes, plans, grids and arguments are those of a device."""
    from gpu.precompile import kernels

    found = {kernel.name.split()[0] for kernel in kernels(ROWS)}
    assert found == {
        "conv2d_direct",
        "conv2d_gemm",
        "conv2d_grad_inputs",
        "conv2d_grad_weights",
        "conv2d",
        "conv_block",
        "conv_block_grad_inputs",
        "conv_block_grad_weights",
        "depthwise_conv2d",
        "depthwise_grad_inputs",
        "depthwise_grad_weights",
        "reduce_slices",
        "max_pool2d",
        "max_pool2d_grad",
        "average_pool2d",
        "average_pool2d_grad",
    }


def test_the_tuner_finds_every_configuration_compiled(monkeypatch):
    from gpu.precompile import kernels

    rows = [BY_KEY["mid.convolution.forward"], BY_KEY["r64@256.convolution.forward.tf32"]]
    usual, every = kernels(rows), kernels(rows, tune=True)
    # The tensor cores pack their weights first, and have two more configurations without that.
    assert len(usual) == 1 + 2
    # Three direct configurations and seven tiles, and four kernels of the tensor cores.
    assert len(every) == 3 + 7 + 4
    assert set(usual) <= set(every)
    assert not tuning.used()


def spoil(monkeypatch, device, name, change):
    """Change the result of a function, as a wrong kernel would."""
    run = device.run

    def wrong(calls):
        run(calls)
        for call in calls:
            if call.function == name:
                change(call.arguments[-1].values)

    monkeypatch.setattr(device, "run", wrong)


@pytest.mark.parametrize("key", ["seed2.convolution.forward", "pool_seed2.average.forward"])
def test_a_wrong_value(monkeypatch, device, key):
    def change(values):
        values[-1, -1, -1, -1] += 1e-3

    name = "conv2d_forward" if "conv" in key else "average_pool2d_forward"
    spoil(monkeypatch, device, name, change)
    found = measure.measure(row_of(key), device, device.ceilings(), rounds=3)
    assert found.verdict.startswith("WRONG: differs from the float64 oracle: max|error|")
    assert found.ours is None
    assert found.ratio is None


def test_a_value_that_was_not_written(monkeypatch, device):
    def change(values):
        values[0, 0, 0, 0] = np.nan

    spoil(monkeypatch, device, "conv2d_grad_inputs", change)
    with pytest.raises(parity.WrongResultError, match="not finite"):
        parity.check(device, row_of("seed2.convolution.grad_inputs"))


def test_functions_that_cannot_be_captured_are_called(monkeypatch, device):
    def refuse(functions):
        raise RuntimeError("operation not permitted when\nstream is capturing")

    monkeypatch.setattr(device, "repeated", refuse)
    found = measure.measure(row_of("pool_seed2.max.forward"), device, device.ceilings(), rounds=3)
    assert (found.verdict, found.ours) == ("right", (5e-4, 5e-4, 5e-4))
    assert found.note == (
        "ours is not captured into a graph: RuntimeError: operation not permitted when stream is "
        "capturing. "
    )


def test_the_tolerance_of_tensor_cores():
    row = BY_KEY["r128@256.convolution.forward.tf32"]
    assert parity._terms(row, 1152) == 72**2
    # Few products are added at a time, so the usual bound holds.
    assert parity._terms(row, 64) == 64
    assert parity._terms(BY_KEY["r128.convolution.forward"], 1152) == 1152


def test_different_bits_are_an_error(monkeypatch, device):
    times = iter(range(10))

    def change(values):
        # The change is within every tolerance.
        if next(times) == 2:
            values[0, 0] = np.nextafter(values[0, 0], np.float32(np.inf))

    spoil(monkeypatch, device, "conv2d_grad_weights", lambda bias: None)
    run = device.run

    def later(calls):
        run(calls)
        for call in calls:
            change(call.arguments[-2].values[0, 0])

    monkeypatch.setattr(device, "run", later)
    with pytest.raises(parity.WrongResultError, match="`grad_weights` has other bits"):
        parity.check(device, row_of("seed2.convolution.grad_weights"))


def test_a_different_argmax(monkeypatch, device):
    def change(argmax):
        argmax[0, 0, 0, 0] = (argmax[0, 0, 0, 0] + 1) % 4

    spoil(monkeypatch, device, "max_pool2d_forward", change)
    with pytest.raises(parity.WrongResultError, match="of the argmax values differ"):
        parity.check(device, row_of("pool_seed2.max.forward"))


def test_some_images_of_a_batch_are_compared():
    row = BY_KEY["seed1@4096.block.full"]
    images = parity.chosen_images(row)
    assert images[0] == 0
    assert images[-1] == 4095
    assert len(images) == 4
    heavy = replace(BY_KEY["r128@256.convolution.forward.tf32"], inputs=(256, 64, 64, 128))
    assert parity.chosen_images(heavy) == [0, 255]
    assert parity.chosen_images(replace(row, inputs=(1, 28, 28, 1))) == [0]


@pytest.mark.slow
def test_a_kernel_of_each_kind_compiles():
    """Compile for the H200 without a device. All 66 kernels would take a minute and a half."""
    from gpu.precompile import kernels

    from cnnforge_kernels.cuda.runtime.compiler import cached_kernel

    for kernel in {kernel.name.split()[0]: kernel for kernel in kernels(ROWS)}.values():
        assert cached_kernel(kernel, (9, 0)).code
