"""Measure layers in a run of pytest, for the fixture `layer_benchmark` and `--cnnforge-gate`.

The ratio of the time of the reference (the stock layer) to the time of the plugin layer is compared
with a threshold at the end of the run, and with the `min_ratio` of the case. If a ratio is below
one of them, it is measured again after all other benchmarks. A process that took CPU time during
the first measurement may have ended by then.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cnnforge.benchmarking import gate, thresholds
from cnnforge.benchmarking.entries import Entry, plain
from cnnforge.benchmarking.gate import PASSES, Ratio
from cnnforge.benchmarking.measure import Measurement, measure
from cnnforge.conversion.certificate import certify_layer
from cnnforge.conversion.workloads import Case
from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.utils.environment import environment

ROUNDS = 31
# Seconds for the rounds of one benchmark; a large shape gets fewer rounds.
LIMIT = 8.0
# Max number of times that a ratio below its threshold is measured again.
REPEATS = 3
# Number of processes that measure before thresholds are written. One is not enough: the memory
# addresses of a layer's arrays affect its speed, and stay the same during a process. TensorFlow's
# gradients of a depthwise convolution took twice as long in one process as in another.
PROCESSES = 3


class LayerBenchmarks:
    """A plugin of pytest that measures layers and compares the results with thresholds.

    Every run that does not write thresholds compares the ratios of a case with its `min_ratio`.

    Args:
        config: The configuration of pytest.
        path: A file of thresholds, or a folder of such files. With `None`, ratios are compared with
            `min_ratio` only.
        write: Whether to write new thresholds to the file instead of comparing with the old ones.
        record: File to write the ratios to, if another run of pytest has started this process to
            measure thresholds. Otherwise `None`.

    Raises:
        UsageError: The thresholds cannot be read.
    """

    def __init__(
        self,
        config: pytest.Config,
        path: Path | None = None,
        *,
        write: bool = False,
        record: Path | None = None,
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self._config = config
        self._write = path if write else None
        self._record = record
        self._limits: dict[str, float] = {}
        self._measures_thresholds = write or record is not None
        self._has_file = path is not None and not self._measures_thresholds
        self._declared: dict[str, Case] = {}
        self._selected: list[str] = []
        self._failures: list[str] = []
        self._wrong_input = False
        self._lines: list[str] = []
        if path is not None and self._has_file:
            machine = thresholds.this_machine()
            self._limits, about = thresholds.nearest_thresholds(path, machine).on(machine)
            self._lines.append(about)

    def run(
        self,
        benchmark: Any,
        case: Case,
        replay: Callable[[Any, Sequence[float]], None],
        *,
        rounds: int = ROUNDS,
        limit: float = LIMIT,
        **options: Any,
    ) -> Measurement | None:
        """Check that a layer computes the same as its reference, then measure both alternately.

        Args:
            benchmark: The fixture of pytest-benchmark.
            case: The layer, its reference and a shape.
            replay: Function `replay(benchmark, seconds)`, which makes pytest-benchmark report these
                measured seconds.
            rounds: The max number of rounds.
            limit: Seconds after which no further round begins.
            **options: Further arguments of `cnnforge.benchmarking.measure`.

        Returns:
            The measurement; `None` with `--benchmark-disable`.
        """
        if case.name in self.entries:
            _fail(
                benchmark,
                f"two benchmarks are named {case.name!r}, and thresholds go by the name: give each "
                "a name of its own",
            )
        if case.name not in self._declared:
            self._declared[case.name] = case
            self._selected.append(case.name)
        checked = certify_layer(case.workload)
        if not checked.passed:
            wrong = ", ".join(result.tensor for result in checked.results if not result.ok)
            _fail(
                benchmark,
                f"{case.name}: the layer differs from its reference, so that its time says "
                f"nothing: {checked.error or wrong}",
            )
        if benchmark.disabled:
            replay(benchmark, [0.0])
            return None
        measured = measure(case, rounds=rounds, limit=limit, **options)
        if not measured.passes:
            pytest.skip(f"{case.name}: {measured.note}")
        benchmark.extra_info.update(_facts(case, measured))
        entry = Entry(case, rounds, limit, benchmark.extra_info)
        entry.take(measured)
        self.entries[case.name] = entry
        replay(benchmark, entry.passes["full"].ours.seconds)
        return measured

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        """Collect the names of all benchmarks before options such as `-k` deselect some."""
        users = [item for item in items if "layer_benchmark" in getattr(item, "fixturenames", ())]
        cases = [_case(item) for item in users]
        self._declared = {case.name: case for case in cases if case is not None}
        yield
        self._selected = [case.name for case in map(_case, items) if case is not None]
        # If a test makes its case in its body, the case is not known before the test runs. Then the
        # names are compared only after the tests, in `_judge`.
        if self._has_file and users and None not in cases:
            self._failures = self._compare_names()
            if self._failures:
                self._failures.append(
                    "nothing was measured; use -k to measure some benchmarks only"
                )
                self._wrong_input = True
                items.clear()

    def finish(self, session: pytest.Session) -> None:
        """Compare the ratios with thresholds, or write thresholds. Call this after all tests.

        pytest-benchmark writes its file later, so the file contains repeated measurements too.

        Args:
            session: The run of pytest; its number of failures is increased.
        """
        if self._wrong_input:
            return
        if self._measures_thresholds:
            self._keep(session)
        else:
            if self._has_file:
                self._require_all(session)
            self._judge(session)
        session.testsfailed += len(self._failures)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Exit with the status of wrong input if thresholds and benchmarks have different names."""
        if self._wrong_input:
            session.exitstatus = UsageError.exit_code

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the ratios and the result of the comparison with thresholds."""
        if not (self.entries or self._lines or self._failures):
            return
        terminalreporter.section("layers compared with their references")
        for line in [*self._lines, *self._table()]:
            terminalreporter.write_line(line)
        for failure in self._failures:
            terminalreporter.write_line(f"FAILED: {failure}", red=True)
        if self._has_file or any(map(self._limits_of, self.entries.values())):
            measured = sum(len(entry.ratios) for entry in self.entries.values())
            terminalreporter.write_line(f"{measured} ratios, {len(self._failures)} failures")

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """Add facts to those of pytest-benchmark: graphics card, driver, CPU features, versions."""
        facts = environment()
        names = ("packages", "backend", "cpu", "threading_layer", "gpu", "driver", "git")
        machine_info["cnnforge"] = {name: facts[name] for name in names}

    def _keys(self) -> list[str]:
        """Return the keys of all benchmarks, including those that this run does not measure."""
        return [f"{name}.{which}" for name in self._declared for which in PASSES]

    def _compare_names(self) -> list[str]:
        promised = {
            f"{name}.{which}"
            for name, case in self._declared.items()
            for which in PASSES
            if case.min_ratio is not None
        }
        return gate.compare_names(self._keys(), {*self._limits, *promised})

    def _limits_of(self, entry: Entry) -> dict[str, float]:
        return {} if self._measures_thresholds else entry.limits(self._limits)

    def _below(self, entry: Entry) -> list[str]:
        limits = self._limits_of(entry)
        return [name for name, limit in limits.items() if entry.ratios[name].upper < limit]

    def _require_all(self, session: pytest.Session) -> None:
        """Add failures for names that differ and for benchmarks that were not measured."""
        self._failures += self._compare_names()
        # A test may fail before it makes its case. Then the name of the case is missing although
        # the file of thresholds is right. So different names are wrong input only if no test has
        # failed.
        self._wrong_input = bool(self._failures and self.entries) and not session.testsfailed
        if not self.entries:
            self._failures.append(
                "nothing was measured: no test that uses layer_benchmark has passed"
            )
        self._failures += [
            f"{name} was not measured: its test has failed or was skipped"
            for name in self._selected
            if name not in self.entries
        ]

    def _judge(self, session: pytest.Session) -> None:
        """Measure ratios below their limits again, and add failures for those that stay below."""
        for _ in range(REPEATS):
            for entry in self.entries.values():
                below = self._below(entry)
                if below and not (session.shouldstop or session.shouldfail):
                    self._say(f"{entry.case.name} again ...")
                    longer = {"rounds": 2 * entry.rounds, "limit": 2 * entry.limit}
                    entry.take(measure(entry.case, **longer), below)
        for entry in self.entries.values():
            for name in self._below(entry):
                key, limit = f"{entry.case.name}.{name}", self._limits_of(entry)[name]
                self._failures.append(
                    gate.too_low(key, entry.ratios[name], limit, entry.attempts[name])
                )

    def _keep(self, session: pytest.Session) -> None:
        """Write the ratios to the file `record`, or write new thresholds."""
        measured = {
            f"{entry.case.name}.{name}": ratio
            for entry in self.entries.values()
            for name, ratio in entry.ratios.items()
        }
        if session.testsfailed or not measured:
            self._failures.append("nothing was written: a test failed or nothing was measured")
        elif self._record is not None:
            self._record.write_text(json.dumps(plain(measured)), encoding="utf-8")
        elif self._write is not None:
            self._write_thresholds(self._write, measured)

    def _write_thresholds(self, path: Path, measured: Mapping[str, Ratio]) -> None:
        machine = thresholds.this_machine()
        path = path / thresholds.file_name(machine.cpu, "toml") if path.is_dir() else path
        try:
            old = thresholds.read_thresholds(path) if path.exists() else None
            # Called only for its errors: if a benchmark was not measured and has no threshold, stop
            # before the other processes measure.
            thresholds.renewed(self._keys(), [measured], old, machine)
            runs = [measured, *(self._in_a_process() for _ in range(PROCESSES - 1))]
            entries = thresholds.renewed(self._keys(), runs, old, machine)
            path.write_text(thresholds.thresholds_text(entries, machine), encoding="utf-8")
        except (OSError, CnnforgeError) as error:
            self._failures.append(f"nothing was written: {error}")
        else:
            self._lines.append(f"{path}: {len(measured)} thresholds written")

    def _in_a_process(self) -> dict[str, Ratio]:
        """Run the command of this run of pytest in another process, to measure again there.

        Returns:
            The measured ratios by key.

        Raises:
            CnnforgeError: The process failed.
        """
        self._say("again in another process ...")
        given = self._config.invocation_params
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "ratios.json")
            command = [sys.executable, "-m", "pytest", *map(str, given.args)]
            command += [f"--cnnforge-gate-record={path}", f"--benchmark-json={folder}/other.json"]
            status, output = run_process(command, given.dir)
            if status:
                raise CnnforgeError(f"another process failed:\n{output}")
            return {key: Ratio(**values) for key, values in json.loads(path.read_text()).items()}

    def _say(self, text: str) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(text)

    def _table(self) -> Iterator[str]:
        if not self.entries:
            return
        width = max(len(name) for name in self.entries) + len(".forward")
        yield f"{'':{width}} {'ours':>12} {'reference':>12}  ratio (p20 to p80), at its best"
        for entry in self.entries.values():
            for name, ratio in entry.ratios.items():
                key, it = f"{entry.case.name}.{name}", entry.passes[name]
                line = f"{key:{width}}"
                line += "".join(
                    f" {1e6 * side.median:9,.1f} us" for side in (it.ours, it.reference)
                )
                line += (
                    f" {ratio.median:6.2f} ({ratio.p20:.2f} to {ratio.p80:.2f}), {ratio.best:.2f}"
                )
                limit = self._limits_of(entry).get(name)
                if limit is not None:
                    attempts = entry.attempts[name]
                    line += f", at least {limit:.2f}"
                    line += f", measured {attempts} times" if attempts > 1 else ""
                yield line


def run_process(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a program in a folder, and return its exit status and its stdout."""
    done = subprocess.run(command, cwd=folder, check=False, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def _fail(benchmark: Any, message: str) -> NoReturn:
    def wrong() -> None:
        raise AssertionError(message)

    # pytest-benchmark warns if a test does not call its fixture. So call it, with a function that
    # fails, before the test ends.
    with contextlib.suppress(AssertionError):
        benchmark.pedantic(wrong)
    pytest.fail(message, pytrace=False)


def _case(item: pytest.Item) -> Case | None:
    """Return the benchmark case among the parameters of a test, or `None`."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return next((value for value in parameters.values() if isinstance(value, Case)), None)


def _facts(case: Case, measured: Measurement) -> dict[str, Any]:
    """Return what the `extra_info` of a benchmark contains in addition to the ratios."""
    workload = case.workload
    return {
        "layer": workload.spec.qualified_name,
        "reference": workload.reference.__name__,
        "shape": list(workload.shape),
        "work": {one.name: asdict(one.work) for one in measured.passes if one.work is not None},
    }
