"""The gate: no layer becomes slower beside its reference.

Run ``python benchmarks/gate.py``. What is compared is the ratio of the reference's time to ours,
both measured in turn in this process, with the least ratio that is allowed: ``thresholds/`` has a
file for each machine that was measured. The gate fails on a regression; on a layer that computes
something wrong; on a case without a threshold and a threshold without a case, so that renaming one
is no way past it; and when nothing ran. A ratio below its threshold is measured again, after all
others and longer; only one that stays below fails. Thresholds hold for the machine that their file
names: on a processor without a file a wider margin holds, and with another number of cores, or on
another backend, none (NOT COMPARABLE). Exit codes: 0 passed, 1 failed, 2 asked for wrongly.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layer_cases import KEYS, PAIRS, PASSES, SHORT, build, file_name

THRESHOLDS = Path(__file__).with_name("thresholds")
ROUNDS, SHORT_ROUNDS = 31, 15
# Seconds for the rounds of one pair; a large shape gets fewer rounds.
LIMIT, SHORT_LIMIT = 8.0, 3.0
REPEATS = 3
# On another processor of as many cores a ratio may be this part of what is allowed on the one that
# the thresholds are from. Both sides use its vectors, so that ratios do not move by much more.
ELSEWHERE = 0.4


@dataclass(frozen=True)
class Ratio:
    """``reference / ours``.

    Attributes:
        median: Over the rounds, taken round by round; with the percentiles.
        best: Of the shortest times of both. Where another process takes a core now and then, these
            are of rounds in which it did not.
    """

    median: float
    p20: float
    p80: float
    best: float

    @property
    def upper(self) -> float:
        """What a threshold is compared with: something else that runs makes one of them too low."""
        return max(self.median, self.best)


@dataclass(frozen=True)
class Machine:
    """What thresholds hold for."""

    cpu: str
    cores: int
    backend: str

    def factor(self, other: Machine) -> float | None:
        """Which part of its thresholds holds on another machine; `None`: nothing does."""
        if self == other:
            return 1.0
        names = (self.backend.split()[0], other.backend.split()[0])
        return ELSEWHERE if self.cores == other.cores and names[0] == names[1] else None


@dataclass
class Report:
    """What the gate has found.

    Attributes:
        rows: Key, threshold, ratio, how often it was measured, and the verdict.
        failures: A line each; none: passed.
    """

    rows: list[tuple[str, float, Ratio, int, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class WrongResultError(Exception):
    """A layer does not compute what its reference computes."""


Measure = Callable[[str, int], Mapping[str, Ratio]]
"""From a pair and the number of the attempt, from 0, to the ratio of each pass."""


def compare_names(keys: Collection[str], thresholds: Collection[str]) -> list[str]:
    """Say which cases have no threshold, and which thresholds no case."""
    failures = []
    for title, one, other in (
        ("has a threshold and is not measured", thresholds, keys),
        ("is measured and has no threshold", keys, thresholds),
    ):
        for key in one:
            if key not in other:
                near = difflib.get_close_matches(key, [it for it in other if it not in one], n=1)
                hint = f" (renamed? there is {near[0]})" if near else ""
                failures.append(f"{key} {title}{hint}")
    return failures


def check(
    pairs: Sequence[str],
    thresholds: Mapping[str, float],
    measure: Measure,
    *,
    keys: Collection[str] = KEYS,
    passes: Sequence[str] = PASSES,
) -> Report:
    """Measure pairs and compare them with their thresholds.

    Args:
        pairs: What to measure.
        thresholds: Key to the least ratio that is allowed.
        measure: Measures one pair.
        keys: Every key that there is, whether it is measured this time or not.
        passes: The passes of a pair that have a key.
    """
    report = Report(failures=compare_names(keys, thresholds))
    open_ = {pair: [it for it in passes if f"{pair}.{it}" in thresholds] for pair in pairs}
    for attempt in range(REPEATS + 1):
        # All others lie between two attempts at the same: what ran meanwhile may be done.
        for pair, names in open_.items():
            if names:
                limits = {name: thresholds[f"{pair}.{name}"] for name in names}
                open_[pair] = _check_pair(pair, limits, measure, attempt, report)
    if not report.rows:
        report.failures.append("nothing was measured")
    return report


def _check_pair(
    pair: str, limits: Mapping[str, float], measure: Measure, attempt: int, report: Report
) -> list[str]:
    """Measure a pair once.

    Returns:
        The passes that are to be measured again.
    """
    try:
        ratios = measure(pair, attempt)
    except (WrongResultError, LookupError) as error:
        report.failures.append(f"{pair}: {error}")
        return []
    again = []
    for name, threshold in limits.items():
        ratio = ratios.get(name)
        slower = ratio is None or ratio.upper < threshold
        if slower and attempt < REPEATS:
            again.append(name)
        elif ratio is None:
            report.failures.append(f"{pair}.{name} could not be measured")
        else:
            verdict = "slower" if slower else "passed"
            report.rows.append((f"{pair}.{name}", threshold, ratio, attempt + 1, verdict))
            if slower:
                report.failures.append(
                    f"{pair}.{name}: {ratio.median:.2f} times as fast as the reference "
                    f"({ratio.p20:.2f} to {ratio.p80:.2f}, {ratio.best:.2f} at its best), at least "
                    f"{threshold:.2f} are expected; measured {attempt + 1} times"
                )
    return again


def read_thresholds(path: Path) -> tuple[dict[str, float], Machine]:
    """Read the least ratios, and the machine that they are from.

    Raises:
        ValueError: A threshold is no number, or one that nothing can fall below; or the machine is
            missing.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    found = {}
    for key, entry in table.get("ratios", {}).items():
        least = entry.get("at_least") if isinstance(entry, dict) else entry
        if not isinstance(least, int | float) or not least > 0:
            raise ValueError(f"{path.name}: at_least of {key!r} is {least!r}, expected above 0")
        found[key] = float(least)
    try:
        machine = Machine(**table["machine"])
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"{path.name}: [machine] is not as --write writes it, with cpu, cores and backend"
        ) from error
    return found, machine


def nearest_thresholds(path: Path, machine: Machine) -> tuple[dict[str, float], Machine]:
    """Those of a file; of a folder, those of the file that holds most on a machine.

    Raises:
        ValueError: As ``read_thresholds``; or there is no file.
        OSError: A file cannot be read.
    """
    if not path.is_dir():
        return read_thresholds(path)
    found = [read_thresholds(file) for file in sorted(path.glob("*.toml"))]
    if not found:
        raise ValueError(f"{path} has no file of thresholds; --write writes one")
    return max(found, key=lambda it: it[1].factor(machine) or 0.0)


def this_machine() -> Machine:
    from cnnforge.utils.environment import backend, processor

    cpu, framework = processor(), backend()
    # 2.21.0 and 2.21.1 compute with the same code.
    version = ".".join(framework["version"].split(".")[:2])
    name = f"{cpu['model']} ({cpu['target']})"
    return Machine(name, cpu["usable_cores"], f"{framework['name']} {version}")


def thresholds_text(measured: Mapping[str, Ratio], margin: float, machine: Machine) -> str:
    """The content of a thresholds file: ``margin`` below what was measured."""
    lines = [
        "# The least ratio reference/ours of each case; benchmarks/README.md tells how to read it.",
        f"# Written by `python benchmarks/gate.py --write`: {margin:.0%} below what was measured.",
        "",
        "[machine]",
        f'cpu = "{machine.cpu}"',
        f"cores = {machine.cores}",
        f'backend = "{machine.backend}"',
        "",
        "[ratios]",
    ]
    lines += [
        f'"{key}" = {{ at_least = {min(it.median, it.best) * (1 - margin):.2f}, '
        f"measured = {it.median:.2f} }}"
        for key, it in measured.items()
    ]
    return "\n".join(lines) + "\n"


def measurer(rounds: int, limit: float) -> Measure:
    """Measure real layers; what is measured again is measured for twice as long."""
    from cnnforge.cli._import_keras import import_keras

    import_keras()  # It sets how waiting threads wait, before OpenMP is loaded.
    from cnnforge import benchmarking
    from cnnforge.conversion.certificate import certify_layer
    from cnnforge.plugin_host.discovery import discover

    layers = discover().layers
    right: set[str] = set()

    def measure(pair: str, attempt: int) -> dict[str, Ratio]:
        case = build(pair, layers)
        if pair not in right:
            result = certify_layer(case.workload)
            if not result.passed:
                wrong = ", ".join(it.tensor for it in result.results if not it.ok)
                raise WrongResultError(f"differs from its reference: {result.error or wrong}")
            right.add(pair)
        longer = 2 if attempt else 1
        measured = benchmarking.measure(case, rounds=rounds * longer, limit=limit * longer)
        return {
            it.name: Ratio(*it.ratio, best=it.reference.best / it.ours.best)
            for it in measured.passes
            if it.ratio is not None
        }

    return measure


def _said(measure: Measure) -> Measure:
    def said(pair: str, attempt: int) -> Mapping[str, Ratio]:
        print(f"{pair}{' again' if attempt else ''} ...", file=sys.stderr, flush=True)
        return measure(pair, attempt)

    return said


def _everything(measure: Measure) -> dict[str, Ratio]:
    measured = {}
    for pair in PAIRS:
        ratios = measure(pair, 0)
        missing = [name for name in PASSES if name not in ratios]
        if missing:
            raise LookupError(f"{pair}.{missing[0]} could not be measured; nothing was written")
        measured |= {f"{pair}.{name}": ratios[name] for name in PASSES}
    return measured


def _in_a_process() -> dict[str, Ratio]:
    """Everything, measured by a process of its own.

    Where its memory lies makes some layer of a process faster or slower from beginning to end:
    TensorFlow's gradients of a depthwise convolution took twice as long in one as in another.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "measured.json")
        command = [sys.executable, __file__, "--record", str(path)]
        if subprocess.run(command, check=False).returncode:
            raise LookupError("a process has failed; nothing was written")
        return {key: Ratio(**it) for key, it in json.loads(path.read_text()).items()}


def _lowest(runs: Sequence[Mapping[str, Ratio]]) -> dict[str, Ratio]:
    return {key: min((it[key] for it in runs), key=lambda it: it.upper) for key in runs[0]}


def _write(options: Any, measure: Measure | None, machine: Callable[[], Machine]) -> int:
    """Measure everything and write it: thresholds, or what one process has measured."""
    try:
        if options.record:
            measured = _everything(_said(measure or measurer(ROUNDS, LIMIT)))
        elif measure is not None:
            measured = _everything(measure)
        else:
            measured = _lowest([_in_a_process() for _ in range(options.processes)])
    except (WrongResultError, LookupError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    if options.record:
        values = {key: asdict(it) for key, it in measured.items()}
        options.record.write_text(json.dumps(values), encoding="utf-8")
    else:
        here, path = machine(), options.thresholds
        path = path / file_name(here.cpu, "toml") if path.is_dir() else path
        path.write_text(thresholds_text(measured, options.margin, here), encoding="utf-8")
    return 0


def _adapted(
    thresholds: Mapping[str, float], theirs: Machine, ours: Machine
) -> tuple[dict[str, float], str]:
    """The thresholds that hold on this machine, and a line about them."""
    factor = theirs.factor(ours)
    about = f"thresholds of {theirs.cpu}, {theirs.cores} cores, {theirs.backend}"
    if factor == 1:
        return dict(thresholds), f"{about}: this machine"
    here = f"{ours.cpu}, {ours.cores} cores, {ours.backend}"
    if factor is None:
        # Nothing is below zero: parity, the names, and that something ran are left to fail.
        return dict.fromkeys(thresholds, 0.0), f"NOT COMPARABLE: {about}; this is {here}"
    scaled = {key: it * factor for key, it in thresholds.items()}
    return scaled, f"{about}; this is {here}: {factor:.0%} of them are expected"


def main(
    arguments: Sequence[str] | None = None,
    measure: Measure | None = None,
    machine: Callable[[], Machine] = this_machine,
) -> int:
    parser = argparse.ArgumentParser("gate.py", description="Fail where a layer has become slower.")
    parser.add_argument("--short", action="store_true", help="a few cases, under three minutes")
    parser.add_argument("--only", action="append", metavar="PAIR", help="such as seed1.block")
    parser.add_argument("--write", action="store_true", help="measure all, write the thresholds")
    parser.add_argument("--processes", type=int, default=3, help="for --write: the lowest counts")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--margin", type=float, default=0.25, help="for --write (default 0.25)")
    parser.add_argument(
        "--thresholds", type=Path, default=THRESHOLDS, help="a file, or a folder of them"
    )
    options: Any = parser.parse_args(arguments)
    pairs = options.only or (SHORT if options.short else PAIRS)
    unknown = [pair for pair in pairs if pair not in PAIRS]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are: {', '.join(PAIRS)}")
    if not 0 < options.margin < 1:
        parser.error(f"--margin is {options.margin}, expected between 0 and 1")
    if options.write or options.record:
        return _write(options, measure, machine)
    try:
        ours = machine()
        thresholds, theirs = nearest_thresholds(options.thresholds, ours)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if measure is None:
        short = options.short
        measure = measurer(SHORT_ROUNDS if short else ROUNDS, SHORT_LIMIT if short else LIMIT)
    limits, about = _adapted(thresholds, theirs, ours)
    print(about, flush=True)
    report = check(pairs, limits, _said(measure))
    for key, threshold, ratio, attempts, verdict in report.rows:
        again = f"  measured {attempts} times" if attempts > 1 else ""
        print(
            f"{key:32} {ratio.median:6.2f} ({ratio.p20:.2f} to {ratio.p80:.2f}), at its best "
            f"{ratio.best:6.2f}  at least {threshold:.2f}  {verdict}{again}"
        )
    for failure in report.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    print(f"{len(report.rows)} ratios, {len(report.failures)} failures")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
