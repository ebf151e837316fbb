"""Make Numba's disk cache safe for several processes that compile at once.

Numba compiles a function once for each combination of argument types. It keeps each compiled
variant in a file, `name.1.nbc`, `name.2.nbc`, and so on, and lists the files in an index. If two
processes read the index at the same time, both choose the same name for their new files, and one
file overwrites the other. Then Numba loads the wrong variant. This leads to an error, or to a wrong
result if the variants differ only in numbers that the code contains, as kernels do. So with this
package a process that adds a variant locks the folder, and writes the code before the index.

If a process cannot write to the cache, it compiles the functions for itself, and warns once.

This is a separate package, because both cnnforge_kernels and cnnforge need it.
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
from numba.core.cpu import CPUContext
from numba.core.dispatcher import Dispatcher
from numba.core.runtime import rtsys

try:
    import fcntl
except ImportError:  # Windows
    _flock = None
else:
    _flock = fcntl.flock
    _ALONE = fcntl.LOCK_EX | fcntl.LOCK_NB

# The number of seconds to wait for the lock. After that a process writes without the lock, because
# a stopped process could hold the lock for ever.
_PATIENCE = 1.0
# Name of the package whose functions are loaded without all types of Numba.
_KERNELS = "cnnforge_kernels"
_log = logging.getLogger("cnnforge.disk_cache")


def share_disk_cache() -> None:
    """Make sure that only one process at a time writes to Numba's disk cache.

    The change applies to all Numba functions of this process, because any function may call a
    kernel. The change cannot be undone. A second call changes nothing.
    """
    caching.IndexDataCacheFile.save = _save
    caching.Cache.load_overload = _load_overload
    for kind in (caching.CompileResultCacheImpl, caching.CodeLibraryCacheImpl):
        if _TemporaryLocator not in kind._locator_classes:
            kind._locator_classes = [*kind._locator_classes, _TemporaryLocator]


def temporary_folder(wanted: str, error: object) -> str:
    """Return a temporary folder for compiled functions; this process removes it when it exits.

    The first call also logs a warning that the compiled functions are not kept on disk.

    Args:
        wanted: Folder that this process cannot write to.
        error: Reason why the process cannot write to that folder.
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
    """A cache locator of Numba that chooses the temporary folder.

    Numba tries its own locators first. If they all fail, Numba uses this locator; without it, Numba
    would raise an error.
    """

    def __init__(self, function: Any, source: str) -> None:
        self._py_file = source
        self._lineno = function.__code__.co_firstlineno
        folder = temporary_folder(os.path.dirname(source), "it is read-only")
        self._cache_path = os.path.join(folder, self.get_suitable_cache_subpath(source))

    def get_cache_path(self) -> Any:
        return self._cache_path


def is_durable(function: Dispatcher) -> bool:
    """Return whether Numba keeps the compiled code of a function on disk for other processes."""
    cache: Any = getattr(function, "_cache", None)
    if not isinstance(cache, caching.FunctionCache):
        return False
    temporary = _temporary_folder.cache_info().currsize > 0
    return not (temporary and str(cache.cache_path).startswith(_temporary_folder()))


def is_compiled(function: Dispatcher, signature: Sequence[types.Type]) -> bool:
    """Return whether a function has been compiled for given types, in this process or on disk.

    Args:
        function: Function for which ``is_durable`` returns ``True``.
        signature: Types of the function's arguments.
    """
    signature = tuple(signature)
    if signature in function.overloads:
        return True
    cache: Any = function._cache
    key = cache._index_key(signature, function.targetctx.codegen())
    return key in cache._cache_file._load_index()


_load_with_all_types = caching.Cache.load_overload


def _load_overload(cache: Any, signature: Any, context: Any) -> Any:
    """Load a function from the disk cache, as Numba does.

    Numba first imports all its modules with types and functions, also ``scipy.linalg``, which takes
    longer than all the rest of a first prediction. Only compiling needs them, and imports them
    itself. The code of a kernel needs Numba's runtime.
    """
    # Functions of other packages may call anything that Numba knows.
    is_kernel = cache._py_func.__module__.partition(".")[0] == _KERNELS
    if not is_kernel or not isinstance(context, CPUContext):
        return _load_with_all_types(cache, signature, context)
    rtsys.initialize(context)
    with cache._guard_against_spurious_io_errors():
        return cache._load_overload(signature, context)
    return None


def _save(file: Any, key: Any, data: Any) -> None:
    try:
        _add(file, key, data)
    except OSError as error:
        # The disk may be full, for instance. Do not raise the error, because this process can still
        # call the compiled function.
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
    """Lock a folder while the context is open; yield ``True`` if the folder could be locked."""
    if _flock is None:
        yield False
        return
    # Lock the folder itself, because a lock file could never be removed safely.
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
