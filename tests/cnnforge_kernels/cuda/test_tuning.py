"""Tests of the tuner with a made-up clock: the choice, the file, ties, failures.

``simulated/test_simulated_tuning.py`` tests that all configurations compute the same.
"""

import json
import threading

import numpy as np
import pytest

from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED
from cnnforge_kernels.cuda.conv import block_plans
from cnnforge_kernels.cuda.conv import plans as conv_plans
from cnnforge_kernels.cuda.conv.plans import Convolution
from cnnforge_kernels.cuda.pooling import plans as pool_plans
from cnnforge_kernels.cuda.pooling.plans import Pooling
from cnnforge_kernels.cuda.runtime import compiler, driver, simulated_driver, tuning
from cnnforge_kernels.cuda.runtime.arrays import View
from cnnforge_kernels.cuda.runtime.plans import Plan, offer
from cnnforge_kernels.cuda.tensor_cores import plans as tensor_core_plans

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda: pip install 'cnnforge[cuda13]'"),
    pytest.mark.skipif(SIMULATED, reason="the simulator has its own tests"),
]
WIDE = Convolution((4, 14, 14, 32), (3, 3, 32, 64), same=True)


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "cache_directory", lambda: str(tmp_path))
    monkeypatch.delenv("CNNFORGE_TUNE", raising=False)
    monkeypatch.setattr(tuning, "_asked", None)
    tuning.forget()
    yield
    tuning.forget()


def options(**seconds):
    """Make a plan with configurations, and a clock with a time for each."""
    plans = {name: Plan(scratch=number) for number, name in enumerate(seconds, 1)}
    asked = []

    def clock(plan):
        (name,) = (name for name, option in plans.items() if option == plan)
        asked.append(name)
        taken = seconds[name]
        if isinstance(taken, Exception):
            raise taken
        return taken

    made = {name: (lambda option=option: option) for name, option in plans.items()}
    return offer("a problem", made), plans, clock, asked


def file():
    return tuning._path("H200")


def test_the_first_is_the_default():
    plan, plans, _, _ = options(usual=3.0, other=1.0)
    assert plan.launches == plans["usual"].launches
    assert plan.scratch == plans["usual"].scratch
    assert list(plan.options) == ["usual", "other"]
    # With one configuration there is nothing to choose.
    assert not offer("alone", {"only": Plan}).options


def test_the_fastest_is_chosen_once_and_kept():
    plan, plans, clock, asked = options(usual=3.0, other=1.0, third=2.0)
    assert tuning.chosen(plan, "H200", clock) == plans["other"]
    assert asked == ["usual", "other", "third"]
    assert tuning.chosen(plan, "H200", clock) == plans["other"]
    assert tuning.used() == {"a problem": "other"}
    content = json.loads(file().read_text())
    assert content == {"device": "H200", "choices": {"a problem": "other"}}
    # Act as another process, which reads the choice and does not measure.
    tuning.forget()
    assert tuning.chosen(plan, "H200", clock) == plans["other"]
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        ({"usual": 1.02, "other": 1.0}, "usual"),
        ({"usual": 1.05, "other": 1.02, "third": 1.0}, "other"),
        ({"usual": 1.0, "other": 1.0}, "usual"),
        ({"usual": RuntimeError("too many registers"), "other": 2.0}, "other"),
        ({"usual": float("nan"), "other": 2.0}, "other"),
        ({"usual": 0.0, "other": 2.0}, "other"),
        ({"usual": ValueError("a"), "other": OSError("b")}, None),
    ],
    ids=str,
)
def test_ties_and_failures(seconds, name):
    plan, _, clock, _ = options(**seconds)
    assert tuning.fastest(plan.options, clock) == name


def test_if_all_fail_the_default_runs_and_nothing_is_kept():
    plan, _, clock, _ = options(usual=OSError(), other=OSError())
    assert tuning.chosen(plan, "H200", clock) is plan
    assert not file().exists()


def test_nothing_is_measured_while_a_graph_is_captured():
    plan, plans, clock, _ = options(usual=3.0, other=1.0)
    assert tuning.chosen(plan, "H200", None) is plan
    assert not file().exists()
    tuning.chosen(plan, "H200", clock)
    tuning.forget()
    # A known choice is followed there too.
    assert tuning.chosen(plan, "H200", None) == plans["other"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"choices": 3}',
        '{"choices": {"a problem": 3}}',
        '{"choices": {"a problem": "of another version"}}',
    ],
)
def test_an_invalid_file_is_ignored(content):
    file().parent.mkdir(parents=True)
    file().write_text(content)
    plan, plans, clock, asked = options(usual=3.0, other=1.0)
    assert tuning.chosen(plan, "H200", clock) == plans["other"]
    assert len(asked) == 2
    assert json.loads(file().read_text())["choices"] == {"a problem": "other"}


def test_a_read_only_folder_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "cuda").write_text("a file")
    plan, plans, clock, _ = options(usual=3.0, other=1.0)
    assert tuning.chosen(plan, "H200", clock) == plans["other"]


def test_choices_of_another_process_are_kept():
    plan, _, clock, _ = options(usual=3.0, other=1.0)
    tuning.chosen(plan, "H200", None)
    file().parent.mkdir(parents=True)
    file().write_text(json.dumps({"choices": {"another problem": "x"}}))
    tuning.chosen(plan, "H200", clock)
    choices = json.loads(file().read_text())["choices"]
    assert choices == {"a problem": "other", "another problem": "x"}


def test_the_file_belongs_to_device_sources_and_compilers(monkeypatch):
    found = {tuning._path("H200 (9, 0) driver 13000"), tuning._path("H200 (9, 0) driver 13010")}
    monkeypatch.setattr(compiler, "sources", lambda: "others")
    found.add(tuning._path("H200 (9, 0) driver 13000"))
    monkeypatch.setattr(compiler, "toolchain", lambda: "another")
    found.add(tuning._path("H200 (9, 0) driver 13000"))
    assert len(found) == 4


def test_the_file_is_in_the_users_cache(monkeypatch, tmp_path):
    from cnnforge_kernels.cpu.runtime.compiled import cache_directory

    monkeypatch.setattr(compiler, "cache_directory", cache_directory.__wrapped__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert tuning._path("H200").is_relative_to(tmp_path / "elsewhere" / "cnnforge")


@pytest.mark.parametrize(("value", "on"), [("", False), ("0", False), ("1", True)])
def test_the_tuner_is_off_by_default(monkeypatch, value, on):
    assert not tuning.enabled()
    monkeypatch.setenv("CNNFORGE_TUNE", value)
    assert tuning.enabled() is on
    tuning.enable(not on)
    assert tuning.enabled() is not on


def test_experimental_features_are_off_by_default(monkeypatch):
    monkeypatch.setattr(tuning, "_asked", None)
    monkeypatch.delenv("CNNFORGE_TUNE", raising=False)
    found = launch.experimental()
    assert (
        found["tuner"] == "experimental: not yet run on a device; off, CNNFORGE_TUNE=1 turns it on"
    )
    assert found["tensor cores"].startswith("experimental: not yet run on a device; off, ")
    monkeypatch.setenv("CNNFORGE_TUNE", "1")
    assert launch.experimental()["tuner"].endswith("; on")


def test_two_threads_choose_once():
    plan, plans, clock, asked = options(usual=3.0, other=1.0)
    found = []

    def choose():
        found.append(tuning.chosen(plan, "H200", clock))

    threads = [threading.Thread(target=choose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [plans["other"]] * 8
    assert len(asked) == 2


class Clocked(simulated_driver.Driver):
    """Notes launches, and gives each kernel a time."""

    least = "conv2d_gemm 3x3x32x64 tile 64x32"
    captured = False

    def measurable(self, device, stream):
        return not self.captured

    def seconds(self, launches, device, stream):
        super().launch(launches, device, stream)
        return 1.0 if launches[0][0].name == self.least else 2.0


def view(shape):
    values = np.zeros(shape, np.float32)
    return View(values.ctypes.data, shape, values.dtype, 0, True, values)


def test_a_call_runs_the_chosen_configuration(monkeypatch):
    fake = Clocked()
    monkeypatch.setattr(driver, "_driver", fake)
    arrays = {"inputs": view(WIDE.inputs), "weights": view(WIDE.weights)}
    arrays["outputs"] = view(WIDE.outputs)
    plan = conv_plans.forward(WIDE, False, False)

    def names():
        found = [kernel.name for kernel, _, _ in fake.launches]
        fake.launches.clear()
        return found

    driver.run(plan, arrays, 0)
    assert names() == [plan.launches[0].kernel.name]
    tuning.enable()
    fake.captured = True
    driver.run(plan, arrays, 0)
    assert names() == [plan.launches[0].kernel.name]
    fake.captured = False
    driver.run(plan, arrays, 0)
    tried = names()
    assert len(tried) == len(plan.options) + 1
    assert tried[-1] == Clocked.least
    fake.captured = True
    driver.run(plan, arrays, 0)
    assert names() == [Clocked.least]
    tuning.enable(False)
    driver.run(plan, arrays, 0)
    assert names() == [plan.launches[0].kernel.name]


PLANS = {
    "direct": conv_plans.forward(Convolution((4, 14, 14, 8), (3, 3, 8, 16), same=True), True, True),
    "product": conv_plans.forward(WIDE, True, True),
    "depthwise": conv_plans.forward(
        Convolution((4, 14, 14, 8), (3, 3, 1, 8), groups=8), True, True
    ),
    "grad_inputs": conv_plans.grad_inputs(WIDE, True),
    "depthwise_grad_inputs": conv_plans.grad_inputs(
        Convolution((4, 14, 14, 8), (3, 3, 1, 8), groups=8), False
    ),
    "grad_weights": conv_plans.grad_weights(WIDE, True),
    "depthwise_grad_weights": conv_plans.grad_weights(
        Convolution((4, 14, 14, 8), (3, 3, 1, 8), groups=8), False
    ),
    "tf32": tensor_core_plans.forward(WIDE, True, True, "tf32"),
    "tf32_grad_inputs": tensor_core_plans.grad_inputs(WIDE, True, "tf32"),
    "bfloat16_grad_weights": tensor_core_plans.grad_weights(WIDE, True, "bfloat16"),
    "block": block_plans.forward(WIDE, (2, 2), True),
    "block_grad_inputs": block_plans.grad_inputs(WIDE, (2, 2)),
    "block_grad_weights": block_plans.grad_weights(WIDE, (2, 2)),
    "max": pool_plans.forward(Pooling((4, 14, 14, 8), (2, 2), (2, 2), False), True),
    "average_grad": pool_plans.backward(Pooling((4, 14, 14, 8), (2, 2), (2, 2), False), False),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_op_offers_configurations(name):
    plan = PLANS[name]
    assert len(plan.options) >= 2
    made = [option() for option in plan.options.values()]
    assert made[0].launches == plan.launches
    assert made[0].scratch == plan.scratch
    # No two are the same, and their kernels have different names.
    assert len({option.launches for option in made}) == len(made)
    named = {tuple(launch.kernel.name for launch in option.launches) for option in made}
    kernels = {tuple(launch.kernel for launch in option.launches) for option in made}
    assert len(named) == len(kernels) == len(made)


def test_problems_have_different_names():
    found = {plan.problem for plan in PLANS.values()}
    assert len(found) == len(PLANS)
    unaligned = Convolution((4, 14, 14, 32), (3, 3, 32, 64), same=True, aligned=False)
    found.add(conv_plans.forward(unaligned, True, True).problem)
    found.add(conv_plans.forward(WIDE, False, True).problem)
    found.add(conv_plans.forward(WIDE, True, False).problem)
    assert len(found) == len(PLANS) + 3
    # Another process must find the same text, so it must hold no address.
    assert not any(" at 0x" in problem for problem in found)


def test_times_are_measured_by_events_of_the_device():
    """Check the calls of cuda.core, and that milliseconds become seconds."""
    from dataclasses import dataclass
    from types import SimpleNamespace

    @dataclass
    class EventOptions:
        timing_enabled: bool = False

    class Event:
        def __init__(self, at):
            self.at = at

        def __sub__(self, other):
            return self.at - other.at

        def sync(self):
            assert self.at >= 0

    class Stream:
        handle, now = 1, 0.0

        def record(self, options):
            # cuda.core takes only a bool: 1 is a TypeError.
            assert options.timing_enabled is True
            return Event(self.now)

    stream, launched = Stream(), []

    def launch(order, config, kernel, *arguments):
        launched.append(arguments)
        stream.now += 0.5

    made = driver.Driver.__new__(driver.Driver)
    device = SimpleNamespace(device_id=0, set_current=lambda: None)
    made._core = SimpleNamespace(
        Device=lambda *_: device,
        LEGACY_DEFAULT_STREAM=stream,
        EventOptions=EventOptions,
        LaunchConfig=lambda **_: None,
        launch=launch,
    )
    made._bindings = SimpleNamespace(cuStreamIsCapturing=lambda handle: (0, 1))
    made._devices = {0: device}
    made._load = lambda kernel, owner: "loaded"
    kernel = PLANS["direct"].launches[0].kernel
    assert made.seconds([(kernel, (1, 1, 1), [7]), (kernel, (2, 1, 1), [8])], 0, 0) == 1e-3
    # Two runs first, then five measurements of two milliseconds.
    assert launched == [(7,), (8,)] * (2 + 5 * 2)
    assert not made.measurable(0, 0)
