"""Fixtures: the toy ops, and new processes that can import them."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cnnforge.ops import array_op

FOLDER = Path(__file__).parent


@pytest.fixture(autouse=True)
def _no_ops_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the ops that a test defines, so that other tests do not see them."""
    before = dict(array_op._ops)
    yield
    for name, op in list(array_op._ops.items()):
        if op._module == request.module.__name__ and name not in before:
            del array_op._ops[name]


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """Return the module toy_ops, under the name that it has in other processes."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("toy_ops")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Return `run(source, *arguments, **environment)`, which returns stdout of a new process."""

    def run(source: str, *arguments: object, **environment: str) -> str:
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", source, *map(str, arguments)],
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-4000:]}"
        return done.stdout

    return run
