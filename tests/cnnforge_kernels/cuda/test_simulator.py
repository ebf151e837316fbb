"""Runs the tests of ``simulated/`` in Numba's CUDA simulator, in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="needs numba-cuda: pip install 'cnnforge[test]'")


@pytest.mark.slow
def test_kernels_in_the_simulator():
    folder = Path(__file__).parent / "simulated"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(
        command,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]
