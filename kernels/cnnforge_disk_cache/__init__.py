"""Numba's disk cache, made safe for several processes that compile at once.

Numba keeps the compiled variants of a function as `name.1.nbc`, `name.2.nbc`, and writes an index
of them again for each new variant. Two processes that read the index at the same time give the same
number to two variants, so that one is found under the key of the other. To call it is an error, or,
if the variants differ in the numbers that they close over, as kernels do, a wrong result; and it
stays on the disk. So a process that adds a variant locks the folder, and writes the code before the
index that names it.

If the cache cannot be written to, functions are compiled for this process only, with one warning.

This is a package of its own because the kernels and the core compile to the same cache, and neither
imports the other.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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

# Seconds to wait for the lock: a stopped process may hold it.
_PATIENCE = 1.0
_log = logging.getLogger("cnnforge.disk_cache")


def share_disk_cache() -> None:
    """Let only one process at a time write to Numba's disk cache.

    This changes all of Numba in this process, and cannot be undone: any function may call a kernel,
    and is then kept together with it. Further calls change nothing.
    """
    caching.IndexDataCacheFile.save = _save
    for kind in (caching.CompileResultCacheImpl, caching.CodeLibraryCacheImpl):
        if _TemporaryLocator not in kind._locator_classes:
            kind._locator_classes = [*kind._locator_classes, _TemporaryLocator]


def temporary_folder(wanted: str, error: object) -> str:
    """Return a folder that this process removes at its end; warn once that nothing is kept.

    Args:
        wanted: Folder that cannot be written to.
        error: Reason.
    """
    _say_once(wanted, error)
    return _temporary_folder()


@cache
def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="cnnforge-kernels-")
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


_said: list[str] = []


def _say_once(wanted: str, error: object) -> None:
    if not _said:
        _said.append(wanted)
        _log.warning(
            "compiled functions cannot be kept in %s (%s): each process compiles them again; set "
            "XDG_CACHE_HOME or NUMBA_CACHE_DIR to a folder that can be written to",
            wanted,
            error,
        )


class _TemporaryLocator(  # pyright: ignore[reportIncompatibleMethodOverride]
    caching._SourceFileBackedLocatorMixin, caching._CacheLocator
):
    """The last locator that Numba tries; without it Numba would raise an error."""

    def __init__(self, function: Any, source: str) -> None:
        self._py_file = source
        self._lineno = function.__code__.co_firstlineno
        folder = temporary_folder(os.path.dirname(source), "it is read-only")
        self._cache_path = os.path.join(folder, self.get_suitable_cache_subpath(source))

    def get_cache_path(self) -> Any:
        return self._cache_path


def is_durable(function: Dispatcher) -> bool:
    """Return whether other processes find the function on disk."""
    cache: Any = getattr(function, "_cache", None)
    if not isinstance(cache, caching.FunctionCache):
        return False
    temporary = _temporary_folder.cache_info().currsize > 0
    return not (temporary and str(cache.cache_path).startswith(_temporary_folder()))


def is_compiled(function: Dispatcher, signature: Sequence[types.Type]) -> bool:
    """Return whether a durable function is compiled for some types, in this process or on disk."""
    signature = tuple(signature)
    if signature in function.overloads:
        return True
    cache: Any = function._cache
    key = cache._index_key(signature, function.targetctx.codegen())
    return key in cache._cache_file._load_index()


def _save(file: Any, key: Any, data: Any) -> None:
    try:
        _add(file, key, data)
    except OSError as error:
        # The disk is full, for instance. The compiled function itself is usable.
        _say_once(file._cache_path, error.strerror or error)


def _add(file: Any, key: Any, data: Any) -> None:
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
    """Lock a folder against writes of other processes; yield False if that fails."""
    if _flock is None:
        yield False
        return
    # The folder itself is locked: a lock file would stay there for ever.
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
            # Some network file systems cannot lock a folder.
            return False
