"""Numba's disk cache, made safe for several processes that compile at once.

Numba keeps an index beside the compiled variants of a function, `name.1.nbc`, `name.2.nbc`, and
writes it anew for each of them. Two processes that read it at the same time give the same number to
two variants: one is then found under the key of the other. A call of the wrong one is an error, or,
where they differ in what they close over, as kernels do, a wrong result, and it stays on the disk.
So who adds a variant keeps the others out, and writes the code before the index that names it.

A package of its own: both the kernels and the core compile to that cache, and neither knows the
other.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numba import types
from numba.core import caching
from numba.core.dispatcher import Dispatcher

try:
    import fcntl
except ImportError:  # Windows
    _flock = None
else:
    _flock = fcntl.flock
    _ALONE = fcntl.LOCK_EX | fcntl.LOCK_NB

# A process that was stopped in between holds others up no longer than this.
_PATIENCE = 1.0


def share_disk_cache() -> None:
    """Have all functions of this process written to the disk cache one process at a time.

    For all of Numba in this process, and not reversed: a function of somebody else's may call a
    kernel, and is then kept with it. May be called several times.
    """
    caching.IndexDataCacheFile.save = _save


def is_durable(function: Dispatcher) -> bool:
    """Whether a function is kept on disk."""
    return isinstance(getattr(function, "_cache", None), caching.FunctionCache)


def is_compiled(function: Dispatcher, signature: Sequence[types.Type]) -> bool:
    """Whether a durable function is there for some types, in this process or on disk."""
    signature = tuple(signature)
    if signature in function.overloads:
        return True
    cache: Any = function._cache
    key = cache._index_key(signature, function.targetctx.codegen())
    return key in cache._cache_file._load_index()


def _save(file: Any, key: Any, data: Any) -> None:
    with _alone(file._cache_path) as alone:
        overloads = file._load_index()
        name = overloads.get(key)
        if name is None:
            number = 1 + len(overloads) if alone else uuid.uuid4().int
            while file._data_name(number) in overloads.values():
                number += 1
            name = file._data_name(number)
        file._save_data(name, data)
        if key not in overloads:
            file._save_index({**overloads, key: name})


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[bool]:
    """Keep other processes from writing to a folder; False: that could not be had."""
    if _flock is None:
        yield False
        return
    # The folder itself, and no file: there would be one for ever.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(_flock, descriptor)
    finally:
        os.close(descriptor)


def _lock(flock: Callable[[int, int], None], descriptor: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            flock(descriptor, _ALONE)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        except OSError:
            # Some network file systems lock no folder.
            return False
