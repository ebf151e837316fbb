"""The thread pool: each task runs once, none after the caller has left, and processes end."""

import os
import subprocess
import sys
import textwrap

import pytest

from cnnforge_kernels.cpu.runtime import parallel, posix

pytestmark = pytest.mark.skipif(not posix.available(), reason="no POSIX threads")

# Numba keeps compiled functions of files only.
KERNELS = """
import ctypes, os, sys, threading, time
import numpy as np
from numba import carray, int64, njit
from cnnforge_kernels.cpu.runtime import thread_pool
from cnnforge_kernels.cpu.runtime import parallel
from cnnforge_kernels.cpu.runtime import posix
from cnnforge_kernels.cpu.runtime.atomics import (
    atomic_load, atomic_store, fetch_add, float_mode, pause
)
from cnnforge_kernels.cpu.runtime.compiled import KERNEL_SIGNATURE, cached_cfunc, kernel_family
from cnnforge_kernels.cpu.runtime.memory import address_of, load_int64

@kernel_family(1)
def COUNT(_):
    @cached_cfunc(KERNEL_SIGNATURE)
    def count(args, begin, end):  # address of the counts, pauses for each task
        block = carray(args, 2)
        for task in range(begin, end):
            for _ in range(block[1]):
                pause()
            fetch_add(block[0] + 8 * task, 1)
    return count

@kernel_family(1)
def MEET(_):
    @cached_cfunc(KERNEL_SIGNATURE)
    def meet(args, begin, end):  # address of [arrived, mode, mode, left]
        block = carray(args, 1)
        number = fetch_add(block[0], 1)
        fetch_add(block[0] + 8 * (1 + number), float_mode())
        while atomic_load(block[0]) < 2:
            pause()
        for _ in range(20_000 * number):  # the second to come, most often the worker, takes 0.5 ms
            pause()
        fetch_add(block[0] + 24, 1)
    return meet

@kernel_family(1)
def FREE(_):
    @cached_cfunc(KERNEL_SIGNATURE)
    def free(args, begin, end):  # address of [the pool, tasks 1 and 2 that were begun]
        block = carray(args, 1)
        if begin == 0:  # as if another caller released the pool
            atomic_store(load_int64(block[0]), 0)
            return
        fetch_add(block[0] + 8, 1)
        while atomic_load(block[0] + 8) < 2:
            pause()
    return free

@njit(nogil=True)
def jobs(slot, args, tasks, grain, count):
    for _ in range(count):
        parallel.run_kernel(slot, args, tasks, grain)

def run(slot, values, tasks, grain=1, count=1, pauses=0):
    args = np.array([values.ctypes.data, pauses], np.int64)
    jobs(int64(slot), args, int64(tasks), int64(grain), int64(count))

def workers():
    return sum(thread.name.startswith("cnnforge-") for thread in threading.enumerate())

def masks():
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("cnnforge-")]
    return [sorted(os.sched_getaffinity(worker.native_id)) for worker in workers]

def check_counts(count=50):
    values = np.zeros(64, np.int64)
    run(COUNT, values, 64, 1, count, 200)
    assert (values == count).all(), values
"""


@pytest.fixture(scope="module")
def run_program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thread_pool")
    (folder / "pool_kernels.py").write_text(KERNELS)

    def run(program, code=0, **variables):
        path = os.pathsep.join([str(folder), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", "from pool_kernels import *\n" + textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stderr)
        return done.stdout

    return run


STRESS = """
    def work(seed):
        random = np.random.default_rng(seed)
        values = np.zeros(7, np.int64)
        expected = np.zeros(7, np.int64)
        for _ in range(300):
            tasks, grain = int(random.integers(1, 8)), int(random.integers(1, 4))
            count, pauses = int(random.integers(1, 30)), int(random.integers(0, 20))
            run(COUNT, values, tasks, grain, count, pauses)
            expected[:tasks] += count
            if not np.array_equal(values, expected):
                print("wrong", values, expected)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(workers())
"""


@pytest.mark.parametrize("grain", [0, -3])
def test_a_grain_below_one_means_one(run_program, grain):
    program = f"""
        values = np.zeros(7, np.int64)
        run(COUNT, values, 7, {grain}, 3)
        print(values.tolist())
    """
    assert run_program(program, NUMBA_NUM_THREADS="2") == f"{[3] * 7}\n"


@pytest.mark.parametrize("threads", [1, 2, 4, 8])
def test_many_small_jobs_from_four_threads(run_program, threads):
    assert run_program(STRESS, NUMBA_NUM_THREADS=str(threads)) == f"{threads - 1}\n"


def test_two_threads_share_a_job_and_the_caller_waits_for_the_other(run_program):
    printed = run_program(
        """
        run(COUNT, np.zeros(4, np.int64), 4)
        left = []
        for _ in range(20):
            values = np.zeros(4, np.int64)
            run(MEET, values, 2)  # returns only if two threads work at once
            left.append(values[3])
        print(set(left) == {2})
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed == "True\n"


def test_workers_compute_in_the_callers_float_mode(run_program):
    printed = run_program(
        """
        run(COUNT, np.zeros(4, np.int64), 4)
        for mode in (0x400, 0):  # x86: downwards, to the nearest; others may refuse the first
            ctypes.CDLL(None).fesetround(mode)
            values = np.zeros(4, np.int64)
            run(MEET, values, 2)
            print(values[1] == values[2])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed.split() == ["True", "True"]


def test_no_worker_enters_a_closed_job_and_a_busy_pool_makes_callers_work_alone(run_program):
    # The job's kernel is an address that kills the process, and the workers spin all the time.
    printed = run_program(
        """
        check_counts()
        words = thread_pool._words()
        words[thread_pool._PAUSES // 8] = 1 << 60
        words[thread_pool._NEXT // 8] = 0
        words[thread_pool._KERNEL // 8] = 8
        words[thread_pool._STATE // 8] = thread_pool._TAKEN
        check_counts()
        time.sleep(0.05)
        print(words[thread_pool._STATE // 8] == thread_pool._TAKEN, words[thread_pool._NEXT // 8])
        """,
        NUMBA_NUM_THREADS="4",
    )
    assert printed == "True 0\n"


def test_released_pool_takes_the_remaining_tasks(run_program):
    printed = run_program(
        """
        check_counts()
        words = thread_pool._words()
        for _ in range(20):
            values = np.array([words.ctypes.data, 0], np.int64)
            words[thread_pool._STATE // 8] = thread_pool._TAKEN
            run(FREE, values, 3)  # returns only if two threads work at once
        print(values[1], words[thread_pool._STATE // 8])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed == "2 0\n"


def test_a_late_worker_finds_the_job_closed(run_program):
    # The worker sleeps when each job begins, and most of them are over before it is awake. The
    # block that the job was given is filled with an address that kills a process which uses it.
    run_program(
        """
        for _ in range(300):
            values = np.zeros(4, np.int64)
            args = np.array([values.ctypes.data, 0], np.int64)
            jobs(int64(COUNT), args, int64(4), int64(1), int64(1))
            args[0] = 8
            assert (values == 1).all(), values
            time.sleep(0.0005)
        """,
        NUMBA_NUM_THREADS="4",
    )


def test_a_forked_process_starts_its_own_workers(run_program):
    printed = run_program(
        """
        check_counts()
        state = thread_pool._words()[:1]
        state[0] = thread_pool._TAKEN + 1  # as if another thread, or a worker, were in a job
        child = os.fork()
        if child == 0:
            before = workers()
            check_counts()
            print(before, workers(), state[0], flush=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        state[0] = 0
        check_counts()
        print(status, workers())
        """,
        NUMBA_NUM_THREADS="3",
    )
    assert printed.splitlines() == ["0 2 0", "0 2"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("time.sleep(0.01)", 0),  # by then the workers sleep
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("atexit.register(check_counts)", 0),
    ],
)
def test_the_interpreter_exits(run_program, end, code):
    run_program(f"import atexit; check_counts(); {end}", code, NUMBA_NUM_THREADS="4")


def test_first_use_at_exit(run_program):
    run_program("import atexit; atexit.register(check_counts)", NUMBA_NUM_THREADS="2")


def test_numba_sets_the_number_of_threads(run_program):
    printed = run_program(
        """
        import numba
        check_counts()
        numba.set_num_threads(1)
        thread_pool._words()[thread_pool._NEXT // 8] = -1
        check_counts()
        print(thread_pool._words()[thread_pool._NEXT // 8])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed == "-1\n"


def test_without_posix_threads_the_caller_runs_all(run_program):
    printed = run_program(
        """
        posix._functions = None
        check_counts()
        print(parallel.threading_layer(), workers())
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed == "serial 0\n"


@pytest.mark.skipif(
    not posix.places_threads() or len(os.sched_getaffinity(0)) < 2, reason="no two processors"
)
def test_workers_keep_off_the_processor_of_their_caller(run_program):
    printed = run_program(
        """
        every = sorted(os.sched_getaffinity(0))
        check_counts()
        for here in every[:2] * 2:
            os.sched_setaffinity(0, {here})  # the calling thread only
            check_counts()
            print(masks() == [[processor for processor in every if processor != here]])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed.split() == ["True"] * 4


@pytest.mark.skipif(not posix.places_threads(), reason="no placing")
def test_workers_stay_on_the_only_processor(run_program):
    printed = run_program(
        """
        here = {min(os.sched_getaffinity(0))}
        os.sched_setaffinity(0, here)
        check_counts()
        print(masks() == [sorted(here)])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed == "True\n"


def test_workers_run_on_systems_that_cannot_pin_threads(run_program):
    printed = run_program(
        """
        posix._placing = False
        check_counts()
        print(workers(), thread_pool._words()[thread_pool._PINNED // 8])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert printed == "1 0\n"


def test_threading_layer():
    assert parallel.threading_layer() == "thread_pool"
