"""The gate: no layer becomes slower beside its reference.

Run ``python benchmarks/gate.py``. What is compared is the ratio of the reference's time to ours,
both measured in turn in this process, with the least ratio that ``thresholds.toml`` allows. The
gate fails on a regression; on a layer that computes something wrong; on a case without a threshold
and a threshold without a case, so that renaming one is no way past it; and when nothing ran. A
ratio that noise may have carried across its threshold is measured again, longer; the others are
not. Exit codes: 0 passed, 1 failed, 2 asked for wrongly.
"""

from __future__ import annotations

import argparse
import difflib
import math
import statistics
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from layer_cases import KEYS, PAIRS, PASSES, SHORT, build

THRESHOLDS = Path(__file__).with_name("thresholds.toml")
ROUNDS, SHORT_ROUNDS = 31, 15
# Seconds for the rounds of one pair; a large shape gets fewer rounds.
LIMIT, SHORT_LIMIT = 8.0, 3.0
REPEATS = 3
# Two runs of the same code differ by a few per cent even where the rounds of each agree.
LEAST_NOISE = 0.03


@dataclass(frozen=True)
class Ratio:
    """``reference / ours``: median and percentiles over some rounds."""

    median: float
    p20: float
    p80: float
    rounds: int

    @property
    def noise(self) -> float:
        """Three standard errors of the median, as of a normal distribution, as a part of it."""
        deviation = (self.p80 - self.p20) / 1.683
        error = 3 * 1.253 * deviation / math.sqrt(self.rounds)
        return max(LEAST_NOISE, error / self.median)


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


def judge(ratio: Ratio, threshold: float) -> Literal["passed", "slower", "ambiguous"]:
    """Say whether a ratio is above its threshold, below, or too near to tell."""
    if abs(ratio.median / threshold - 1) <= ratio.noise:
        return "ambiguous"
    return "passed" if ratio.median > threshold else "slower"


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
    for pair in pairs:
        limits = {name: thresholds.get(f"{pair}.{name}") for name in passes}
        _check_pair(pair, {k: v for k, v in limits.items() if v is not None}, measure, report)
    if not report.rows:
        report.failures.append("nothing was measured")
    return report


def _check_pair(pair: str, limits: Mapping[str, float], measure: Measure, report: Report) -> None:
    measured: dict[str, list[Ratio]] = {name: [] for name in limits}
    open_ = dict(limits)
    for attempt in range(REPEATS + 1):
        if not open_:
            return
        try:
            ratios = measure(pair, attempt)
        except (WrongResultError, LookupError) as error:
            report.failures.append(f"{pair}: {error}")
            return
        for name, threshold in list(open_.items()):
            ratio = ratios.get(name)
            if ratio is None:
                report.failures.append(f"{pair}.{name} could not be measured")
                del open_[name]
                continue
            measured[name].append(ratio)
            verdict = judge(ratio, threshold)
            if verdict == "ambiguous":
                if attempt < REPEATS:
                    continue
                # Still too near: the middle of all that was measured decides.
                middle = statistics.median(it.median for it in measured[name])
                verdict = "passed" if middle >= threshold else "slower"
            del open_[name]
            report.rows.append((f"{pair}.{name}", threshold, ratio, attempt + 1, verdict))
            if verdict == "slower":
                report.failures.append(
                    f"{pair}.{name}: {ratio.median:.2f} times as fast as the reference "
                    f"({ratio.p20:.2f} to {ratio.p80:.2f}), at least {threshold:.2f} are expected"
                )


def read_thresholds(path: Path) -> dict[str, float]:
    """Read the least ratios.

    Raises:
        ValueError: A threshold is no number, or one that nothing can fall below.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8")).get("ratios", {})
    found = {}
    for key, entry in table.items():
        least = entry.get("at_least") if isinstance(entry, dict) else entry
        if not isinstance(least, int | float) or not least > 0:
            raise ValueError(f"{path.name}: at_least of {key!r} is {least!r}, expected above 0")
        found[key] = float(least)
    return found


def thresholds_text(measured: Mapping[str, Ratio], margin: float, machine: str) -> str:
    """The content of a thresholds file: ``margin`` below what was measured."""
    lines = [
        "# The least ratio reference/ours of each case; benchmarks/README.md tells how to read it.",
        f"# Written by `python benchmarks/gate.py --write`: {margin:.0%} below what was measured.",
        f'machine = "{machine}"',
        "",
        "[ratios]",
    ]
    lines += [
        f'"{key}" = {{ at_least = {ratio.median * (1 - margin):.2f}, '
        f"measured = {ratio.median:.2f} }}"
        for key, ratio in measured.items()
    ]
    return "\n".join(lines) + "\n"


def measurer(rounds: int, limit: float) -> Measure:
    """Measure real layers; each attempt takes twice as long as the one before."""
    from cnnforge.cli._quiet import import_keras

    import_keras()  # It sets how waiting threads wait, before OpenMP is loaded.
    from cnnforge import _parity as parity
    from cnnforge import benchmarking
    from cnnforge.discovery import discover

    layers = discover().layers
    right: set[str] = set()

    def measure(pair: str, attempt: int) -> dict[str, Ratio]:
        case = build(pair, layers)
        if pair not in right:
            result = parity.check(case.workload)
            if not result.passed:
                wrong = ", ".join(it.tensor for it in result.results if not it.ok)
                raise WrongResultError(f"differs from its reference: {result.error or wrong}")
            right.add(pair)
        measured = benchmarking.measure(case, rounds=rounds << attempt, limit=limit * 2**attempt)
        return {
            it.name: Ratio(*it.ratio, rounds=it.ours.rounds)
            for it in measured.passes
            if it.ratio is not None
        }

    return measure


def _said(measure: Measure) -> Measure:
    def said(pair: str, attempt: int) -> Mapping[str, Ratio]:
        print(f"{pair}{' again' if attempt else ''} ...", file=sys.stderr, flush=True)
        return measure(pair, attempt)

    return said


def _write(path: Path, measure: Measure, margin: float) -> None:
    from cnnforge._files import write_text
    from cnnforge.environment import backend, processor

    measured = {}
    for pair in PAIRS:
        ratios = measure(pair, 0)
        missing = [name for name in PASSES if name not in ratios]
        if missing:
            raise LookupError(f"{pair}.{missing[0]} could not be measured; nothing was written")
        measured |= {f"{pair}.{name}": ratios[name] for name in PASSES}
    cpu, framework = processor(), backend()
    machine = (
        f"{cpu['model']} ({cpu['target']}), {cpu['usable_cores']} cores, "
        f"{framework['name']} {framework['version']}"
    )
    write_text(path, thresholds_text(measured, margin, machine))


def main(arguments: Sequence[str] | None = None, measure: Measure | None = None) -> int:
    parser = argparse.ArgumentParser("gate.py", description="Fail where a layer has become slower.")
    parser.add_argument("--short", action="store_true", help="a few cases, under three minutes")
    parser.add_argument("--only", action="append", metavar="PAIR", help="such as seed1.block")
    parser.add_argument("--write", action="store_true", help="measure all, write the thresholds")
    parser.add_argument("--margin", type=float, default=0.25, help="for --write (default 0.25)")
    parser.add_argument("--thresholds", type=Path, default=THRESHOLDS)
    options: Any = parser.parse_args(arguments)
    pairs = options.only or (SHORT if options.short else PAIRS)
    unknown = [pair for pair in pairs if pair not in PAIRS]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are: {', '.join(PAIRS)}")
    if not 0 < options.margin < 1:
        parser.error(f"--margin is {options.margin}, expected between 0 and 1")
    thresholds = {}
    if not options.write:
        try:
            thresholds = read_thresholds(options.thresholds)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    if measure is None:
        short = options.short
        measure = measurer(SHORT_ROUNDS if short else ROUNDS, SHORT_LIMIT if short else LIMIT)
    if options.write:
        try:
            _write(options.thresholds, _said(measure), options.margin)
        except (WrongResultError, LookupError) as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        return 0
    report = check(pairs, thresholds, _said(measure))
    for key, threshold, ratio, attempts, verdict in report.rows:
        again = f"  measured {attempts} times" if attempts > 1 else ""
        print(
            f"{key:32} {ratio.median:6.2f} ({ratio.p20:.2f} to {ratio.p80:.2f})"
            f"  at least {threshold:.2f}  {verdict}{again}"
        )
    for failure in report.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    print(f"{len(report.rows)} ratios, {len(report.failures)} failures")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
