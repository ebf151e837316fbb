"""Scratch memory that the kernels of all prepared layers share.

New memory from the system is slow, because the system sets each of its pages to zero. And memory
that the last layer used is still in the second-level cache. So there are a few slots of memory for
each size, which are never freed. A kernel takes a free slot, preferably that of its processor.
"""

from __future__ import annotations

import os
import threading
from functools import cache

import numba
import numpy as np

from cnnforge_kernels.cpu.prepared.arrays import aligned_empty
from cnnforge_kernels.cpu.runtime import posix
from cnnforge_kernels.cpu.runtime.atomics import atomic_store, compare_and_swap, pause
from cnnforge_kernels.cpu.runtime.compiled import cached_njit, keep_for_ever
from cnnforge_kernels.cpu.runtime.memory import load_int64

# A pool begins with the number of its slots and the number of bytes of a slot. Then there is a
# cache line for each slot, whose first word is 1 while the slot is in use, and then the slots.
_SLOTS, _SLOT_BYTES = 0, 8
_LINE = 64
_MIN_BYTES = 512 * 1024
_lock = threading.Lock()
_flags: list[np.ndarray] = []


def scratch_pool(needed: int) -> int:
    """Return the address of a pool whose slots have at least ``needed`` bytes.

    Args:
        needed: Number of bytes.
    """
    size = _MIN_BYTES
    while size < needed:
        size *= 2
    with _lock:
        return _pool(size)


@cache
def _pool(size: int) -> int:
    # A thread that finds no free slot waits, so more slots than threads are needed only if several
    # Python threads run layers at the same time.
    slots = 2 * numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    memory = aligned_empty(_LINE * (1 + slots) + slots * size, np.uint8)
    memory[:16].view(np.int64)[:] = slots, size
    flags = memory[_LINE : _LINE * (1 + slots)]
    flags[:] = 0
    _flags.append(flags)
    keep_for_ever(memory)
    return memory.ctypes.data


@cached_njit()
def take_scratch(pool: int) -> int:
    """Take a free slot of a pool, and return its number."""
    slots = load_int64(pool + _SLOTS)
    slot = max(posix.sched_getcpu(), 0) % slots
    while not compare_and_swap(pool + _LINE * (1 + slot), 0, 1):
        slot = (slot + 1) % slots
        pause()
    return slot


@cached_njit()
def scratch_address(pool: int, slot: int) -> int:
    """Return the address of a slot, which begins at a cache line."""
    slots, size = load_int64(pool + _SLOTS), load_int64(pool + _SLOT_BYTES)
    return pool + _LINE * (1 + slots) + slot * size


@cached_njit()
def free_scratch(pool: int, slot: int) -> None:
    """Let other kernels use a slot."""
    atomic_store(pool + _LINE * (1 + slot), 0)


def _after_fork() -> None:
    # The threads that used slots do not exist in a forked process.
    for flags in _flags:
        flags[:] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
