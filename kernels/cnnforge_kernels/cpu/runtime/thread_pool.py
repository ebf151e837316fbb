"""The threads that kernels run on: one crew for the process, which no caller waits to wake up.

The caller of a kernel opens a job and works on it. Workers that are awake join it, those that come
late find it closed: the caller waits only for workers in the midst of tasks. A parallel loop of
OpenMP begins and ends with a barrier instead, and where another process has the second core an op
waits for it at every call. One job at a time: who finds the crew busy works alone until it is free.

A job is open while its state word has places left. A worker joins by taking a place, in one
compare-and-swap, so that it cannot enter a closed job; it reads the job afterwards, and leaving it
closes the job, for it leaves when no task is left. The caller closes it too, then waits until
nobody is inside.
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
    call_kernel,
    keep_for_ever,
    load_int64,
    publish_address,
    store_int64,
)

# How long an idle worker looks for work before it sleeps, and a caller waits for the last tasks of
# others before it offers its core. Training LeNet in batches of 64 an epoch took 0.174 s with 10 to
# 20 us, 0.182 s without, 0.191 s or more from 100 us on: TensorFlow's threads want the core.
_SPIN_SECONDS = 20e-6

# Bytes from the crew's address. Each has two cache lines, which processors fetch as a pair.
_STATE = 0
_NEXT = 128
_SLEEPERS = 256
_KERNEL, _ARGS, _TASKS, _GRAIN, _MODE = 384, 392, 400, 408, 416
_WORKERS, _PAUSES = 512, 520
# Which processor the last caller was on (+ 1), how many workers have to keep off it, and, for each
# of these, its number for the system.
_CALLER_AT, _PLACED, _THREADS = 528, 536, 544
_MUTEX = 640
_CONDITION = _MUTEX + posix.LOCK_BYTES
_MASK = _CONDITION + posix.LOCK_BYTES  # the processors that workers may use, one bit each
_MASK_BYTES = 128
_BYTES = _MASK + _MASK_BYTES

# The state: workers inside, places left for others, whether somebody has the crew.
_INSIDE = (1 << 16) - 1
_PLACE = 1 << 16
_TAKEN = 1 << 32

# Workers that are told where to run, in a system call each: with more processors than a handful one
# of them is idle, and the system finds it.
_MOST_PLACED = 7

_SAMPLE = 200
_FOR_EVER = 1 << 62  # jobs; Numba compiles no function that cannot return

_memory = np.zeros(_BYTES + 128, np.uint8)
_crew = _memory.ctypes.data + -_memory.ctypes.data % 128
keep_for_ever(_memory)
publish_address("cnnforge_crew", _crew)
_crew_address = types.ExternalFunction("cnnforge_crew", types.int64())


@cached_njit()
def _run_tasks(crew: int) -> None:
    kernel, args = load_int64(crew + _KERNEL), load_int64(crew + _ARGS)
    tasks, grain = load_int64(crew + _TASKS), load_int64(crew + _GRAIN)
    begin = fetch_add(crew + _NEXT, grain)
    while begin < tasks:
        call_kernel(kernel, args, begin, min(begin + grain, tasks))
        begin = fetch_add(crew + _NEXT, grain)


@cached_njit()
def _wake(crew: int, count: int) -> None:
    """Wake some workers. Where the mutex is taken one is going to sleep or waking up: let it be.

    It may then sleep through this job, which costs speed; to wait for it could cost a time slice.
    """
    if posix.mutex_trylock(crew + _MUTEX) == 0:
        posix.mutex_unlock(crew + _MUTEX)
        for _ in range(count):
            posix.condition_signal(crew + _CONDITION)


@cached_njit()
def _clear_the_way(crew: int) -> None:
    """Keep the workers off the processor of the calling thread, which has the crew.

    A system that finds no idle processor for a worker when it is woken puts it on its caller's,
    where it runs in the caller's place. TensorFlow's threads look for work for 0.1 ms after each
    op: of two processors none is idle at that time, and a job then took as long as on one.
    """
    here = types.int64(posix.sched_getcpu())
    if here + 1 == load_int64(crew + _CALLER_AT) or not 0 <= here < 8 * _MASK_BYTES:
        return
    store_int64(crew + _CALLER_AT, here + 1)
    word, bit = crew + _MASK + here // 64 * 8, 1 << (here % 64)
    before = load_int64(word)
    store_int64(word, before & ~bit)
    for number in range(load_int64(crew + _PLACED)):
        # Refused where no processor is left. Then everything stays as it was.
        thread = load_int64(crew + _THREADS + 8 * number)
        posix.sched_setaffinity(thread, _MASK_BYTES, crew + _MASK)
    store_int64(word, before)


@cached_njit()
def run_job(kernel: int, args: int, tasks: int, grain: int, threads: int) -> None:
    """Run tasks 0 to ``tasks - 1``, ``grain`` at a time, on up to ``threads`` threads."""
    crew = _crew_address()
    helpers = min(threads - 1, load_int64(crew + _WORKERS))
    if helpers < 1:
        call_kernel(kernel, args, 0, tasks)
        return
    begin = 0
    while not compare_and_swap(crew + _STATE, 0, _TAKEN):
        # Somebody has the crew: alone, until it is given back.
        call_kernel(kernel, args, begin, min(begin + grain, tasks))
        begin += grain
        if begin >= tasks:
            return
    if load_int64(crew + _PLACED) > 0:
        _clear_the_way(crew)
    places = min(helpers, (tasks - begin + grain - 1) // grain - 1)
    store_int64(crew + _KERNEL, kernel)
    store_int64(crew + _ARGS, args)
    store_int64(crew + _TASKS, tasks)
    store_int64(crew + _GRAIN, grain)
    store_int64(crew + _MODE, float_mode())
    atomic_store(crew + _NEXT, begin)
    atomic_store(crew + _STATE, _TAKEN + places * _PLACE)
    # A worker counts itself before it looks at the state for the last time: one of both sees.
    if atomic_load(crew + _SLEEPERS) > 0:
        _wake(crew, 1)
    _run_tasks(crew)
    state = atomic_load(crew + _STATE)
    while not compare_and_swap(crew + _STATE, state, _TAKEN + (state & _INSIDE)):
        state = atomic_load(crew + _STATE)
    pauses = 0
    most = load_int64(crew + _PAUSES)
    while atomic_load(crew + _STATE) != _TAKEN:
        if pauses < most:
            pause()
            pauses += 1
        else:
            posix.sched_yield()
    atomic_store(crew + _STATE, 0)


@cached_njit()
def _sleep(crew: int) -> None:
    posix.mutex_lock(crew + _MUTEX)
    fetch_add(crew + _SLEEPERS, 1)
    if atomic_load(crew + _STATE) & (_TAKEN - _PLACE) == 0:
        posix.condition_wait(crew + _CONDITION, crew + _MUTEX)
    fetch_add(crew + _SLEEPERS, -1)
    posix.mutex_unlock(crew + _MUTEX)


@cached_njit()
def _join(crew: int) -> int:
    """Wait for a job and take a place; returns how many are left."""
    pauses = 0
    while True:
        state = atomic_load(crew + _STATE)
        places = (state & (_TAKEN - _PLACE)) // _PLACE
        if places > 0:
            if compare_and_swap(crew + _STATE, state, state - _PLACE + 1):
                return places - 1
        elif pauses < load_int64(crew + _PAUSES):
            pause()
            pauses += 1
        else:
            _sleep(crew)
            pauses = 0


@cached_njit()
def _leave(crew: int) -> None:
    state = atomic_load(crew + _STATE)
    while not compare_and_swap(crew + _STATE, state, _TAKEN + (state & _INSIDE) - 1):
        state = atomic_load(crew + _STATE)


@cache
def _compiled_worker() -> Callable[[int], None]:
    @cached_cfunc(types.void(types.int64))
    def worker(jobs: int) -> None:
        crew = _crew_address()
        done = 0
        while done < jobs:
            places = _join(crew)
            sleepers = atomic_load(crew + _SLEEPERS)
            if places > 0 and sleepers > 0:
                # The caller wakes one only, because it costs the caller's time.
                _wake(crew, min(places, sleepers))
            # Else a result that is subnormal would depend on the thread that computes it.
            set_float_mode(load_int64(crew + _MODE))
            _run_tasks(crew)
            _leave(crew)
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
    """How many pauses take as long; a processor's pause lasts 3 to 50 nanoseconds."""
    spin, best = _compiled_pauses(), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        spin(_SAMPLE)
        best = min(best, time.perf_counter() - start)
    return int(_SAMPLE * seconds / best)


def start() -> None:
    """Start the workers, one fewer than the threads that Numba may use.

    They never return from compiled code, which runs without the interpreter lock: the interpreter
    does not wait for daemon threads, and what these use is kept until the process ends.
    """
    wanted = numba.config.NUMBA_NUM_THREADS - 1
    if wanted < 1 or not posix.available():
        return
    worker = _compiled_worker()
    _words()[_PAUSES // 8] = _pauses_of(_SPIN_SECONDS)
    posix.init_mutex(_crew + _MUTEX)
    posix.init_condition(_crew + _CONDITION)
    started: list[threading.Thread] = []
    for number in range(wanted):
        name = f"cnnforge-{number + 1}"
        thread = threading.Thread(target=worker, args=(_FOR_EVER,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is about to exit, or the system allows no more threads.
            break
        started.append(thread)
    _place(started)
    _words()[_WORKERS // 8] = len(started)


def _place(workers: list[threading.Thread]) -> None:
    """Have workers keep off their caller's processor, where there are few processors."""
    if not posix.places_threads() or len(workers) > _MOST_PLACED:
        return
    processors = os.sched_getaffinity(0)
    if len(processors) < 2 or max(processors) >= 8 * _MASK_BYTES:
        return
    mask = _words()[_MASK // 8 :].view(np.uint64)
    for processor in processors:
        mask[processor // 64] |= np.uint64(1 << processor % 64)
    threads = [worker.native_id or 0 for worker in workers]
    _words()[_THREADS // 8 :][: len(threads)] = threads
    _words()[_PLACED // 8] = len(threads)


def _words() -> Any:
    first = _crew - _memory.ctypes.data
    return _memory[first : first + _BYTES].view(np.int64)


def forget() -> None:
    """Make the crew one without workers: a process has none of its parent's threads."""
    _words()[:] = 0
