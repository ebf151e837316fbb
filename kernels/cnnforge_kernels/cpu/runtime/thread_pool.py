"""The thread pool: one for the process; a caller never waits for a worker to wake up.

The caller of a kernel opens a job and works on it. Workers that are awake join the job, and workers
that come late find it closed: the caller waits only for workers that have begun a task. A parallel
loop of OpenMP begins and ends with a barrier, so that each op waits for a core that another process
uses. The pool has one job at a time. A caller that finds the pool busy works alone until the pool
is free.

A job is open while its state word has places left. A worker joins by taking a place in one
compare-and-swap, so that it cannot enter a closed job, and reads the job afterwards. A worker
leaves when no task is left, and thereby closes the job. The caller closes the job too, and then
waits until no worker is inside.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types

from cnnforge_kernels.cpu.runtime import posix
from cnnforge_kernels.cpu.runtime.atomics import (
    atomic_load,
    atomic_store,
    compare_and_swap,
    fetch_add,
    float_mode,
    pause,
    set_float_mode,
)
from cnnforge_kernels.cpu.runtime.compiled import (
    cached_cfunc,
    cached_njit,
    keep_for_ever,
    publish_address,
)
from cnnforge_kernels.cpu.runtime.memory import call_kernel, load_int64, store_int64

# An idle worker spins this long before it sleeps, and a caller spins this long for the last tasks
# of workers before it offers its core. Training LeNet in batches of 64, an epoch took 0.174 s with
# 10 to 20 us, 0.182 s with 0, and 0.191 s or more with 100 us: TensorFlow's threads want the core.
_SPIN_SECONDS = 20e-6

# Fields of the pool, in bytes from its address. Fields that several threads write have two cache
# lines each, because processors fetch lines in pairs.
_STATE = 0
_NEXT = 128
_SLEEPERS = 256
_KERNEL, _ARGS, _TASKS, _GRAIN, _MODE = 384, 392, 400, 408, 416
_WORKERS, _PAUSES = 512, 520
# The processor of the last caller (+ 1), the number of workers that keep off it, and the system's
# number of each of these workers.
_CALLER_AT, _PINNED, _THREADS = 528, 536, 544
_MUTEX = 640
_CONDITION = _MUTEX + posix.LOCK_BYTES
_MASK = _CONDITION + posix.LOCK_BYTES  # the processors that workers may use, one bit each
_MASK_BYTES = 128
_BYTES = _MASK + _MASK_BYTES

# Parts of the state word: workers inside, places left, and whether a caller has the pool.
_INSIDE = (1 << 16) - 1
_PLACE = 1 << 16
_TAKEN = 1 << 32

# The caller pins this many workers at most, with a system call each. With more processors than that
# one is idle, and the system finds it.
_MAX_PINNED = 7

_SAMPLE = 200
_FOR_EVER = 1 << 62  # jobs; Numba does not compile a function that never returns

_memory = np.zeros(_BYTES + 128, np.uint8)
_pool = _memory.ctypes.data + -_memory.ctypes.data % 128
keep_for_ever(_memory)
publish_address("cnnforge_thread_pool", _pool)
_pool_address = types.ExternalFunction("cnnforge_thread_pool", types.int64())


@cached_njit()
def _run_tasks(pool: int) -> None:
    kernel, args = load_int64(pool + _KERNEL), load_int64(pool + _ARGS)
    tasks, grain = load_int64(pool + _TASKS), load_int64(pool + _GRAIN)
    begin = fetch_add(pool + _NEXT, grain)
    while begin < tasks:
        call_kernel(kernel, args, begin, min(begin + grain, tasks))
        begin = fetch_add(pool + _NEXT, grain)


@cached_njit()
def _wake(pool: int, count: int) -> None:
    """Wake ``count`` workers; do nothing if the mutex is taken.

    A worker takes the mutex while it falls asleep or wakes up. It may then miss this job, which
    costs some speed. To wait for the mutex could cost a time slice.
    """
    if posix.mutex_trylock(pool + _MUTEX) == 0:
        posix.mutex_unlock(pool + _MUTEX)
        for _ in range(count):
            posix.condition_signal(pool + _CONDITION)


@cached_njit()
def _keep_off_callers_cpu(pool: int) -> None:
    """Keep the workers off the processor of the calling thread, which has the pool.

    If the system finds no idle processor for a woken worker, it puts the worker on the processor of
    the caller, which then has to wait. TensorFlow's threads look for work for 0.1 ms after each op:
    on two processors neither is idle in that time, and a job took as long as on one processor.
    """
    here = types.int64(posix.sched_getcpu())
    if here + 1 == load_int64(pool + _CALLER_AT) or not 0 <= here < 8 * _MASK_BYTES:
        return
    store_int64(pool + _CALLER_AT, here + 1)
    word, bit = pool + _MASK + here // 64 * 8, 1 << (here % 64)
    before = load_int64(word)
    store_int64(word, before & ~bit)
    for number in range(load_int64(pool + _PINNED)):
        # The system refuses this if no processor is left. Then everything stays as it was.
        thread = load_int64(pool + _THREADS + 8 * number)
        posix.sched_setaffinity(thread, _MASK_BYTES, pool + _MASK)
    store_int64(word, before)


@cached_njit()
def run_job(kernel: int, args: int, tasks: int, grain: int, threads: int) -> None:
    """Run tasks 0 to ``tasks - 1``, ``grain`` at a time, on up to ``threads`` threads."""
    pool = _pool_address()
    helpers = min(threads - 1, load_int64(pool + _WORKERS))
    if helpers < 1:
        call_kernel(kernel, args, 0, tasks)
        return
    begin = 0
    while not compare_and_swap(pool + _STATE, 0, _TAKEN):
        # Another caller has the pool: work alone until it is free.
        call_kernel(kernel, args, begin, min(begin + grain, tasks))
        begin += grain
        if begin >= tasks:
            return
    if load_int64(pool + _PINNED) > 0:
        _keep_off_callers_cpu(pool)
    places = min(helpers, (tasks - begin + grain - 1) // grain - 1)
    store_int64(pool + _KERNEL, kernel)
    store_int64(pool + _ARGS, args)
    store_int64(pool + _TASKS, tasks)
    store_int64(pool + _GRAIN, grain)
    store_int64(pool + _MODE, float_mode())
    atomic_store(pool + _NEXT, begin)
    atomic_store(pool + _STATE, _TAKEN + places * _PLACE)
    # A worker counts itself as a sleeper before it reads the state for the last time. So the worker
    # sees the job, or the caller sees the sleeper.
    if atomic_load(pool + _SLEEPERS) > 0:
        _wake(pool, 1)
    _run_tasks(pool)
    state = atomic_load(pool + _STATE)
    while not compare_and_swap(pool + _STATE, state, _TAKEN + (state & _INSIDE)):
        state = atomic_load(pool + _STATE)
    pauses = 0
    max_pauses = load_int64(pool + _PAUSES)
    while atomic_load(pool + _STATE) != _TAKEN:
        if pauses < max_pauses:
            pause()
            pauses += 1
        else:
            posix.sched_yield()
    atomic_store(pool + _STATE, 0)


@cached_njit()
def _sleep(pool: int) -> None:
    posix.mutex_lock(pool + _MUTEX)
    fetch_add(pool + _SLEEPERS, 1)
    if atomic_load(pool + _STATE) & (_TAKEN - _PLACE) == 0:
        posix.condition_wait(pool + _CONDITION, pool + _MUTEX)
    fetch_add(pool + _SLEEPERS, -1)
    posix.mutex_unlock(pool + _MUTEX)


@cached_njit()
def _take_job(pool: int) -> int:
    """Wait for a job and take a place in it; return the number of places left."""
    pauses = 0
    while True:
        state = atomic_load(pool + _STATE)
        places = (state & (_TAKEN - _PLACE)) // _PLACE
        if places > 0:
            if compare_and_swap(pool + _STATE, state, state - _PLACE + 1):
                return places - 1
        elif pauses < load_int64(pool + _PAUSES):
            pause()
            pauses += 1
        else:
            _sleep(pool)
            pauses = 0


@cached_njit()
def _leave(pool: int) -> None:
    state = atomic_load(pool + _STATE)
    while not compare_and_swap(pool + _STATE, state, _TAKEN + (state & _INSIDE) - 1):
        state = atomic_load(pool + _STATE)


@cache
def _compiled_worker() -> Callable[[int], None]:
    @cached_cfunc(types.void(types.int64))
    def worker(jobs: int) -> None:
        pool = _pool_address()
        done = 0
        while done < jobs:
            places = _take_job(pool)
            sleepers = atomic_load(pool + _SLEEPERS)
            if places > 0 and sleepers > 0:
                # The caller has woken one worker only, because that takes the caller's time.
                _wake(pool, min(places, sleepers))
            # With different modes a subnormal result would depend on the thread that computes it.
            set_float_mode(load_int64(pool + _MODE))
            _run_tasks(pool)
            _leave(pool)
            done += 1

    keep_for_ever(worker)
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(worker.address)


@cache
def _compiled_pauses() -> Callable[[int], None]:
    @cached_cfunc(types.void(types.int64))
    def pauses(count: int) -> None:
        for _ in range(count):
            pause()

    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(pauses.address)


def _pauses_of(seconds: float) -> int:
    """Return the number of pauses that take ``seconds``; one takes 3 to 50 nanoseconds."""
    spin, best = _compiled_pauses(), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        spin(_SAMPLE)
        best = min(best, time.perf_counter() - start)
    return int(_SAMPLE * seconds / best)


def start() -> None:
    """Start the workers, one fewer than the threads that Numba may use.

    The workers are daemon threads, for which the interpreter does not wait. They never return from
    compiled code, which runs without the interpreter lock, and the memory that they use is kept
    until the process ends.
    """
    wanted = numba.config.NUMBA_NUM_THREADS - 1
    if wanted < 1 or not posix.available():
        return
    worker = _compiled_worker()
    _words()[_PAUSES // 8] = _pauses_of(_SPIN_SECONDS)
    posix.init_mutex(_pool + _MUTEX)
    posix.init_condition(_pool + _CONDITION)
    started: list[threading.Thread] = []
    for number in range(wanted):
        name = f"cnnforge-{number + 1}"
        thread = threading.Thread(target=worker, args=(_FOR_EVER,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is about to exit, or the system does not allow more threads.
            break
        started.append(thread)
    _pin(started)
    _words()[_WORKERS // 8] = len(started)


def _pin(workers: list[threading.Thread]) -> None:
    """Let callers keep the workers off their processor, if there are few processors."""
    if not posix.places_threads() or len(workers) > _MAX_PINNED:
        return
    processors = os.sched_getaffinity(0)
    if len(processors) < 2 or max(processors) >= 8 * _MASK_BYTES:
        return
    mask = _words()[_MASK // 8 :].view(np.uint64)
    for processor in processors:
        mask[processor // 64] |= np.uint64(1 << processor % 64)
    threads = [worker.native_id or 0 for worker in workers]
    _words()[_THREADS // 8 :][: len(threads)] = threads
    _words()[_PINNED // 8] = len(threads)


def _words() -> Any:
    first = _pool - _memory.ctypes.data
    return _memory[first : first + _BYTES].view(np.int64)


def forget() -> None:
    """Reset the pool in a forked process, which has none of its parent's threads."""
    _words()[:] = 0
