"""An edited kernel is compiled again, in whatever sub-folder its source is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cnnforge_disk_cache
import cnnforge_kernels

DIGESTS = """
import sys
from pathlib import Path
import cnnforge_kernels
from cnnforge_kernels.cpu.runtime import compiled
from cnnforge_kernels.cuda.runtime import compiler

def digests():
    return compiled._state.__wrapped__(), compiler.sources.__wrapped__()

folder = Path(cnnforge_kernels.__file__).parent
print(folder)
for path in sys.argv[1:]:
    before = digests()
    with (folder / path).open("a") as source:
        source.write("# edited\\n")
    print(*(one != other for one, other in zip(before, digests())))
"""
MEAN = """
import numpy as np
import cnnforge_kernels
print(cnnforge_kernels.global_average_pool2d(np.full((1, 16, 16, 4), 3, np.float32))[0, 0])
"""


@pytest.fixture
def copied(tmp_path):
    """Return the folder of a copy of the kernels, and `run(program)`, which uses the copy."""
    for package in (cnnforge_kernels, cnnforge_disk_cache):
        folder = Path(package.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, tmp_path / "src" / folder.name, ignore=ignored)

    def run(program, *arguments):
        done = subprocess.run(
            # Without bytecode: two edits within a second could have the same time stamp.
            [sys.executable, "-B", "-c", program, *arguments],
            env={
                **os.environ,
                "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
                "NUMBA_NUM_THREADS": "1",
                "PYTHONPATH": str(tmp_path / "src"),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    return tmp_path / "src" / "cnnforge_kernels", run


def edit(path, old, new):
    source = path.read_text()
    assert source.count(old) == 1
    path.write_text(source.replace(old, new))


# Whether an edit changes the digest of the CPU kernels, and of the CUDA kernels.
EDITS = {
    "geometry.py": (True, False),
    "cpu/dropout.py": (True, False),
    "cpu/runtime/memory.py": (True, False),
    "cpu/conv/winograd/forward_passes.py": (True, False),
    "cuda/launch.py": (False, True),
    "cuda/conv/plans.py": (False, True),
    "cuda/tensor_cores/halo/convolution.py": (False, True),
}


def test_digest_changes_with_a_source_in_any_folder(copied):
    folder, run = copied
    found, *changes = run(DIGESTS, *EDITS)
    assert Path(found) == folder
    assert dict(zip(EDITS, changes, strict=True)) == {
        path: f"{cpu} {cuda}" for path, (cpu, cuda) in EDITS.items()
    }


@pytest.mark.slow
def test_edited_kernel_is_not_taken_from_an_old_cache(copied):
    # The edited file is not that of the cached kernel, so that Numba itself does not notice.
    folder, run = copied
    assert run(MEAN) == ["3.0"]
    old = {path.name for path in (folder.parents[1] / "cache").iterdir()}
    assert len(old) == 1
    edit(
        folder / "cpu" / "simd" / "channels.py",
        "results.append(builder.fadd(loop.values[t * G + v], value))",
        "results.append(builder.fsub(loop.values[t * G + v], value))",
    )
    assert run(MEAN) == ["-3.0"]
    assert old < {path.name for path in (folder.parents[1] / "cache").iterdir()}
