"""What runtime.py asks of cuda.core, with the real cuda.core, on a driver that runs nothing.

Such a driver is compiled here (``pretend_driver.c``). It cannot show what a device would do; it
shows that no call is refused on the way to it: names, signatures, types of arguments.
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
        not COMPILER, reason="NO C COMPILER: the driver's calls are not tested here"
    ),
    pytest.mark.skipif(not AVAILABLE or SIMULATED, reason="needs numba-cuda, and no simulator"),
]
# Nothing is compiled: this driver reads no machine code. What is launched, the CPU computes.
PLUGIN = """
from cnnforge_kernels import arrays as placement
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.runtime.compiler import Compiled
from gpu import dry_suite

runtime.cached_kernel = lambda kernel, capability: Compiled(b"\\x7fELF", kernel.symbol)

def pytest_configure(config):
    placement.call = dry_suite._computed(placement.call)
"""
CALLS = """
import json, plugin
import numpy as np
from numba import cuda
from cnnforge_kernels import conv2d, conv2d_grad_weights
from cnnforge_kernels.cuda.runtime import recording
from cnnforge_kernels.cuda.runtime import driver
from cnnforge_kernels.cuda.runtime import tuning

driver = runtime.driver()
x, w = (cuda.to_device(np.ones(shape, np.float32)) for shape in ((4, 9, 9, 8), (3, 3, 8, 16)))
streams = [None, 1, 2, cuda.stream().handle]
outputs = [conv2d(x, w, stream=int(getattr(it, "value", it) or 0)) for it in streams]
wide = [cuda.to_device(np.ones(shape, np.float32)) for shape in ((2, 8, 8, 64), (3, 3, 64, 64))]
conv2d(*wide, padding="same", precision="tf32")
tuning.enable()
conv2d(x, w)
gradients = conv2d_grad_weights(x, outputs[0], w.shape)
recorded, memories = recording.record(lambda: conv2d_grad_weights(x, outputs[0], w.shape))
print(json.dumps({
    "identity": driver.identity(0),
    "measurable": [driver.measurable(0, it) for it in (0, 1, 2)],
    "tuned": list(tuning.used().values()),
    "recorded": [len(recorded), len(memories), min(it.function for it in recorded)],
    "shapes": [list(it.shape) for it in (*outputs, *gradients)],
}))
"""


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    source, library = Path(__file__).with_name("pretend_driver.c"), folder / "libcuda.so.1"
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
    """What CALLS prints, and what the driver tells; the tuner's choices stay in a folder."""
    made = [sys.executable, "-W", "ignore", "-c", CALLS]
    variables = {**variables, "PRETEND_LOG": "1", "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run(made, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()


def test_every_call_is_taken(variables, tmp_path):
    found, told = calls(variables, tmp_path)
    assert found["identity"] == "Pretended (9, 0) driver 13000"
    assert found["measurable"] == [True] * 3
    # All take as long: of each plan the first one is chosen.
    assert len(found["tuned"]) == 2
    kernels, memories, function = found["recorded"]
    assert kernels >= 1
    # Two results, and what is summed up besides.
    assert memories >= 2
    assert function > 0
    assert found["shapes"] == [[4, 7, 7, 16]] * 4 + [[3, 3, 8, 16], [16]]
    launches = [line.split(" on ")[1] for line in told if line.startswith("launched")]
    # The default stream, the legacy and the thread's own, and one that was created.
    assert launches[:3] == ["0x1", "0x1", "0x2"]
    assert int(launches[3], 16) > 2
    assert any(line.endswith("from the pool") for line in told)
    # More than 48 KiB of dynamic shared memory is asked for.
    allowed = [int(line.split()[-1]) for line in told if line.startswith("attribute 8 is ")]
    assert allowed
    assert min(allowed) > 48 * 1024


def test_memory_in_a_graph(variables, tmp_path):
    found, told = calls({**variables, "PRETEND_CAPTURING": "1"}, tmp_path)
    assert found["measurable"] == [False] * 3
    assert found["tuned"] == []
    assert any(line.endswith("for a graph") for line in told)


def test_the_suite(variables):
    """All of the suite's calls, its small tests: that arrays of Numba's are taken and returned."""
    made = [*suite.command(suite.KERNELS, parallel=False, tests=suite.SMALL), "-p", "plugin"]
    outcome = suite._run("suite", made, variables, None)
    assert outcome.verdict == "passed", outcome
    assert "skipped" not in outcome.text
