"""The module for authors of kernels: its names, and the examples in its docstrings."""

import doctest
import os
import subprocess
import sys

import pytest

from cnnforge_kernels import authoring

EXAMPLES = {
    "authoring": authoring.__doc__,
    "cached_cfunc": authoring.cached_cfunc.__doc__,
    "cached_njit": authoring.cached_njit.__doc__,
    "kernel_family": authoring.kernel_family.__doc__,
    "run_kernel": authoring.run_kernel.py_func.__doc__,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, cache, tmp_path):
    # A file and not doctest: Numba keeps only functions on disk that have one.
    examples = doctest.DocTestParser().get_examples(EXAMPLES[name])
    lines = [
        f"print(repr({example.source.strip()}))" if example.want else example.source
        for example in examples
    ]
    (tmp_path / "example.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = "".join(example.want for example in examples)
    assert wanted
    assert done.stdout == wanted


def test_all_names_are_public():
    public = {name for name in vars(authoring) if not name.startswith("_")}
    assert public - {"annotations"} == set(authoring.__all__)
