"""Let compiled code call POSIX functions, for locks and for the processors of a thread."""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding as llvm
from numba import types

from cnnforge_kernels.cpu.runtime.compiled import publish_address

# Enough memory for a mutex or a condition variable: up to 48 bytes on Linux and 64 on macOS.
LOCK_BYTES = 128

_FUNCTIONS = (
    "pthread_mutex_init",
    "pthread_cond_init",
    "pthread_mutex_lock",
    "pthread_mutex_trylock",
    "pthread_mutex_unlock",
    "pthread_cond_wait",
    "pthread_cond_signal",
    "sched_yield",
)
# Linux only: get the processor that a thread runs on, and set the processors that it may run on.
_PLACING = ("sched_getcpu", "sched_setaffinity")


def _find_functions() -> dict[str, Any] | None:
    """Let compiled code call ``_FUNCTIONS``, and return them; return ``None`` if one is missing.

    In compiled code the names have the prefix ``cnnforge_``. Without the prefix, compiled code
    might find another version of the function than ``ctypes`` does.
    """
    try:
        library = ctypes.CDLL(None)
        functions = {name: getattr(library, name) for name in _FUNCTIONS}
    except (TypeError, OSError, AttributeError):
        return None
    for name, function in functions.items():
        llvm.add_symbol(f"cnnforge_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    return functions


def _function(name: str, arguments: int) -> types.ExternalFunction:
    signature = types.int32(*[types.int64] * arguments)
    return types.ExternalFunction(f"cnnforge_{name}", signature)


def _find_placing() -> bool:
    """Let compiled code call ``_PLACING``, and return whether the system has these functions.

    If one of them is missing, define functions with all these names that return the error -1.
    """
    library = ctypes.CDLL(None) if _functions is not None else None
    found = all(hasattr(library, name) for name in _PLACING)
    for name in _PLACING:
        if found:
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            llvm.add_symbol(f"cnnforge_{name}", address)
        else:
            publish_address(f"cnnforge_{name}", -1)
    return found


_functions = _find_functions()
_placing = _find_placing()
mutex_lock = _function("pthread_mutex_lock", 1)
mutex_trylock = _function("pthread_mutex_trylock", 1)
mutex_unlock = _function("pthread_mutex_unlock", 1)
condition_wait = _function("pthread_cond_wait", 2)
condition_signal = _function("pthread_cond_signal", 1)
sched_yield = _function("sched_yield", 0)
sched_getcpu = _function("sched_getcpu", 0)
sched_setaffinity = _function("sched_setaffinity", 3)


def available() -> bool:
    """Return whether this system has POSIX threads; Windows does not."""
    return _functions is not None


def places_threads() -> bool:
    """Return whether compiled code can choose the processors of a thread; only Linux allows it."""
    return _placing


def init_mutex(address: int) -> None:
    """Initialize a mutex in the ``LOCK_BYTES`` zero bytes at ``address``."""
    if _functions is not None:
        _functions["pthread_mutex_init"](ctypes.c_void_p(address), None)


def init_condition(address: int) -> None:
    """Initialize a condition variable in the ``LOCK_BYTES`` zero bytes at ``address``."""
    if _functions is not None:
        _functions["pthread_cond_init"](ctypes.c_void_p(address), None)
