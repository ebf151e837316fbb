"""Read one case of a target, and say what came of it."""

from __future__ import annotations

import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_target import Files, Target, digest, fresh, place

from cnnforge.errors import CnnforgeError

# A case that waits takes no time of the processor.
_WAITING = 60.0


class TooLong(BaseException):
    """An input takes longer than is allowed."""


@dataclass
class Tally:
    """Counts the outcomes of the cases of a target.

    Attributes:
        target: The target.
        folder: A folder on a fast disk for the files of one case.
        inputs: Number of cases.
        outcomes: Number of cases with each class of error, and with none (`"value"`).
        findings: A description of each kind of finding, with the number of the first case.
        slowest: Most seconds of the processor that a case took, and its number.
    """

    target: Target
    folder: Path
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    _before: Files = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove the files of the last case, and what its reader wrote."""
        fresh(self.folder)
        self._before = {}

    def run(self, number: int) -> str:
        """Read the case with a number. Return a description of the finding, or ""."""
        return self.run_files(self.target.case(number), number)

    def run_files(self, files: Files, number: int = -1) -> str:
        """Read a case. Return a description of the finding, or ""."""
        place(self.folder, self._before, files)
        self._before = files
        started = time.process_time()
        outcome, finding = outcome_of(self.target, self.folder, digest(files))
        seconds = time.process_time() - started
        self.inputs += 1
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, (seconds, number))
        if finding:
            self.findings.setdefault(finding, number)
        return finding


def outcome_of(target: Target, folder: Path, choice: int) -> tuple[str, str]:
    """Read a case in a folder. Return its outcome, and a description of a finding or ""."""
    try:
        with _limited(target.seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder, choice)
    except (CnnforgeError, *target.refuses) as error:
        text = str(error)
        if "\n" in text or not text.strip():
            return type(error).__name__, f"a message of several lines or none: {text!r:.300}"
        return type(error).__name__, ""
    except TooLong as error:
        return "TooLong", f"takes too long: {_place(error)}"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:100]!r} {_place(error)}"
    return "value", ""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    before = [signal.signal(each, stop) for each in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _WAITING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])


def _place(error: BaseException) -> str:
    """Return the innermost frames of this project, which tell findings apart."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/cnnforge" in frame.filename or "/kernels/" in frame.filename
    ]
    inner = traceback.extract_tb(error.__traceback__)[-1:]
    last = "".join(f" ({Path(each.filename).name}:{each.lineno})" for each in inner)
    return " ".join(dict.fromkeys(frames[-2:])) + last


def peak_memory() -> int:
    """Return the max resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
