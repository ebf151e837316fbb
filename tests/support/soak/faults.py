"""The faults, and what a training may answer to each."""

from __future__ import annotations

import random
import re
import signal
from dataclasses import dataclass, field
from typing import Any

from forked import Ended

NAMES = {"SIGINT": "Ctrl-C"}
# A path with blanks is quoted.
_RESUME = r"'cnnforge train --resume ('[^']+'|[^' ]+)'"
GO_ON = rf"go on with {_RESUME}"
DISK = (
    r"error: the training state could not be written to .+: (File too large|No space left on "
    r"device); (state-[-0-9]+\.ckpt is kept|there is no earlier one)",
    r"error: .+ could not be written: .*(File too large|No space left on device).*",
    r"error: the result could not be written to stdout: File too large; .*",
    r"error: the image cache .+ cannot be written: .*",
    r"error: --cache needs .*",
    r"error: cannot create a run directory in .+: .*",
)
NOT_FINITE = (
    r"error: (the loss in|a weight after) epoch \d+, batch \d+ of \d+ is not a finite number, "
    r"first seen in the outputs of layer '?gate'?.*: lower the learning rate, or look for damaged "
    r"images in the data"
    r"(; the last saved state is finite)?"
)
MEMORY = (
    r"error: memory ran out \(.*\): start a new run with a smaller --image-size or --batch-size",
    r"error: memory ran out: the model is saved, but tables or figures are missing; .*",
)
CLAIMED = r"error: another process is training the run .+: wait until it ends, or interrupt it"
OTHER_DATA = r"error: the data .+ are not those of the run .+: .*"
UNREADABLE = r"error: .*/(column|none|row)/\d+\.png.*"
# The second: the process that trains has only begun to start.
TOO_EARLY = (
    r"error: the run .+ has no model.keras: it is training now, and its first epoch has not .*",
    r"error: the run .+ has no model.keras: its training stopped before the end of the first .*",
    r"error: the training of .+ has not ended, and only then can its report be written: .*",
)


@dataclass
class Fault:
    """A fault, and what a training may answer to it.

    Attributes:
        name: Its name in the table.
        orders: Arguments of `soak.inside.install`.
        room: Bytes that are left on the disk; on a large disk, that a file may have. 0: no limit.
        signals: Number of each signal that comes from outside, the moment after which it comes, see
            `soak.inside`, and the seconds after that.
        answers: Patterns of the line with the error, by exit code. An empty pattern: no such line.
        program: Whether it comes to a process that imports everything itself.
    """

    name: str
    orders: dict[str, Any] = field(default_factory=dict)
    room: int = 0
    signals: list[tuple[int, int, float]] = field(default_factory=list)
    answers: dict[int, tuple[str, ...]] = field(default_factory=dict)
    program: bool = False

    def allows(self, code: int, line: str) -> bool:
        """Return whether an exit code with a line of an error is a documented answer."""
        return any(re.fullmatch(pattern, line) for pattern in self.answers.get(code, ()))


def interrupted(number: int) -> tuple[str, ...]:
    """Return the patterns of the lines after a signal."""
    name = signal.Signals(number).name
    by = "" if name == "SIGINT" else f" by {name}"
    saved = f"interrupted by {NAMES.get(name, name)}; the state is saved; {GO_ON}"
    missing = f"the model is saved, but tables or figures are missing; write them with {_RESUME}"
    return saved, f"error: interrupted{by}(; {GO_ON}|; {missing})?"


def line_of(ended: Ended) -> str:
    """Return the line with the error, or that which tells of an interruption; "" for none."""
    if ended.errors:
        return ended.errors[-1]
    lines = ended.err.splitlines()
    return lines[-1] if lines and lines[-1].startswith("interrupted by") else ""


def missing_of(ended: Ended) -> str:
    """Return the first line about a table or figure that could not be written; "" for none."""
    lines = ended.err.splitlines()
    return next((line for line in lines if "of the run could not be written: " in line), "")


def draw(draws: random.Random, moments: int, seconds: float) -> Fault:
    """Draw a fault in a process.

    Args:
        draws: Source of random numbers.
        moments: Number of moments of the rest of the training, without faults.
        seconds: Its time.
    """
    kind = draws.choices(list(_DRAWN), weights=[weight for _, weight in _DRAWN.values()])[0]
    fault = _DRAWN[kind][0](draws, moments, seconds)
    fault.name = fault.name or kind
    fault.answers = {0: ("",), **fault.answers}
    return fault


def _inside(draws: random.Random, moments: int, **orders: Any) -> dict[str, Any]:
    # Early moments more often, so that a training has several faults.
    at = 1 + int(moments * draws.random() ** 1.3)
    return {"at": at, "before": draws.random() < 0.5, **orders}


def _outside(draws: random.Random, moments: int, number: int) -> tuple[int, int, float]:
    # Between two moments there may be a second, in which TensorFlow builds a graph.
    return number, int(moments * draws.random()), 0.5 * draws.random() ** 3


def _signal(*numbers: int) -> Any:
    def make(draws: random.Random, moments: int, seconds: float) -> Fault:
        number = int(draws.choice(numbers))
        code = 128 + number
        answers = {code: ("",) if number == signal.SIGKILL else interrupted(number)}
        if draws.random() < 0.5:
            orders = _inside(draws, moments, signals=(number,))
            return Fault("", orders, answers=answers)
        return Fault("", signals=[_outside(draws, moments, number)], answers=answers)

    return make


def _twice(draws: random.Random, moments: int, seconds: float) -> Fault:
    number = int(signal.SIGINT)
    answers = {128 + number: interrupted(number)}
    if draws.random() < 0.5:
        orders = _inside(draws, moments, signals=(number, number), again=draws.randint(1, 6))
        return Fault("", orders, answers=answers)
    second = (number, 0, draws.uniform(0, 0.3))
    return Fault("", signals=[_outside(draws, moments, number), second], answers=answers)


def _full_disk(draws: random.Random, moments: int, seconds: float) -> Fault:
    room = int(3000 * 10 ** draws.uniform(0, 1.2))
    fault = Fault("", room=room, answers={1: DISK})
    if draws.random() < 0.2:
        fault.name = "full disk, then SIGTERM"
        fault.orders = _inside(draws, moments, signals=(int(signal.SIGTERM),))
        fault.answers[143] = interrupted(signal.SIGTERM)
    return fault


def _not_finite(draws: random.Random, moments: int, seconds: float) -> Fault:
    return Fault("", _inside(draws, moments, failing="nan"), answers={3: (NOT_FINITE,)})


def _memory(draws: random.Random, moments: int, seconds: float) -> Fault:
    return Fault("", _inside(draws, moments, failing="memory"), answers={1: MEMORY})


def _clock(draws: random.Random, moments: int, seconds: float) -> Fault:
    orders = _inside(draws, moments)
    years = 365.25 * 86400
    sizes = (3600.0, 86400.0, years, 8 * years)
    orders["jumps"] = [draws.choice((-1, 1)) * draws.choice(sizes) for _ in range(6)]
    orders["at"] = max(1, orders["at"] // 4)
    # Some of these processes are killed too: otherwise each would end its training.
    kill = draws.random() < 0.5
    signals = [_outside(draws, moments, int(signal.SIGKILL))] if kill else []
    return Fault("", orders, signals=signals, answers={137: ("",)})


def _picture(draws: random.Random, moments: int, seconds: float) -> Fault:
    orders = _inside(draws, moments, damaged=("", ""))
    return Fault("", orders, answers={1: (UNREADABLE,)})


def _program(draws: random.Random, moments: int, seconds: float) -> Fault:
    """A new process, whose imports are interrupted too."""
    number = int(draws.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
    answers = {128 + number: ("",) if number == signal.SIGKILL else interrupted(number)}
    after = [(number, 0, draws.uniform(0, seconds + 4))]
    name = f"{signal.Signals(number).name} to a new process"
    return Fault(name, signals=after, answers=answers, program=True)


_STOPS = (signal.SIGTERM, signal.SIGHUP)
_DRAWN = {
    "SIGKILL": (_signal(signal.SIGKILL), 6),
    "SIGTERM or SIGHUP": (_signal(*_STOPS), 4),
    "SIGINT": (_signal(signal.SIGINT), 2),
    "SIGINT twice": (_twice, 3),
    "full disk": (_full_disk, 4),
    "NaN": (_not_finite, 2),
    "memory runs out": (_memory, 1),
    "the clock jumps": (_clock, 3),
    "an image is damaged during training": (_picture, 2),
    "new process": (_program, 0.4),
}
