"""Tests of recording launches without running them."""

import threading

import numpy as np
import pytest

from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE
from cnnforge_kernels.cuda.runtime import compiler, simulated_driver, tuning
from cnnforge_kernels.cuda.runtime import driver as driver_module
from cnnforge_kernels.cuda.runtime.arrays import View

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda")


def view(address, *shape):
    return View(address, shape, np.dtype(np.float32), 0)


@pytest.fixture
def driver(monkeypatch):
    made = simulated_driver.Driver()
    monkeypatch.setattr(driver_module, "_driver", made)
    return made


def gradients(stream=0):
    launch.conv2d_grad_weights(
        *(view(1 << 40, 2, 5, 5, 4), view(2 << 40, 3, 3, 4, 8), view(3 << 40, 0)),
        *(view(4 << 40, 2, 3, 3, 8), (1, 1), False, (1, 1), 1, True),
        *(view(5 << 40, 2, 3, 3, 8), view(6 << 40, 3, 3, 4, 8), view(7 << 40, 0), stream),
    )


def test_launches_are_those_of_the_call(driver):
    recorded, memories = launch.record(gradients)
    assert not driver.launches
    assert not driver.memories
    gradients(77)
    assert [driver.functions[it.function - simulated_driver.FUNCTIONS] for it in recorded] == [
        kernel for kernel, _, _ in driver.launches
    ]
    # Spare memory for the gradient of the bias, and the partial sums.
    assert [size for _, size in memories] == [memory.values.size for memory in driver.memories]
    assert memories[0][1] == 4 * 8
    real = dict(zip([it.pointer for it in driver.memories], memories, strict=True))
    for it, (kernel, grid, arguments) in zip(recorded, driver.launches, strict=True):
        assert (it.grid, it.block, it.shared) == (grid, kernel.threads, kernel.dynamic_shared)
        expected = [real[value][0] if value in real else value for value in arguments]
        assert list(it.arguments) == expected
        assert [type(value) for value in it.arguments] == [type(value) for value in arguments]


def test_only_the_recording_thread_records(driver):
    def elsewhere():
        thread = threading.Thread(target=gradients)
        thread.start()
        thread.join()

    assert launch.record(elsewhere) == ([], [])
    assert len(driver.launches) == 2


def test_recording_ends_after_an_error(driver):
    def fails():
        raise ValueError("too large")

    with pytest.raises(ValueError, match="too large"):
        launch.record(fails)
    gradients()
    assert len(driver.launches) == 2


def test_the_tuner_does_not_measure_while_recording(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "cache_directory", lambda: str(tmp_path))
    monkeypatch.setattr(tuning, "_asked", True)
    tuning.forget()
    usual, _ = launch.record(gradients)
    assert not driver.launches
    assert not tuning.used()
    monkeypatch.setattr(tuning, "fastest", lambda options, seconds: list(options)[-1])
    gradients()
    # A choice made in the meantime is followed.
    found, _ = launch.record(gradients)
    kernels = [driver.functions[it.function - simulated_driver.FUNCTIONS] for it in found]
    assert kernels == [kernel for kernel, _, _ in driver.launches]
    assert found != usual
    tuning.forget()
