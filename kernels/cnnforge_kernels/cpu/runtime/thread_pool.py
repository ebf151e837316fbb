"""A thread pool that runs the tasks of kernels; a caller never waits for a worker to wake up.

The caller of a kernel opens a *job*, which consists of the tasks of one call, and runs tasks
itself. Workers that are awake join the job. When no task is left, the job is closed: a worker that
wakes up later cannot join it, and the caller waits only for the workers that have joined. The pool
has one job at a time. If a caller finds the pool busy, it runs its tasks alone until the pool is
free.

OpenMP is not used. Its parallel loops begin and end with a barrier. If another process used the
core of one thread, each op would wait for this thread at the barrier.

The state of a job is one int64. It contains the number of workers in the job, and the number of
*places*: the number of workers that may still join. A job without places is closed. A worker joins
the job by one compare-and-swap of the state, so that it cannot join a closed job. It reads the
other fields of the job only after it has joined. A worker that finds no task left closes the job
and leaves. The caller closes the job too, and then waits until no worker is in the job.
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

# The time for which a thread waits in a loop. After this time an idle worker sleeps, and a caller
# that waits for the last tasks of workers calls sched_yield. An epoch of LeNet with batches of 64
# took 0.174 s with 10 to 20 us and 0.182 s with 0 us. It took 0.191 s or more with 100 us, because
# TensorFlow's threads then waited for the core.
_SPIN_SECONDS = 20e-6

# Fields of the pool, as byte offsets from the address of the pool. A field that several threads
# write must not share a cache line with others. It has two cache lines of its own, because
# processors fetch cache lines in pairs.
_STATE = 0
_NEXT = 128
_SLEEPERS = 256
_KERNEL, _ARGS, _TASKS, _GRAIN, _MODE = 384, 392, 400, 408, 416
_WORKERS, _PAUSES = 512, 520
# The index of the last caller's processor plus 1; the number of workers that must not run on that
# processor; and the system's thread ids of these workers.
_CALLER_AT, _PINNED, _THREADS = 528, 536, 544
_MUTEX = 640
_CONDITION = _MUTEX + posix.LOCK_BYTES
_MASK = _CONDITION + posix.LOCK_BYTES  # the processors that workers may use, one bit each
_MASK_BYTES = 128
_BYTES = _MASK + _MASK_BYTES

# Parts of the state of a job: bits 0 to 15 are the number of workers in the job, bits 16 to 31 are
# the number of workers that may still join, and bit 32 is set while a caller uses the pool.
_INSIDE = (1 << 16) - 1
_PLACE = 1 << 16
_TAKEN = 1 << 32

# The maximum number of workers for which _keep_off_callers_cpu is used. The function makes one
# system call for each worker. With more workers it is not needed, because there are more
# processors. One of them is usually idle, and the system wakes the worker there.
_MAX_PINNED = 7

_SAMPLE = 200
# The number of jobs after which a worker ends. A worker should never end, but Numba does not
# compile a function that never returns, so this is a number that is never reached.
_FOR_EVER = 1 << 62

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
    """Wake ``count`` workers; do nothing if the mutex is locked.

    A worker holds the mutex while it falls asleep or wakes up. In this case the function wakes no
    worker for this job, because waiting for the mutex could take a whole time slice of the system.
    """
    if posix.mutex_trylock(pool + _MUTEX) == 0:
        posix.mutex_unlock(pool + _MUTEX)
        for _ in range(count):
            posix.condition_signal(pool + _CONDITION)


@cached_njit()
def _keep_off_callers_cpu(pool: int) -> None:
    """Forbid the workers to run on the processor of the calling thread.

    When a worker wakes up and no processor is idle, the system runs it on the caller's processor,
    and the caller has to wait. This happens often, because TensorFlow's threads keep their
    processors busy for 0.1 ms after each op. Without this function a job on two processors was as
    slow as on one.
    """
    here = types.int64(posix.sched_getcpu())
    if here + 1 == load_int64(pool + _CALLER_AT) or not 0 <= here < 8 * _MASK_BYTES:
        return
    store_int64(pool + _CALLER_AT, here + 1)
    word, bit = pool + _MASK + here // 64 * 8, 1 << (here % 64)
    before = load_int64(word)
    store_int64(word, before & ~bit)
    for number in range(load_int64(pool + _PINNED)):
        # If no processor is left for the worker, this call fails and changes nothing.
        thread = load_int64(pool + _THREADS + 8 * number)
        posix.sched_setaffinity(thread, _MASK_BYTES, pool + _MASK)
    store_int64(word, before)


@cached_njit()
def run_job(kernel: int, args: int, tasks: int, grain: int, threads: int) -> None:
    """Run the tasks of a kernel on up to ``threads`` threads, of which the caller is one.

    Args:
        kernel: Address of the kernel.
        args: Address of the argument block of the kernel.
        tasks: Number of tasks.
        grain: Number of tasks that a thread runs at a time.
        threads: Maximum number of threads.
    """
    pool = _pool_address()
    helpers = min(threads - 1, load_int64(pool + _WORKERS))
    if helpers < 1:
        call_kernel(kernel, args, 0, tasks)
        return
    begin = 0
    while not compare_and_swap(pool + _STATE, 0, _TAKEN):
        # Another caller uses the pool: run tasks alone until the pool is free.
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
    # Wake a sleeping worker. A worker cannot fall asleep and miss this job: it increments _SLEEPERS
    # before it reads the state for the last time, and the caller writes the state before it reads
    # _SLEEPERS here. So either the worker sees the job, or the caller sees the sleeper.
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
    """Wait for a job, join it, and return the number of workers that may still join it."""
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
                # The caller has woken only one worker, to save time. Wake the other workers here.
                _wake(pool, min(places, sleepers))
            # Use the caller's floating-point mode. Otherwise a subnormal result would depend on
            # the thread that computes it.
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
    """Measure ``pause``, and return the number of its calls that together take ``seconds``."""
    spin, best = _compiled_pauses(), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        spin(_SAMPLE)
        best = min(best, time.perf_counter() - start)
    return int(_SAMPLE * seconds / best)


def start() -> None:
    """Start the workers, one fewer than ``NUMBA_NUM_THREADS``.

    The workers are daemon threads, so that the interpreter does not wait for them when it exits.
    The workers still run compiled code then, so the memory that they use is never freed.
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
    """Set the fields of the pool that ``_keep_off_callers_cpu`` reads, if there are few workers."""
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
    """Reset the pool in a forked process, which does not have the threads of its parent."""
    _words()[:] = 0
