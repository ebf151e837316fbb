"""Run functions for CUDA devices in Numba's simulator, in a process of its own: see `_cuda.py`.

`NUMBA_ENABLE_CUDASIM=1 python -m cnnforge.testing.cuda_simulator FILE` reads calls from the file,
and writes their results to it.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.errors import one_line


def _main(file: Path) -> None:
    # The file comes from the process that has started this one.
    results = [_run(request) for request in pickle.loads(file.read_bytes())]
    file.write_bytes(pickle.dumps(results))


def _run(request: dict[str, Any]) -> dict[str, Any]:
    outputs = {
        name: _poisoned(shape, np.dtype(dtype))
        for name, (shape, dtype) in request["outputs"].items()
    }
    arguments = request["arguments"]
    before = {name: np.copy(value) for name, value in arguments.items()}
    error = ""
    try:
        function = getattr(importlib.import_module(request["module"]), request["function"])
        function(**arguments, **outputs, stream=0)
    except Exception as raised:
        error = one_line(raised)
    changed = [
        name
        for name, value in arguments.items()
        if not np.array_equal(value, before[name], equal_nan=True)
    ]
    return {"outputs": outputs, "changed": ", ".join(changed), "error": error}


def _poisoned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an array of values that no function computes, so that a gap is found."""
    return np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).min, dtype)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
