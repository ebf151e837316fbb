"""Remember, over the end of the process, which traced calls were without fault.

To compile a function with hooks takes a second or more, and Numba's disk cache cannot keep it. But
a traced call is deterministic: the same code on the same bytes has the same result. So the digest
of code and arrays is kept in the cache folder once nothing was found.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.audit.intercept import Call
from cnnforge.utils.cache_folder import cache_folder

# If this is False, nothing is looked up, so that each call is traced.
enabled = True
_PLAIN = (int, float, complex, bool, str, bytes, type(None), tuple, np.generic)
_STABLE = ("numpy", "math", "numba")


class _UnknownError(Exception):
    """The code depends on something whose changes cannot be noticed."""


def mark_of(call: Call) -> Path | None:
    """Return the file that exists if this call was traced before and nothing was found.

    It is `None` if a change of the code might not be noticed.
    """
    if not enabled:
        return None
    digest = hashlib.sha256(_own().encode())
    try:
        _function(call.program.step.function, digest, set())
    except _UnknownError:
        return None
    for array in call.arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update(repr((call.shapes, list(call.words))).encode())
    return cache_folder() / "traced" / digest.hexdigest()


def remember(mark: Path | None) -> None:
    """Write the file that `mark_of` has returned; ignore a folder that cannot be written."""
    if mark is not None:
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


@cache
def _own() -> str:
    """Return a text that differs between versions of the code that traces."""
    folder = Path(__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
    return repr((numba.__version__, version("cnnforge"), os.uname().machine, texts))


def _function(function: Dispatcher, digest: Any, seen: set[int]) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    source = function.py_func
    digest.update(repr(sorted(function.targetoptions.items(), key=str)).encode())
    cells = [cell.cell_contents for cell in source.__closure__ or ()]
    names = sorted(set(_names(source.__code__)))
    _code(source.__code__, digest)
    defaults = (*(source.__defaults__ or ()), *(source.__kwdefaults__ or {}).values())
    for value in (*defaults, *(source.__globals__.get(name) for name in names), *cells):
        _value(value, digest, seen)


def _names(code: CodeType) -> Sequence[str]:
    inner = [name for each in code.co_consts if isinstance(each, CodeType) for name in _names(each)]
    return [*code.co_names, *inner]


def _code(code: CodeType, digest: Any) -> None:
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_firstlineno)).encode())
    for value in code.co_consts:
        if isinstance(value, CodeType):
            _code(value, digest)
        else:
            digest.update(repr(value).encode())


def _value(value: Any, digest: Any, seen: set[int]) -> None:
    if isinstance(value, Dispatcher):
        _function(value, digest, seen)
    elif isinstance(value, np.ndarray):
        digest.update(value.tobytes())
    elif isinstance(value, _PLAIN):
        digest.update(repr(value).encode())
    elif isinstance(value, ModuleType):
        if value.__name__.partition(".")[0] not in _STABLE:
            raise _UnknownError(value.__name__)
        digest.update(value.__name__.encode())
    elif getattr(value, "__module__", None) is None or (
        str(value.__module__).partition(".")[0] not in _STABLE
    ):
        raise _UnknownError(repr(value))
    else:
        digest.update(f"{value.__module__}.{getattr(value, '__name__', value)}".encode())
