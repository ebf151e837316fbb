"""Tests of the calls of driver.py, with the real cuda.core and a driver that runs nothing.

The stub driver (``stub_driver.c``) is compiled here. It cannot show what a device would do. It
shows that cuda.core accepts the names, signatures and argument types of all calls.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gpu import suite

from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a libcuda.so.1 is a file of Linux"),
    pytest.mark.skipif(
        not COMPILER, reason="NO C COMPILER: the calls of the driver are not tested"
    ),
    pytest.mark.skipif(not AVAILABLE or SIMULATED, reason="needs numba-cuda, and no simulator"),
]
# Nothing is compiled, because the stub driver reads no machine code. The CPU computes the results.
PLUGIN = """
from cnnforge_kernels import arrays
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.runtime.compiler import Compiled
from gpu import dry_run_plugin

driver.cached_kernel = lambda kernel, capability: Compiled(b"\\x7fELF", kernel.symbol)

def pytest_configure(config):
    arrays.call = dry_run_plugin._computed(arrays.call)
"""
CALLS = """
import json, plugin
import numpy as np
from numba import cuda
from cnnforge_kernels import conv2d, conv2d_grad_weights
from cnnforge_kernels.cuda.runtime import driver as driver_module
from cnnforge_kernels.cuda.runtime import recording, tuning

driver = driver_module.driver()
x, w = (cuda.to_device(np.ones(shape, np.float32)) for shape in ((4, 9, 9, 8), (3, 3, 8, 16)))
streams = [None, 1, 2, cuda.stream().handle]
outputs = [conv2d(x, w, stream=int(getattr(one, "value", one) or 0)) for one in streams]
wide = [cuda.to_device(np.ones(shape, np.float32)) for shape in ((2, 8, 8, 64), (3, 3, 64, 64))]
conv2d(*wide, padding="same", precision="tf32")
tuning.enable()
conv2d(x, w)
gradients = conv2d_grad_weights(x, outputs[0], w.shape)
recorded, memories = recording.record(lambda: conv2d_grad_weights(x, outputs[0], w.shape))
print(json.dumps({
    "identity": driver.identity(0),
    "measurable": [driver.measurable(0, stream) for stream in (0, 1, 2)],
    "tuned": list(tuning.used().values()),
    "recorded": [len(recorded), len(memories), min(launch.function for launch in recorded)],
    "shapes": [list(array.shape) for array in (*outputs, *gradients)],
}))
"""


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    source, library = Path(__file__).with_name("stub_driver.c"), folder / "libcuda.so.1"
    made = [COMPILER, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source, "-ldl"]
    subprocess.run(made, check=True)
    (folder / "plugin.py").write_text(PLUGIN)
    found = suite.environment(CNNFORGE_TUNE="0")
    found.pop("CUDA_VISIBLE_DEVICES", None)
    found["PYTHONPATH"] += os.pathsep + str(folder)
    before = os.environ.get("LD_LIBRARY_PATH")
    found["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    return found


def calls(variables, folder):
    """Run CALLS; return what it prints and what the driver logs. Choices stay in ``folder``."""
    made = [sys.executable, "-W", "ignore", "-c", CALLS]
    variables = {**variables, "STUB_DRIVER_LOG": "1", "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run(made, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()


def test_every_call_is_accepted(variables, tmp_path):
    found, told = calls(variables, tmp_path)
    assert found["identity"] == "Stub (9, 0) driver 13000"
    assert found["measurable"] == [True] * 3
    # All take the same time, so the first configuration of each plan is chosen.
    assert len(found["tuned"]) == 2
    kernels, memories, function = found["recorded"]
    assert kernels >= 1
    # Two results and the partial sums.
    assert memories >= 2
    assert function > 0
    assert found["shapes"] == [[4, 7, 7, 16]] * 4 + [[3, 3, 8, 16], [16]]
    launches = [line.split(" on ")[1] for line in told if line.startswith("launched")]
    # The default stream, the legacy one, the stream of the thread, and a created one.
    assert launches[:3] == ["0x1", "0x1", "0x2"]
    assert int(launches[3], 16) > 2
    assert any(line.endswith("from the pool") for line in told)
    # More than 48 KiB of dynamic shared memory is requested.
    allowed = [int(line.split()[-1]) for line in told if line.startswith("attribute 8 is ")]
    assert allowed
    assert min(allowed) > 48 * 1024


def test_memory_in_a_graph(variables, tmp_path):
    found, told = calls({**variables, "STUB_DRIVER_CAPTURING": "1"}, tmp_path)
    assert found["measurable"] == [False] * 3
    assert found["tuned"] == []
    assert any(line.endswith("for a graph") for line in told)


@pytest.mark.slow(300)
def test_the_suite(variables):
    """All small tests of the suite run, so arrays of Numba are accepted and returned."""
    made = [*suite.command(suite.KERNELS, parallel=False, tests=suite.SMALL), "-p", "plugin"]
    outcome = suite._run("suite", made, variables, None)
    assert outcome.verdict == "passed", outcome
    assert "skipped" not in outcome.text
