"""Tests of compiling ahead: what the worker processes compile, and what may go wrong there."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from cnnforge.ops import ahead
from cnnforge.ops.ahead import pool
from cnnforge.ops.ahead.job import Job, arguments, digest
from cnnforge.ops.ahead.tasks import make_jobs
from cnnforge_disk_cache import is_durable, temporary_folder

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="with one processor nothing is compiled ahead",
)

PREPARE = """
import os, signal, sys, threading, time
import numpy as np
from cnnforge.ops import ahead
from cnnforge.ops.ahead import pool
import ahead_ops

def compile_ahead(op, *shapes, gradients=True):
    with ahead.collecting() as uses:
        op.collect(shapes, {})
    ahead.compile_ahead(uses, gradients=gradients)

def hits(op):
    return [len(step.function.stats.cache_hits) for step in (*op.backward_steps, op.forward_step)]

def misses(op):
    return [len(step.function.stats.cache_misses) for step in (*op.backward_steps, op.forward_step)]

started = []
_start = pool._start
def start(*files):
    started.append(_start(*files))
    return started[-1]
pool._start = start
"""


@pytest.fixture
def run(run_python, tmp_path):
    def run(source, *arguments, **environment):
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), **environment}
        environment.setdefault("CNNFORGE_COMPILE_AHEAD", "1")
        return run_python(PREPARE + source, *arguments, **environment).split()

    return run


SCALE = """
op = ahead_ops.scale_op
compile_ahead(op, (4,), (1,))
four, one = np.ones(4, "f"), np.ones(1, "f")
for step in op.backward_steps:
    op.program(step)
gradients = op.run_backward([four, one], [op.run(four, one)], [four])
print(gradients[0].sum(), gradients[1].sum(), *hits(op), *misses(op), len(started))
"""


def test_functions_that_workers_compile_are_loaded_from_disk(run):
    # One of the two backward functions is a plain function, which `ArrayOp` compiles.
    assert run(SCALE) == ["scale_grad_inputs", "12.0", "12.0", *"111000", "2"]


def test_no_worker_is_started_when_everything_is_on_disk(run):
    run(SCALE)
    assert run(SCALE) == ["scale_grad_inputs", "12.0", "12.0", *"111000", "0"]


@pytest.mark.parametrize("way", ["variable", "processors"])
def test_functions_are_compiled_here_without_workers(run, way):
    first = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" if way == "processors" else ""
    environment = {"CNNFORGE_COMPILE_AHEAD": "0"} if way == "variable" else {}
    assert run(first + SCALE, **environment)[-7:] == [*"000111", "0"]


def test_workers_compile_nothing_for_a_cache_that_cannot_be_written(monkeypatch, caplog):
    folder = temporary_folder("/nowhere", "it is read-only")
    monkeypatch.setattr(numba.config, "CACHE_DIR", folder)
    assert not is_durable(numba.njit(cache=True)(exists))


def test_only_forward_functions_are_compiled_for_a_prediction(run):
    source = SCALE.replace("(4,), (1,))", "(4,), (1,), gradients=False)")
    # One function is not worth a worker.
    assert run(source)[-7:] == [*"000111", "0"]


DYING = """
op = ahead_ops.dying_op
compile_ahead(op, (4,))
for step in (*op.backward_steps, op.forward_step):
    op.program(step)
print(*hits(op), *misses(op), *(worker.returncode for worker in started))
"""


def test_a_worker_that_dies_loses_no_other_job(run):
    # The worker has compiled the function, and died in the call.
    *counts, first, second = run(DYING)
    assert counts == list("1100")
    assert sorted([int(first), int(second)]) == [-6, 0]


def test_without_processes_functions_are_compiled_here(run):
    source = "def _fail(*_): raise BlockingIOError\npool._start = _fail\n"
    assert run(source + SCALE)[-7:] == [*"000111", "0"]


def test_workers_that_hang_are_ended(run):
    source = "pool._MAX_SECONDS = 3\ncompile_ahead(ahead_ops.endless_op, (4,))\n"
    assert "-9" in run(source + "print(*(worker.returncode for worker in started))")


REFUSED = """
sys.path.insert(0, sys.argv[1])
import uses_framework
op = uses_framework.op
compile_ahead(op, (4,))
op.program(op.backward_steps[0])
print(len(started), misses(op)[0])
"""


@pytest.mark.parametrize("statement", ["from keras import NUMBER", "import keras"])
def test_a_module_that_imports_a_framework_is_compiled_here(run, tmp_path, statement):
    (tmp_path / "keras.py").write_text("NUMBER = 1")
    (tmp_path / "uses_framework.py").write_text(
        f"""
import numba
import ahead_ops
try:
    {statement}
except ImportError:
    NUMBER = 2

@numba.njit(cache=True)
def copy_backward(grad_outputs, grad_inputs):
    grad_inputs[:] = grad_outputs

op = ahead_ops.unary("uses_framework", copy_backward)
"""
    )
    # `import keras` leaves a module in the globals, so that no worker is started.
    workers = "0" if statement == "import keras" else "2"
    assert run(REFUSED, tmp_path) == [workers, "1"]


def exists(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def ended(processes):
    end = time.monotonic() + 60
    while any(map(exists, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


ENDING = """
def end():
    while len(started) < 2:
        time.sleep(0.01)
    print(*(w.pid for w in started), *(os.getsid(w.pid) == os.getsid(0) for w in started))
    sys.stdout.flush()
    time.sleep(1)
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))

threading.Thread(target=end).start()
try:
    compile_ahead(ahead_ops.endless_op, (4,))
except KeyboardInterrupt:
    print(*(worker.returncode for worker in started))
"""


def test_an_interrupt_ends_the_workers(run):
    *processes, first_session, second_session, first, second = run(ENDING, "SIGINT")
    # Workers have sessions of their own, so that a Ctrl-C in the terminal reaches the parent only.
    assert (first_session, second_session) == ("False", "False")
    assert -9 in (int(first), int(second))
    assert ended(map(int, processes))


def test_workers_end_when_the_process_is_killed(run):
    source = "import subprocess\nrun = subprocess.run([sys.executable, '-c', os.environ['SOURCE'], "
    source += "'SIGKILL'], stdout=subprocess.PIPE, text=True)\nprint(run.stdout)"
    processes = run(source, SOURCE=PREPARE + ENDING)[:2]
    assert ended(map(int, processes))


HOLDING = """
import ctypes, os, subprocess, sys
code = "import ctypes, os; from cnnforge.ops.ahead import worker; worker._end_by_signal();"
code += "print(os.getpid(), flush=True); ctypes.PyDLL(None).pause()"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this signal")
def test_a_worker_whose_function_holds_the_gil_ends_with_its_parent():
    done = subprocess.run([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE, text=True)
    assert ended([int(done.stdout)])


KERAS = """
from cnnforge.cli._import_keras import import_keras
import_keras()
import keras
from cnnforge.conversion import decide
from cnnforge_plugins.layers.global_average_pooling2d import global_average_pool2d as op
model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.GlobalAveragePooling2D()])
decide(model, "numba")
print(len(started), *misses(op), op.program(op.forward_step).is_made)
for step in (*op.backward_steps, op.forward_step):
    op.program(step)
print(*hits(op), *misses(op))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_the_layers_of_a_model_are_compiled_before_it_is_forged(run, backend):
    pytest.importorskip(backend)
    assert run(KERAS, KERAS_BACKEND=backend) == [*"200", "True", *"1100"]


def use(op, *shapes):
    with ahead.collecting() as uses:
        op.collect(shapes, {})
    return uses


@pytest.fixture
def scale_op(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    # No function counts as compiled already.
    monkeypatch.setattr("cnnforge.ops.ahead.tasks._can_travel", lambda *_: True)
    return importlib.import_module("ahead_ops").scale_op


def test_first_calls_and_backward_functions_come_first(scale_op):
    uses = [*use(scale_op, (None,), (1,)), *use(scale_op, (4,), (1,)), *use(scale_op, (4,), (1,))]
    jobs = [(job.name, job.arguments[0][1]) for job in make_jobs(uses, gradients=True)]
    names = ["scale_grad_inputs", "scale_grad_factor", "scale"]
    # An unknown dimension is tried with 32.
    assert jobs == [(name, shape) for shape in [(32,), (4,)] for name in names]
    assert [job.name for job in make_jobs(uses, gradients=False)] == ["scale", "scale"]


def test_a_use_outside_of_collecting_is_not_noted(scale_op):
    with ahead.collecting() as uses:
        pass
    scale_op.collect([(4,), (1,)], {})
    assert uses == []


def test_there_are_no_more_jobs_than_the_queue_holds(monkeypatch):
    seen = []
    monkeypatch.setattr(pool, "_start", lambda queue, jobs: seen.append(os.read(queue, 1000)))
    monkeypatch.setattr(pool, "_end", lambda worker: None)
    monkeypatch.setattr(pool, "_wait", lambda workers: None)
    pool.run_jobs([Job("module", "name", "", (), None)] * 300, 1)
    assert seen == [bytes(range(255))]


def test_a_function_that_cannot_be_sent_is_compiled_here(monkeypatch):
    def fail(*_):
        raise TypeError("cannot pickle")

    monkeypatch.setattr(ahead, "available", lambda: True)
    monkeypatch.setattr(ahead, "make_jobs", fail)
    ahead.compile_ahead([])


NUMBER = 1
ARRAY = np.zeros(3)


@numba.njit
def called(number):
    return number + NUMBER


@numba.njit
def calling(number):
    return called(number) + ARRAY[0]


def test_a_digest_depends_on_everything_that_a_function_is_made_of(monkeypatch):
    first = digest(calling)
    assert digest(calling) == first
    monkeypatch.setitem(globals(), "NUMBER", 2)
    second = digest(calling)
    monkeypatch.setitem(globals(), "ARRAY", np.ones(3))
    third = digest(calling)
    options = digest(numba.njit(fastmath=True)(calling.py_func))
    assert len({first, second, third, options}) == 4


def test_arguments_that_are_too_large_are_not_tried():
    step = SimpleNamespace(
        function=lambda inputs, count, outputs: None,
        reads=[SimpleNamespace(name="inputs", dtype=np.dtype("f4"))],
        writes=[SimpleNamespace(name="outputs", dtype=np.dtype("f8"))],
    )
    shapes = {"inputs": (2, 3), "outputs": (4,)}
    found = arguments(step, shapes, {"count": 5})
    assert found == (("<f4", (2, 3)), 5, ("<f8", (4,)))
    assert arguments(step, {**shapes, "outputs": (1 << 28,)}, {"count": 5}) is None
