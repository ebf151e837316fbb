"""Compiling ahead in a second process: who compiles what, and what may go wrong."""

import os
import threading
import time
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from cnnforge.ops import ahead
from cnnforge.ops.ahead import job as _ahead_job
from cnnforge.ops.ahead import pool as _ahead_pool
from cnnforge.ops.ahead.job import CANNOT, COMPILED, DONE
from cnnforge.ops.ahead.pool import Place
from cnnforge.utils.timing import interleave

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="with one processor there is no second process",
)

PREPARE = """
import os, signal, sys, time
import numpy as np
from cnnforge.ops import ahead
from cnnforge.ops.ahead.pool import Place
import ahead_ops

def wait(what):
    end = time.monotonic() + 100
    while not what():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)

def settled(op):
    return all(_ahead._pool._places[step] is Place.SETTLED for step in op.backward_steps)

def idle():
    return not _ahead._pool._backward and _ahead._pool.helper is None

def hits(op):
    return [len(step.function.stats.cache_hits) for step in op.backward_steps]

def misses(op):
    return [len(step.function.stats.cache_misses) for step in op.backward_steps]
"""


@pytest.fixture
def run(run_python, tmp_path):
    def run(source, *arguments, **environment):
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), **environment}
        environment.setdefault("CNNFORGE_COMPILE_AHEAD", "1")
        return run_python(PREPARE + source, *arguments, **environment).split()

    return run


ONCE = """
op = ahead_ops.scale_op
print(op.expects_compilation)
op.expect([(4,), (1,)], {}, [True, True], in_graph=False)
if _ahead._pool._places:
    wait(lambda: settled(op))
for step in op.backward_steps:
    op.program(step)
four, one = np.ones(4, "f"), np.ones(1, "f")
gradients = op.run_backward([four, one], [four], [four])
print(gradients[0].sum(), gradients[1].sum(), *hits(op), *misses(op), _ahead._pool._starts)
"""


def test_what_the_other_process_compiles_is_loaded_here(run):
    # One of the two is a plain function, which `ArrayOp` compiles.
    assert run(ONCE) == ["True", "scale_grad_inputs", "12.0", "12.0", *"11001"]


def test_nothing_is_started_when_everything_is_on_disk(run):
    run(ONCE + "op.run(four, one)")
    assert run(ONCE) == ["False", "scale_grad_inputs", "12.0", "12.0", *"11000"]


@pytest.mark.parametrize("way", ["variable", "processors"])
def test_it_can_be_switched_off(run, way):
    first = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" if way == "processors" else ""
    environment = {"CNNFORGE_COMPILE_AHEAD": "0"} if way == "variable" else {}
    assert run(first + ONCE, **environment) == [
        "False", "scale_grad_inputs", "12.0", "12.0", *"00110"
    ]  # fmt: skip


DYING = """
dying, copy = ahead_ops.dying_op, ahead_ops.copy_op
dying.expect([(4,)], {}, [True], in_graph=False)
wait(lambda: settled(dying))
wait(idle)
dying.program(dying.backward_steps[0])
print(*hits(dying), *dying.run_backward([np.ones(2, "f")], [np.ones(2, "f")], [np.ones(2, "f")]))
print(_ahead._pool.helper, "ahead_ops" in _ahead._pool._unable)
copy.expect([(4,)], {}, [True], in_graph=False)
copy.program(copy.backward_steps[0])
print(*misses(copy))
"""


def test_a_process_that_dies_is_replaced_by_this_one(run):
    assert run(DYING) == ["1", "[1.", "1.]", "None", "True", "1"]


REFUSED = """
sys.path.insert(0, sys.argv[1])
import uses_framework
op = uses_framework.op
print(op.expects_compilation)
op.expect([(4,)], {}, [True], in_graph=False)
wait(lambda: settled(op))
op.program(op.backward_steps[0])
print(*misses(op), sorted(_ahead._pool._unable))
copy = ahead_ops.copy_op
copy.expect([(4,)], {}, [True], in_graph=False)
wait(lambda: settled(copy))
copy.program(copy.backward_steps[0])
print(*hits(copy), _ahead._pool._starts)
"""


@pytest.mark.parametrize("refusal", ["from keras import NUMBER", "import keras"])
def test_what_needs_a_framework_is_compiled_here(run, tmp_path, refusal):
    (tmp_path / "keras.py").write_text("NUMBER = 1")
    (tmp_path / "uses_framework.py").write_text(
        f"""
import numba
import ahead_ops
try:
    {refusal}
except ImportError:
    NUMBER = 2

@numba.njit(cache=True)
def copy_backward(grad_outputs, grad_inputs):
    grad_inputs[:] = grad_outputs

op = ahead_ops.unary("uses_framework", copy_backward)
"""
    )
    if refusal == "import keras":
        source = REFUSED.partition("print(op.expects")[0] + "print(op._ahead.steps)"
        assert "copy_backward" not in " ".join(run(source, tmp_path))
        return
    assert run(REFUSED, tmp_path) == ["True", "1", "['uses_framework']", "1", "2"]


def is_there(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


ENDING = """
op = getattr(ahead_ops, sys.argv[1])
op.expect([(4,)], {}, [True], in_graph=False)
wait(lambda: settled(op))
helper = _ahead._pool.helper._process.pid
print(helper, os.getsid(helper) == os.getsid(0), flush=True)
os.kill(os.getpid(), getattr(signal, sys.argv[2])) if sys.argv[2:] else None
"""


@pytest.mark.parametrize("op", ["copy_op", "endless_op"])
def test_it_ends_with_the_process(run, op):
    helper, same_session = run(ENDING, op)
    # In another session: an interrupt from the terminal is for this one only.
    assert same_session == "False"
    assert not is_there(int(helper))


def test_it_ends_when_the_process_is_killed(run):
    source = "import subprocess\nrun = subprocess.run([sys.executable, '-c', os.environ['SOURCE'], "
    source += "'copy_op', 'SIGKILL'], stdout=subprocess.PIPE, text=True)\nprint(run.stdout)"
    helper, _ = run(source, SOURCE=PREPARE + ENDING)
    end = time.monotonic() + 20
    while is_there(int(helper)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_there(int(helper))


FORKED = """
op = ahead_ops.copy_op
op.expect([(4,)], {}, [True], in_graph=False)
wait(lambda: settled(op))
child = os.fork()
if child == 0:
    try:
        print(_ahead.available(), _ahead._pool.helper, flush=True)
        op.program(op.backward_steps[0])
        os._exit(0)
    finally:
        os._exit(1)
print(os.waitpid(child, 0)[1], _ahead._pool.helper is None, flush=True)
"""


def test_a_forked_process_has_none(run):
    assert run(FORKED) == ["False", "None", "0", "False"]


TENSORFLOW = """
import tensorflow as tf
op = ahead_ops.scale_op
inputs, factor = tf.ones(4), tf.ones(1)
with tf.GradientTape() as tape:
    tape.watch(factor)
    outputs = op(inputs, factor)
wait(lambda: _ahead._pool._places[op.backward_steps[1]] is Place.SETTLED)
print(float(tape.gradient(outputs, factor)[0]), *hits(op), *misses(op), len(_ahead._pool._places))
"""

TORCH = """
import torch
op = ahead_ops.scale_op
inputs, factor = torch.ones(4), torch.ones(1, requires_grad=True)
outputs = op(inputs, factor)
wait(lambda: _ahead._pool._places[op.backward_steps[1]] is Place.SETTLED)
outputs.sum().backward()
print(float(factor.grad), *hits(op), *misses(op), len(_ahead._pool._places))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_only_gradients_that_are_wanted_are_compiled(run, backend):
    source = TENSORFLOW if backend == "tensorflow" else TORCH
    if backend == "torch":
        pytest.importorskip("torch")
    assert run(source, KERAS_BACKEND=backend) == ["12.0", *"01001"]


class FakeHelper:
    """A process that does as a test tells it."""

    def __init__(self):
        self.done, self.go_on, self.killed = [], threading.Semaphore(0), False

    def do(self, job):
        self.done.append(job)
        for word in (COMPILED, CANNOT if "cannot" in job else DONE):
            self.go_on.acquire()
            if self.killed:
                return
            yield word

    def kill(self):
        self.killed = True
        self.go_on.release()

    end = kill


@pytest.fixture
def pool(monkeypatch):
    helper = FakeHelper()
    monkeypatch.setattr(_ahead_pool, "Helper", lambda: helper)
    made = _ahead_pool.Pool()
    made.fake = helper
    yield made
    made.close()
    if made.thread is not None:
        made.thread.join(5)


class Step:
    def __init__(self, is_forward):
        self.is_forward = is_forward


def task(name, *, forward=False, shares=False, is_made=False):
    return SimpleNamespace(
        step=Step(forward), module=name, shares=shares, is_made=is_made, job=lambda: name
    )


def eventually(what):
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_tasks_are_done_in_the_order_in_which_they_are_needed_last(pool):
    first = task("first")
    pool._places[first.step] = Place.HERE
    tasks = [first, task("shares1", shares=True), task("second"), task("shares2", shares=True)]
    forward = [task(f"forward{i}", forward=True) for i in range(4)]
    with pool._changed:
        for item in (*tasks, *forward):
            pool.add(item)
    pool.fake.go_on.release(100)
    eventually(lambda: pool.fake.done == ["second", "shares2", "shares1"])
    # What is compiled here is left to later.
    for item in (first, *forward):
        pool._settle(item.step)
    eventually(lambda: pool.fake.done[3:] == ["first", "forward3", "forward2"])
    pool.add(task("made", forward=True, is_made=True))
    eventually(lambda: pool.fake.done[6:] == ["made"])


def test_what_the_other_process_has_begun_is_waited_for(pool):
    begun, waiting = task("begun"), task("waiting")
    pool.add(begun)
    eventually(lambda: pool.fake.done == ["begun"])
    pool.add(waiting)
    with pool.compiling(waiting.step):
        # Nobody has begun it.
        pass
    threading.Timer(0.1, pool.fake.go_on.release).start()
    with pool.compiling(begun.step):
        assert pool.fake.go_on._value == 0
    assert not pool.closed


def test_a_process_that_hangs_is_given_up(pool, monkeypatch):
    monkeypatch.setattr(_ahead_pool, "_PATIENCE", 0.05)
    hangs = task("hangs")
    pool.add(hangs)
    eventually(lambda: pool.fake.done == ["hangs"])
    with pool.compiling(hangs.step):
        assert pool.closed
        assert pool.fake.killed
    pool.add(task("later"))
    assert pool.fake.done == ["hangs"]


def test_what_is_timed_waits_for_it(pool, monkeypatch):
    monkeypatch.setattr(ahead, "_pool", pool)
    interleave({"nothing": lambda: None}, rounds=1, seconds=0)
    pool.add(task("one"))
    threading.Timer(0.1, pool.fake.go_on.release, (2,)).start()
    interleave({"nothing": lambda: None}, rounds=1, seconds=0)
    assert pool.fake.go_on._value == 0
    monkeypatch.setattr(_ahead_pool, "_PATIENCE", 0.05)
    pool.add(task("hangs"))
    interleave({"nothing": lambda: None}, rounds=1, seconds=0)
    assert pool.closed


def test_nothing_more_is_asked_of_a_module_that_cannot(pool):
    pool.fake.go_on.release(100)
    pool.add(task("cannot"))
    eventually(lambda: "cannot" in pool._unable)
    pool.add(task("cannot"))
    pool.add(task("other"))
    eventually(lambda: pool.fake.done == ["cannot", "other"])


def test_a_process_with_nothing_to_do_ends(pool, monkeypatch):
    monkeypatch.setattr(_ahead_pool, "_IDLE_SECONDS", 0.05)
    pool.fake.go_on.release(100)
    pool.add(task("one"))
    eventually(lambda: pool.fake.killed and pool.thread is None)
    pool.fake.killed = False
    pool.add(task("two"))
    eventually(lambda: pool.fake.done == ["one", "two"])


NUMBER = 1
ARRAY = np.zeros(3)


@numba.njit
def called(number):
    return number + NUMBER


@numba.njit
def calling(number):
    return called(number) + ARRAY[0]


def test_a_digest_knows_what_a_function_is_made_of(monkeypatch):
    first = _ahead_job.digest(calling)
    assert _ahead_job.digest(calling) == first
    monkeypatch.setitem(globals(), "NUMBER", 2)
    second = _ahead_job.digest(calling)
    monkeypatch.setitem(globals(), "ARRAY", np.ones(3))
    third = _ahead_job.digest(calling)
    options = _ahead_job.digest(numba.njit(fastmath=True)(calling.py_func))
    assert len({first, second, third, options}) == 4


def test_arguments_that_are_too_large_are_not_tried():
    step = SimpleNamespace(
        function=lambda inputs, count, outputs: None,
        reads=[SimpleNamespace(name="inputs", dtype=np.dtype("f4"))],
        writes=[SimpleNamespace(name="outputs", dtype=np.dtype("f8"))],
    )
    shapes = {"inputs": (2, 3), "outputs": (4,)}
    found = _ahead_job.arguments(step, shapes, {"count": 5})
    assert found == (("<f4", (2, 3)), 5, ("<f8", (4,)))
    assert _ahead_job.arguments(step, {**shapes, "outputs": (1 << 28,)}, {"count": 5}) is None
