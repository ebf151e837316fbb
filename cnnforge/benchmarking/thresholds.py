"""Read and write files of thresholds for the speed of plugin layers on a machine.

A threshold is the min value of ``reference / ours``, the time of the reference (the stock layer)
divided by the time of the plugin layer. Its key is explained in `gate.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnforge.benchmarking.gate import Ratio
from cnnforge.errors import UsageError, one_line
from cnnforge.utils.environment import backend, processor

# A new threshold is the measured ratio times `1 - MARGIN`.
MARGIN = 0.25
# Factor for thresholds that were measured on another processor with the same number of cores.
# Ratios differ from one processor to another, so less is expected. They can still be compared,
# because both the plugin layer and the reference use the vector instructions of each processor.
ELSEWHERE = 0.4


@dataclass(frozen=True)
class Machine:
    """The facts about a machine that affect thresholds.

    Attributes:
        cpu: Model of the processor, and LLVM's name for it in parentheses.
        cores: The number of cores that the process may use.
        backend: Name of the framework and the first two parts of its version.
    """

    cpu: str
    cores: int
    backend: str

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.backend}"

    def factor(self, other: Machine) -> float | None:
        """Return the factor by which thresholds of this machine are multiplied on another one.

        Return `None` if ratios of the two machines cannot be compared.
        """
        if self == other:
            return 1.0
        names = (self.backend.split()[0], other.backend.split()[0])
        return ELSEWHERE if self.cores == other.cores and names[0] == names[1] else None


@dataclass(frozen=True)
class Threshold:
    """The threshold of one pass of one benchmark.

    Attributes:
        at_least: Min ratio ``reference / ours`` that passes.
        measured: The ratio when the threshold was written; `None` if the file does not contain it.
    """

    at_least: float
    measured: float | None = None


@dataclass(frozen=True)
class Thresholds:
    """A file of thresholds.

    Attributes:
        path: The file.
        machine: The machine on which the thresholds were measured.
        entries: The thresholds by key.
    """

    path: Path
    machine: Machine
    entries: Mapping[str, Threshold]

    def on(self, machine: Machine) -> tuple[dict[str, float], str]:
        """Return the min ratios on a machine by key, and a line that names both machines."""
        factor = self.machine.factor(machine)
        about = f"{self.path}: thresholds of {self.machine}"
        if factor is None:
            # No ratio is below a threshold of 0, so a slow layer cannot make the run fail here. A
            # wrong layer, a wrong name and an empty run still make it fail.
            about = f"NOT COMPARABLE: {about}; this machine is {machine}"
            return dict.fromkeys(self.entries, 0.0), about
        if factor == 1:
            about = f"{about}, which is this machine"
        else:
            about = f"{about}; this machine is {machine}: {factor:.0%} of them are expected"
        return {key: entry.at_least * factor for key, entry in self.entries.items()}, about


def this_machine() -> Machine:
    """Describe the machine and the backend of this process."""
    cpu, framework = processor(), backend()
    # Patch releases, such as 2.21.1 after 2.21.0, have the same speed. So use only two numbers.
    version = ".".join(framework["version"].split(".")[:2])
    name = f"{cpu['model']} ({cpu['target']})"
    return Machine(name, cpu["usable_cores"], f"{framework['name']} {version}")


def file_name(cpu: str, suffix: str) -> str:
    """Return a file name made of the name of a processor, such as ``amd-epyc-znver4.toml``."""
    return f"{re.sub('[^a-z0-9]+', '-', cpu.lower()).strip('-')}.{suffix}"


def read_thresholds(path: Path) -> Thresholds:
    """Read a file of thresholds.

    Args:
        path: A TOML file in the form that `thresholds_text` writes.

    Returns:
        The thresholds.

    Raises:
        UsageError: The file cannot be read, a threshold is not a number above 0, or the
            description of the machine is missing.
    """
    hint = "--cnnforge-gate-write writes such a file"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the gate file {path} cannot be read: {error.strerror or error}; {hint}"
        ) from None
    except ValueError as error:
        raise UsageError(f"the gate file {path} is not TOML: {one_line(error)}; {hint}") from None
    try:
        machine = Machine(**table["machine"])
    except (LookupError, TypeError):
        raise UsageError(
            f"{path}: [machine] must have cpu, cores and backend, got {table.get('machine')!r}; "
            f"{hint}"
        ) from None
    found, given = {}, table.get("ratios", {})
    for key, entry in given.items() if isinstance(given, dict) else ():
        least, measured = (
            (entry.get("at_least"), entry.get("measured"))
            if isinstance(entry, dict)
            else (entry, None)
        )
        if not isinstance(least, int | float) or not least > 0:
            raise UsageError(f"{path}: at_least of {key!r} is {least!r}, expected a number above 0")
        found[key] = Threshold(float(least), measured)
    return Thresholds(path, machine, found)


def nearest_thresholds(path: Path, machine: Machine) -> Thresholds:
    """Read a file of thresholds. In a folder, choose the file that fits a machine best.

    Args:
        path: A file, or a folder of files.
        machine: The machine to measure on.

    Returns:
        The thresholds.

    Raises:
        UsageError: A file is wrong (see `read_thresholds`), or the folder has none.
    """
    if not path.is_dir():
        return read_thresholds(path)
    found = [read_thresholds(file) for file in sorted(path.glob("*.toml"))]
    if not found:
        raise UsageError(
            f"the folder {path} has no file of thresholds; --cnnforge-gate-write writes one"
        )
    return max(found, key=lambda thresholds: thresholds.machine.factor(machine) or 0.0)


def renewed(
    keys: Iterable[str],
    runs: Sequence[Mapping[str, Ratio]],
    old: Thresholds | None,
    machine: Machine,
) -> dict[str, Threshold]:
    """Make new thresholds, and keep those of benchmarks that were not measured.

    Args:
        keys: The keys of all benchmarks.
        runs: Ratios by key, one mapping for each process that has measured. The min ratio over the
            processes determines the threshold.
        old: The thresholds in the file that is to be replaced; `None` if there is no such file.
        machine: The machine that was measured.

    Returns:
        The thresholds by key, in the order of `keys`.

    Raises:
        UsageError: A key was not measured and has no old threshold from this machine, or only some
            of the processes have measured it.
    """
    entries = {}
    for key in keys:
        if key in runs[0]:
            if any(key not in run for run in runs):
                raise UsageError(
                    f"{key} was not measured in every process: measure again on an idle machine, "
                    "or find out why a process skips its test"
                )
            entries[key] = _new(min((run[key] for run in runs), key=lambda ratio: ratio.upper))
        elif old is None or key not in old.entries:
            raise UsageError(f"{key} was not measured and has no threshold yet: measure it too")
        elif old.machine != machine:
            raise UsageError(f"{key} was not measured, and {old.path} is of another machine")
        else:
            entries[key] = old.entries[key]
    return entries


def _new(ratio: Ratio) -> Threshold:
    """Return a threshold that is a quarter (`MARGIN`) below a measured ratio."""
    return Threshold(min(ratio.median, ratio.best) * (1 - MARGIN), ratio.median)


def thresholds_text(entries: Mapping[str, Threshold], machine: Machine) -> str:
    """Return the content of a file of thresholds."""
    lines = [
        "# The min ratio reference/ours of each benchmark. Written by --cnnforge-gate-write of",
        f"# cnnforge's pytest plugin: {MARGIN:.0%} below what was measured.",
        "",
        "[machine]",
        f'cpu = "{machine.cpu}"',
        f"cores = {machine.cores}",
        f'backend = "{machine.backend}"',
        "",
        "[ratios]",
    ]
    for key, entry in entries.items():
        measured = "" if entry.measured is None else f", measured = {entry.measured:.2f}"
        lines.append(f'"{key}" = {{ at_least = {entry.at_least:.2f}{measured} }}')
    return "\n".join(lines) + "\n"
