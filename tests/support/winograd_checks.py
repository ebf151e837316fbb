"""Helpers of both tests of Winograd's algorithm."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import numpy as np
import pytest

from cnnforge_kernels.cpu.runtime import compiled

LANES = compiled.vector_lanes()


def values(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ties(shape, seed):
    """Small integers: sums are exact, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def launched(slots, function):
    """The result of a call, and the names of the launches in ``slots`` that it used."""
    for slot in slots.values():
        compiled.forget_kernel(slot)
    result = function()
    return result, [
        name for name, slot in slots.items() if compiled._table[compiled.row_of(slot), 0]
    ]


def inside(array):
    """A larger buffer, and a copy of ``array`` in it that is aligned to an element only."""
    buffer = np.full(array.size + 2, 7, array.dtype)
    part = buffer[1:-1].reshape(array.shape)
    part[:] = array
    return buffer, part


def assert_same_bits_for_any_threads(results):
    """``results()`` returns the same with all threads, several times, and with one."""
    threads = numba.get_num_threads()
    many = results()
    for _ in range(5):
        assert results() == many
    try:
        numba.set_num_threads(1)
        assert results() == many
    finally:
        numba.set_num_threads(threads)


narrower_vectors = pytest.mark.parametrize(
    ("lanes", "cpu", "features"), [(8, "haswell", "+avx2,+fma"), (4, "x86-64", "+sse2")]
)
# Numba keeps code under the name and the features of the CPU that it is compiled for.
_PROGRAM = """
import sys
lanes, *folders = sys.argv[1:]
sys.path[:0] = folders
import winograd_checks
assert winograd_checks.LANES == int(lanes)
"""


def run_with_narrower_vectors(test_file, lanes, cpu, features, program):
    """Run a program, which imports ``test_file`` as ``tests``, on a CPU with narrower vectors."""
    if lanes >= LANES:
        pytest.skip(f"this machine's vectors have {LANES} lanes")
    test_file = Path(test_file)
    imported = f"import {test_file.stem} as tests\n{textwrap.dedent(program)}\nprint('passed')\n"
    folders = [str(Path(__file__).parent), str(test_file.parent)]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM + imported, str(lanes), *folders],
        env={**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "passed\n", done.stderr
