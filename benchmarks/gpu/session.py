"""Measure rows (benchmark cases) in a worker process, which may crash or hang.

The worker prints one JSON object per line: ``{"about", "ceilings"}`` first, ``{"begin": key}`` and
``{"row": ...}`` for each row, and ``{"done": true}`` at the end. If a kernel accesses an invalid
address, its process cannot use the device any more. Then the row fails, and the parent process
starts a new worker for the remaining rows.
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

# If a worker prints nothing for this many seconds, the parent ends it. Compiling a kernel takes
# less time.
PATIENCE = 90.0
_LAST_ROW = 20.0


@dataclass
class Session:
    """Results so far of all workers.

    Attributes:
        rows: Results of the rows that were measured.
        about: Names of the device and versions of the packages.
        ceilings: Peak rates of the device.
        problems: One line of text for each problem, such as a worker that crashed.
        not_measured: Keys of the rows that were not measured because the time was over.
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
    """Measure rows. Start workers one after the other until all rows are done.

    Args:
        session: Results so far. This function adds to them.
        keys: Keys of the rows in order.
        command: Function ``command(keys, ceilings)`` that returns the command of a worker. Its
            arguments are the keys of the remaining rows, and the peak rates if they are known.
        changed: Function ``changed(session, row)``, called after every change. ``row`` is the new
            result, or ``None``.
        deadline: Value of ``time.monotonic()`` after which no row starts.
        patience: Maximum seconds between two lines of a worker. After that, the worker is ended.
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
    """Run one worker and remove the rows that it finished from ``left``.

    Return a text that says why the worker failed, or an empty text.
    """
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
                # A row that started just before the deadline may run _LAST_ROW seconds longer.
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
    """Measure rows one after the other, and send messages to the parent. The worker calls this.

    Args:
        keys: Keys of the rows.
        device: A ``TorchDevice`` or a ``DryRunDevice``.
        row_of: Function that returns the row with a key.
        measure: Function ``measure(row, device, ceilings)`` that returns the result of a row.
        say: Function that sends a message to the parent.
        ceilings: Peak rates of the device; ``None`` to measure them first.
        seconds: Time in seconds after which no further row starts.

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
