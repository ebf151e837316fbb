"""The fixture layer_benchmark and its gate, in runs of pytest whose measurements are made up."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cnnforge.benchmarking import pytest_session, thresholds
from cnnforge.benchmarking.measure import Measurement, Pass
from cnnforge.benchmarking.thresholds import Machine
from cnnforge.conversion.workloads import Case
from cnnforge.utils.timing import timing

pytest_plugins = ["pytester"]

HERE = Machine("a processor", 2, "tensorflow 2.21")
NAMES = ("a.block", "b.max")
SOURCE = """
import pytest
from cnnforge.conversion.workloads import Case
from fakes import workload

CASES = [Case(name, workload) for name in ("a.block", "b.max")]

@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(layer_benchmark, case):
    layer_benchmark(case)
"""
FAKES = """
from types import SimpleNamespace

spec = SimpleNamespace(qualified_name="acme/block")
workload = SimpleNamespace(spec=spec, reference=int, shape=(2, 3))
"""


class Fake:
    """Measures what it is told: ratios by name, pass and attempt; one that is a list has one
    ratio for each attempt."""

    def __init__(self):
        self.ratios = {name: {"forward": 3.0, "full": 3.0} for name in NAMES}
        self.wrong: set[str] = set()
        self.calls: list[tuple[str, int]] = []
        self.options: list[dict] = []
        self.note = ""

    def check(self, workload):
        return SimpleNamespace(
            passed=not self.wrong, error="", results=[SimpleNamespace(tensor="outputs", ok=False)]
        )

    def measure(self, case, **options):
        attempt = [name for name, _ in self.calls].count(case.name)
        self.calls.append((case.name, attempt))
        self.options.append(options)
        if self.note:
            return Measurement(case, note=self.note)
        passes = []
        for name, ratio in self.ratios[case.name].items():
            ratio = ratio[attempt] if isinstance(ratio, list) else ratio
            median, best = ratio if isinstance(ratio, tuple) else (ratio, ratio)
            ours, theirs = timing(np.array([2.0, 1.0, 4.0])), timing(np.full(3, best))
            found = (median, median * 0.9, median * 1.1)
            passes.append(Pass(name, ours, theirs, found, None))
        return Measurement(case, tuple(passes))


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(pytest_session, "measure", made.measure)
    monkeypatch.setattr(pytest_session, "certify_layer", made.check)
    monkeypatch.setattr(thresholds, "this_machine", lambda: HERE)
    return made


def text(keys=None, machine=HERE, least=2.0):
    keys = (
        [f"{name}.{which}" for name in NAMES for which in ("forward", "full")]
        if keys is None
        else keys
    )
    entries = {key: thresholds.Threshold(least, least) for key in keys}
    return thresholds.thresholds_text(entries, machine)


@pytest.fixture
def run(pytester, fake, monkeypatch):
    """Return `run(*options, gate=text, source=...)`: the result of pytest on two benchmarks."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    # Each run would load those of hypothesis and xdist again, which takes seconds.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*options, gate=None, source=SOURCE, benchmark=True):
        pytester.makepyfile(fakes=FAKES, bench_it=source)
        pytester.syspathinsert()
        if gate is not None:
            pytester.path.joinpath("gate.toml").write_text(gate)
            options = ("--cnnforge-gate=gate.toml", *options)
        plugins = ("-p", "cnnforge", *(("-p", "benchmark") if benchmark else ()))
        return pytester.runpytest_inprocess(*plugins, "bench_it.py", *options)

    return run


def test_the_ratios_are_printed_and_kept(run, pytester, fake):
    fake.ratios["a.block"] = {"forward": 3.0, "full": (5.0, 4.0)}
    result = run("--benchmark-json=out.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["a.block.full * 5.00 (4.50 to 5.50), 4.00"])
    first, _ = json.loads(pytester.path.joinpath("out.json").read_text())["benchmarks"]
    assert first["stats"]["data"] == [2.0, 1.0, 4.0]
    assert first["extra_info"]["ratio"]["full"] == {
        "median": 5.0,
        "p20": 4.5,
        "p80": 5.5,
        "best": 4.0,
    }
    assert first["extra_info"]["layer"] == "acme/block"
    assert fake.calls == [("a.block", 0), ("b.max", 0)]


def test_a_benchmark_with_a_marker_of_its_own(run, pytester):
    source = SOURCE.replace("@pytest", "@pytest.mark.benchmark(group='mine')\n@pytest", 1)
    assert run("--benchmark-json=out.json", source=source).ret == 0
    first, _ = json.loads(pytester.path.joinpath("out.json").read_text())["benchmarks"]
    assert first["group"] == "mine"
    assert first["stats"]["data"] == [2.0, 1.0, 4.0]


def test_all_is_well(run, fake):
    result = run(gate=text())
    assert result.ret == 0
    result.stdout.fnmatch_lines(["gate.toml: *which is this machine", "4 ratios, 0 failures"])
    assert fake.calls == [("a.block", 0), ("b.max", 0)]


def test_a_ratio_below_its_threshold(run, fake, pytester):
    fake.ratios["a.block"]["full"] = 1.5
    result = run("--benchmark-json=out.json", gate=text())
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "FAILED: a.block.full: 1.50 times as fast as the reference (1.35 to 1.65, 1.50 at its "
            "best), at least 2.00 are expected; measured 4 times",
            "4 ratios, 1 failures",
        ]
    )
    # Measured again after all others, for twice as long; the benchmark that passed is not.
    assert fake.calls == [("a.block", 0), ("b.max", 0)] + [("a.block", n) for n in (1, 2, 3)]
    assert fake.options[-1] == {name: 2 * it for name, it in fake.options[0].items()}


@pytest.mark.parametrize("values", [[1.9, 2.1], [1.0, 1.9, 2.1], [0.5, 0.5, 0.5, 2.0]])
def test_what_is_below_is_measured_again(run, fake, pytester, values):
    fake.ratios["b.max"]["forward"] = values
    result = run("--benchmark-json=out.json", gate=text())
    assert result.ret == 0
    assert len(fake.calls) == 1 + len(values)
    result.stdout.fnmatch_lines([f"b.max.forward *at least 2.00, measured {len(values)} times"])
    _, second = json.loads(pytester.path.joinpath("out.json").read_text())["benchmarks"]
    assert second["extra_info"]["ratio"]["forward"]["median"] == values[-1]


def test_what_stays_below_fails(run, fake):
    fake.ratios["b.max"]["forward"] = [1.98, 1.2, 1.9, 1.99]
    assert run(gate=text()).ret == 1


def test_the_best_counts_if_a_core_was_taken(run, fake):
    fake.ratios["b.max"]["forward"] = (1.2, 2.4)
    assert run(gate=text()).ret == 0


PROMISED = SOURCE.replace(
    '[Case(name, workload) for name in ("a.block", "b.max")]',
    '[Case("a.block", workload, min_ratio=2.5), Case("b.max", workload)]',
)


def test_a_promise_is_kept(run, fake):
    result = run(source=PROMISED)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["a.block.full *, at least 2.50", "b.max.full * 3.00", "4 ratios, 0 failures"]
    )


def test_a_ratio_below_its_promise(run, fake):
    fake.ratios["a.block"]["full"] = 1.5
    result = run(source=PROMISED)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["FAILED: a.block.full: 1.50 times *, at least 2.50 are expected; measured 4 times"]
    )
    assert fake.calls == [("a.block", 0), ("b.max", 0)] + [("a.block", n) for n in (1, 2, 3)]


def test_a_promise_that_is_kept_when_measured_again(run, fake):
    fake.ratios["a.block"]["forward"] = [2.4, 2.6]
    assert run(source=PROMISED).ret == 0


def test_a_promise_needs_no_threshold(run, fake):
    keys = ["b.max.forward", "b.max.full"]
    assert run(gate=text(keys), source=PROMISED).ret == 0
    fake.ratios["a.block"]["full"] = 2.4
    assert run(gate=text(keys), source=PROMISED).ret == 1


@pytest.mark.parametrize(("least", "expected"), [(2.0, "2.50"), (2.8, "2.80")])
def test_the_larger_of_threshold_and_promise_counts(run, fake, least, expected):
    fake.ratios["a.block"]["full"] = 2.45
    result = run(gate=text(least=least), source=PROMISED)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"FAILED: a.block.full: * at least {expected} are expected*"])


def test_a_promise_holds_on_every_machine(run, fake):
    fake.ratios["a.block"]["full"] = 2.4
    elsewhere = text(machine=Machine("a processor", 4, "tensorflow 2.21"))
    result = run(gate=elsewhere, source=PROMISED)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["NOT COMPARABLE*", "FAILED: a.block.full: 2.40 *"])


def test_a_promise_does_not_matter_without_measurements(run, fake):
    fake.ratios["a.block"]["full"] = 0.1
    assert run("--benchmark-disable", source=PROMISED).ret == 0
    assert fake.calls == []


def test_thresholds_are_recorded_whatever_is_promised(run, fake, pytester):
    fake.ratios["a.block"]["full"] = 0.1
    options = (
        "--cnnforge-gate=new.toml",
        "--cnnforge-gate-write",
        "--cnnforge-gate-record=out.json",
    )
    assert run(*options, source=PROMISED).ret == 0
    assert "a.block.full" in json.loads(pytester.path.joinpath("out.json").read_text())


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            ["a.block.forward", "a.block.full", "b2.max.forward", "b2.max.full"],
            "FAILED: b2.max.full has a threshold, but there is no such benchmark (renamed? there "
            "is b.max.full)",
        ),
        (
            ["a.block.forward", "a.block.full"],
            "FAILED: b.max.full is a benchmark without a threshold",
        ),
        ([], "FAILED: a.block.forward is a benchmark without a threshold"),
    ],
    ids=["renamed", "new", "empty"],
)
@pytest.mark.parametrize("options", [(), ("-k", "a.block")], ids=["all", "some"])
def test_a_file_that_does_not_fit_the_benchmarks(run, fake, keys, line, options):
    result = run(*options, gate=text(keys))
    assert result.ret == 2
    result.stdout.fnmatch_lines([line, "FAILED: nothing was measured; use -k *"])
    assert fake.calls == []


def test_a_threshold_of_a_benchmark_that_is_gone(run, fake):
    keys = [f"{name}.{which}" for name in (*NAMES, "zebra") for which in ("forward", "full")]
    result = run(gate=text(keys))
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        ["FAILED: zebra.full has a threshold, but there is no such benchmark"]
    )


def test_some_of_them(run, fake):
    result = run("-k", "a.block", gate=text())
    assert result.ret == 0
    assert fake.calls == [("a.block", 0)]


@pytest.mark.parametrize(
    "options", [("-k", "zebra"), ("--benchmark-disable",), ("--benchmark-skip",)], ids=str
)
def test_nothing_was_measured(run, fake, options):
    result = run(*options, gate=text())
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED: nothing was measured*"])
    assert fake.calls == []


def test_a_benchmark_that_was_skipped_is_missing(run, fake):
    fake.note = "it crashes"
    result = run(gate=text())
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED: a.block was not measured: *"])


def test_a_layer_that_differs_from_its_reference(run, fake):
    fake.wrong.add("a.block")
    for gate in (None, text()):
        result = run("-W", "error", gate=gate)
        assert result.ret == 1
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(["a.block: the layer differs from its reference*: outputs"])
        result.stdout.no_fnmatch_line("*Traceback*")
    assert fake.calls == []


def test_parity_alone_without_measurements(run, fake):
    assert run("--benchmark-disable").ret == 0
    fake.wrong.add("a.block")
    assert run("--benchmark-disable").ret == 1
    assert fake.calls == []


def test_two_benchmarks_of_one_name(run, fake):
    result = run(source=SOURCE.replace('"b.max"', '"a.block"'))
    assert result.ret == 1
    result.stdout.fnmatch_lines(["two benchmarks are named 'a.block'*"])


IN_A_TEST = """
from cnnforge.conversion.workloads import Case
from fakes import workload

def test_speed(layer_benchmark):
    layer_benchmark(Case("a.block", workload))
"""


def test_a_case_that_a_test_makes_by_itself(run, fake):
    keys = ["a.block.forward", "a.block.full"]
    assert run(gate=text(keys), source=IN_A_TEST).ret == 0
    for wrong in ([*keys, "b.max.full"], keys[:1]):
        result = run(gate=text(wrong), source=IN_A_TEST)
        assert result.ret == 2
        result.stdout.fnmatch_lines(["FAILED: *.full * threshold*", "* ratios, 1 failures"])


def test_a_case_of_its_own_that_fails_is_not_wrong_input(run, fake):
    keys = ["a.block.forward", "a.block.full"]
    fake.ratios["a.block"]["full"] = 1.0
    assert run(gate=text(keys), source=IN_A_TEST).ret == 1
    fake.note = "it crashes"
    result = run(gate=text(keys), source=IN_A_TEST)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED: a.block was not measured: *"])
    fake.note = ""
    # The second test fails before it makes its case, whose thresholds the file has.
    source = f"{IN_A_TEST}\ndef test_broken(layer_benchmark):\n    assert False\n"
    assert run(gate=text([*keys, "b.max.full"]), source=source).ret == 1


ELSEWHERE = [
    Machine("another", 2, "tensorflow 2.21"),
    Machine("a processor", 2, "tensorflow 2.22"),
]
NOT_COMPARABLE = [
    Machine("a processor", 4, "tensorflow 2.21"),
    Machine("a processor", 2, "torch 2.9"),
]


@pytest.mark.parametrize("machine", ELSEWHERE, ids=str)
def test_another_processor_has_a_wider_margin(run, fake, machine):
    fake.ratios["a.block"]["full"] = 0.9
    result = run(gate=text(machine=machine))
    assert result.ret == 0
    result.stdout.fnmatch_lines(["gate.toml: *: 40% of them are expected"])
    fake.ratios["a.block"]["full"] = 0.7
    assert run(gate=text(machine=machine)).ret == 1


@pytest.mark.parametrize("machine", NOT_COMPARABLE, ids=str)
def test_not_comparable(run, fake, machine):
    fake.ratios["a.block"]["full"] = 0.01
    result = run(gate=text(machine=machine))
    assert result.ret == 0
    result.stdout.fnmatch_lines(["NOT COMPARABLE: gate.toml: thresholds of *"])
    # A wrong layer, another name and an empty run fail all the same.
    assert run(gate=text(["c.max.full"], machine)).ret == 2
    assert run("-k", "zebra", gate=text(machine=machine)).ret == 1
    fake.wrong.add("a.block")
    assert run(gate=text(machine=machine)).ret == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--cnnforge-gate=nowhere.toml"],
            "the gate file nowhere.toml cannot be read: No such file",
        ),
        (["--cnnforge-gate-write"], "--cnnforge-gate-write needs --cnnforge-gate FILE.toml"),
        (["--cnnforge-gate=x", "-p", "no:benchmark"], "--cnnforge-gate needs pytest-benchmark"),
        (["--cnnforge-gate=x", "-n", "2"], "--cnnforge-gate measures in one process: leave out -n"),
    ],
)
def test_wrong_input(tmp_path, options, message):
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"Exit: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_without_pytest_benchmark(run):
    result = run(benchmark=False)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*layer_benchmark needs pytest-benchmark*pip install*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_thresholds_are_written(run, fake, pytester, monkeypatch):
    path = pytester.path / "new.toml"
    # The lowest of several processes counts.
    others = [
        {f"{name}.{which}": ratio for name in NAMES for which in ("forward", "full")}
        for ratio in (2.0, 4.0)
    ]
    monkeypatch.setattr(
        pytest_session.LayerBenchmarks,
        "_in_a_process",
        lambda _, left=[*others]: {
            key: pytest_session.Ratio(it, it, it, it) for key, it in left.pop().items()
        },
    )
    result = run(f"--cnnforge-gate={path}", "--cnnforge-gate-write")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*new.toml: 4 thresholds written"])
    found = thresholds.read_thresholds(path)
    assert found.machine == HERE
    assert {key: it.at_least for key, it in found.entries.items()} == dict.fromkeys(others[0], 1.5)


def test_the_processes_that_measure(run, fake, pytester, monkeypatch):
    commands = []

    def other_process(command, folder):
        assert folder == pytester.path
        commands.append(command)
        (record,) = [it for it in command if it.startswith("--cnnforge-gate-record=")]
        measured = dict.fromkeys(["median", "p20", "p80", "best"], 1.0)
        keys = [f"{name}.{which}" for name in NAMES for which in ("forward", "full")]
        with open(record.partition("=")[2], "w") as file:
            json.dump(dict.fromkeys(keys, measured), file)
        return 0, ""

    monkeypatch.setattr(pytest_session, "run_process", other_process)
    assert run("--cnnforge-gate=new.toml", "--cnnforge-gate-write").ret == 0
    assert len(commands) == 2
    assert commands[0][1:3] == ["-m", "pytest"]
    assert "bench_it.py" in commands[0]
    found = thresholds.read_thresholds(pytester.path / "new.toml")
    assert {it.at_least for it in found.entries.values()} == {0.75}


def test_a_process_records_what_it_has_measured(run, fake, pytester):
    options = (
        "--cnnforge-gate=new.toml",
        "--cnnforge-gate-write",
        "--cnnforge-gate-record=it.json",
    )
    assert run(*options).ret == 0
    recorded = json.loads((pytester.path / "it.json").read_text())
    assert recorded["b.max.full"]["median"] == 3.0
    assert not (pytester.path / "new.toml").exists()


def test_a_process_that_fails_writes_nothing(run, fake, pytester, monkeypatch):
    monkeypatch.setattr(pytest_session, "run_process", lambda *_: (1, "a reason"))
    result = run("--cnnforge-gate=new.toml", "--cnnforge-gate-write")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["FAILED: nothing was written: another process failed:*", "a reason"]
    )
    assert not (pytester.path / "new.toml").exists()


def test_nothing_is_written_if_a_test_fails(run, fake, pytester):
    fake.wrong.add("a.block")
    result = run("--cnnforge-gate-write", gate=text())
    assert result.ret == 1
    assert (pytester.path / "gate.toml").read_text() == text()


def test_benchmarks_that_are_left_out_keep_their_thresholds(run, fake, pytester, monkeypatch):
    monkeypatch.setattr(pytest_session, "PROCESSES", 1)
    assert run("-k", "a.block", "--cnnforge-gate-write", gate=text()).ret == 0
    found = thresholds.read_thresholds(pytester.path / "gate.toml").entries
    assert [found[f"{name}.full"].at_least for name in NAMES] == [2.25, 2.0]
    # A threshold of another machine says nothing about this one, and one that is missing nothing.
    for gate in (text(machine=ELSEWHERE[0]), text(["a.block.forward", "a.block.full"])):
        result = run("-k", "a.block", "--cnnforge-gate-write", gate=gate)
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["FAILED: nothing was written: b.max.forward was not measured*"]
        )
        assert (pytester.path / "gate.toml").read_text() == gate


REAL = """
import keras, pytest
from cnnforge.testing import LayerCase, benchmark_cases

class Wrong(keras.layers.MaxPooling2D):
    def call(self, inputs):
        return super().call(inputs) * 1.01

OWN = [LayerCase(arguments={"pool_size": 2}, input_shape=(1, 4, 4, 1), name="tiny")]
CASES = benchmark_cases("max_pooling2d", OWN) + benchmark_cases("max_pooling2d", [
    LayerCase(arguments={"pool_size": 2}, input_shape=(1, 4, 4, 1), name="wrong")
], reference=Wrong)

@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(layer_benchmark, case):
    found = layer_benchmark(case, rounds=3, limit=0.1)
    assert found.passes[0].ours.rounds == 3
"""


@pytest.mark.slow
def test_a_real_layer(tmp_path):
    (tmp_path / "bench_real.py").write_text(REAL)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench_real.py"]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    # In a worker of pytest-xdist, pytest-benchmark is disabled and nothing is measured.
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "max_pooling2d.tiny.full" in done.stdout
    assert "max_pooling2d.wrong: the layer differs from its reference" in done.stdout


def test_a_case_says_its_name():
    assert str(Case("a.block", workload=None)) == "a.block"
