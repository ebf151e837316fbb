"""A parallel loop on the threads of cnnforge, for authors of layers."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from cnnforge_kernels.authoring import cached_njit, parallel_for


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@cached_njit()
def row_of(row, inputs, factor, shift, outputs):
    if factor == 99 and row == 3:
        raise ValueError("row 3")
    outputs[row] = factor * inputs[row] + shift[1]


@cached_njit()
def each_row(inputs, factor, shift, grain, outputs):
    parallel_for(row_of, inputs.shape[0], grain, inputs, factor, shift, outputs)


@pytest.mark.parametrize("rows", [0, 1, 2, 500])
@pytest.mark.parametrize("grain", [-1, 0, 1, 3, 1000])
@pytest.mark.parametrize("how", [each_row, each_row.py_func])
def test_each_index_is_computed(rng, rows, grain, how):
    inputs = rng.normal(size=(rows, 9)).astype(np.float32)
    outputs = np.full_like(inputs, np.nan)
    how(inputs, 3, (1.0, 2.0), grain, outputs)
    np.testing.assert_allclose(outputs, 3 * inputs + 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grain", [1, 1000])
def test_an_exception_in_a_call_reaches_the_caller(rng, grain):
    inputs = np.ones((50, 2), np.float32)
    with pytest.raises(RuntimeError, match="body of parallel_for raised"):
        each_row(inputs, 99, (1.0, 2.0), grain, np.empty_like(inputs))
    outputs = np.empty_like(inputs)
    each_row(inputs, 2, (1.0, 0.0), grain, outputs)
    assert np.all(outputs == 2)


def test_a_function_with_a_parallel_loop_is_kept_on_disk(tmp_path):
    (tmp_path / "kept.py").write_text(
        textwrap.dedent("""
            import numpy as np
            from cnnforge_kernels.authoring import cached_njit, parallel_for

            @cached_njit()
            def row_of(row, inputs, outputs):
                outputs[row] = 2 * inputs[row]

            @cached_njit()
            def each_row(inputs, outputs):
                parallel_for(row_of, inputs.shape[0], 1, inputs, outputs)

            inputs = np.ones((9, 2), np.float32)
            outputs = np.empty_like(inputs)
            each_row(inputs, outputs)
            print(outputs.sum(), len(each_row.stats.cache_hits))
        """)
    )
    told = [
        subprocess.run(
            [sys.executable, "-W", "error", "kept.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert told == ["36.0 0\n", "36.0 1\n"]
