"""Rows measured in a process of their own, which may die or hang without taking the rest along.

The worker prints one JSON object a line: ``{"about", "ceilings"}`` first, ``{"begin": key}`` and
``{"row": ...}`` for each row, ``{"done": true}`` at the end. A kernel that reads where it must not
spoils the process's device: the row fails, and a new worker goes on with the next one.
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

# Seconds without a word: compiling for the device and PyTorch's compiler take less.
PATIENCE = 90.0
_LAST_ROW = 20.0


@dataclass
class Session:
    """What is known so far.

    Attributes:
        rows: as far as they were measured.
        about: the device and the versions.
        ceilings: of the device.
        problems: what went wrong besides, a line each.
        not_measured: keys that no time was left for.
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
    """Measure rows, with as many workers one after the other as it takes.

    Args:
        session: what is known; added to.
        keys: of the rows, in their order.
        command: starts a worker for so many keys, with ceilings that are known already.
        changed: told whenever something is known; the row, if it is one.
        deadline: by ``time.monotonic``; no row begins after it.
        patience: seconds without a word after which a worker is ended.
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
    """Run one worker, which takes what it deals with from ``left``; returns what went wrong."""
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
                # A row that has begun before the deadline may take so much longer.
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
    """The worker: measure rows one after the other and say what comes out.

    Args:
        keys: of the rows.
        device: where.
        row_of: from a key to the row.
        measure: ``measure(row, device, ceilings)``.
        say: is given each message.
        ceilings: of the device, where they are known.
        seconds: after which no row begins.

    Returns:
        The exit code: 0; 3 after a row that has spoiled the device.
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
