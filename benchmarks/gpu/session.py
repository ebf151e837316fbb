"""Measure rows in a worker process, so that a crash or a hang there does not end the session.

The worker prints one JSON object per line: ``{"about", "ceilings"}`` first, ``{"begin": key}`` and
``{"row": ...}`` for each row, and ``{"done": true}`` at the end. After a kernel with an invalid
address the worker cannot use the device any more. The row then fails, and a new worker continues
with the next one.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu.ceilings import Ceilings
from gpu.measure import Measured, from_json

# A worker that prints nothing for this many seconds is ended. Compiling a kernel takes less.
PATIENCE = 90.0
_LAST_ROW = 20.0


@dataclass
class Session:
    """Results so far.

    Attributes:
        rows: Rows that were measured.
        about: The device and the versions.
        ceilings: Peak rates of the device.
        problems: Other problems, one line each.
        not_measured: Keys of the rows for which no time was left.
    """

    rows: list[Measured] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    ceilings: Ceilings | None = None
    problems: list[str] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)


def measure_all(
    session: Session,
    keys: Sequence[str],
    command: Callable[[Sequence[str], Ceilings | None], list[str]],
    changed: Callable[[Session, Measured | None], None],
    *,
    deadline: float = float("inf"),
    patience: float = PATIENCE,
) -> None:
    """Measure rows. Workers run one after the other until all rows are done.

    Args:
        session: Results, to which this function adds.
        keys: Keys of the rows in order.
        command: Function that makes the command of a worker from the keys that are left and the
            peak rates, if they are known.
        changed: Function that is called with the session after every change, and with the new row
            or ``None``.
        deadline: Time by ``time.monotonic`` after which no row starts.
        patience: Silence in seconds after which a worker is ended.
    """
    left, failed_starts = list(keys), 0
    while left and time.monotonic() < deadline:
        before = len(left)
        said = _one_worker(session, left, command, changed, deadline, patience)
        if said:
            session.problems.append(said)
        failed_starts = failed_starts + 1 if said and len(left) == before else 0
        if failed_starts == 2 or not said:
            break
    session.not_measured += left


def _one_worker(
    session: Session,
    left: list[str],
    command: Callable[[Sequence[str], Ceilings | None], list[str]],
    changed: Callable[[Session, Measured | None], None],
    deadline: float,
    patience: float,
) -> str:
    """Run one worker and remove its rows from ``left``. Returns the problem, or an empty text."""
    worker = subprocess.Popen(
        command(left, session.ceilings), stdout=subprocess.PIPE, text=True, bufsize=1
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(worker, lines), daemon=True)
    reader.start()
    current = ""

    def fail(why: str) -> str:
        if current and current in left:
            left.remove(current)
            row = Measured(current, verdict=f"FAILED: {why}")
            session.rows.append(row)
            changed(session, row)
        return f"{current or 'the worker'}: {why}"

    try:
        while True:
            try:
                # A row that started before the deadline may take this much longer.
                ends = deadline + _LAST_ROW - time.monotonic()
                line = lines.get(timeout=max(min(patience, ends), 1))
            except queue.Empty:
                return fail(f"no answer for {min(patience, max(ends, 1)):.0f} s")
            if line is None:
                code = worker.wait()
                return fail(f"its process ended with {code}")
            try:
                message: dict[str, Any] = json.loads(line)
            except ValueError:
                print(line, end="", file=sys.stderr)
                continue
            if "about" in message:
                session.about = message["about"]
                session.ceilings = Ceilings(**message["ceilings"])
                changed(session, None)
            elif "begin" in message:
                current = message["begin"]
            elif "row" in message:
                row = from_json(message["row"])
                left.remove(row.key)
                session.rows.append(row)
                changed(session, row)
                current = ""
            elif "done" in message:
                return ""
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
        reader.join()


def _read(worker: Any, lines: queue.Queue[str | None]) -> None:
    with worker.stdout as said:
        for line in said:
            lines.put(line)
    lines.put(None)


def work(
    keys: Sequence[str],
    device: Any,
    row_of: Callable[[str], Any],
    measure: Callable[..., Measured],
    say: Callable[[dict[str, Any]], None],
    *,
    ceilings: Ceilings | None = None,
    seconds: float = float("inf"),
) -> int:
    """Measure rows one after the other in the worker process, and send messages.

    Args:
        keys: Keys of the rows.
        device: Device that computes them.
        row_of: Function that returns the row of a key.
        measure: Function ``measure(row, device, ceilings)``.
        say: Function that sends a message.
        ceilings: Peak rates of the device, if they are known.
        seconds: Time in seconds after which no row starts.

    Returns:
        The exit code: 0, or 3 after a row that made the device unusable.
    """
    begun = time.monotonic()
    known = ceilings or device.ceilings()
    say({"about": device.about(), "ceilings": vars(known)})
    for key in keys:
        if time.monotonic() - begun > seconds:
            break
        say({"begin": key})
        try:
            row = measure(row_of(key), device, known)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            say({"row": Measured(key, verdict=f"FAILED: {said}").to_json()})
            if not device.works():
                return 3
            continue
        say({"row": row.to_json()})
    say({"done": True})
    return 0
