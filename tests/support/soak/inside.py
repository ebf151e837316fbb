"""Change the functions of a process that trains: it counts moments, and has a fault at one.

A moment is a call of one of the functions that read, train, and write. So a fault can come between
any two of them, and the same number gives the same moment.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

RECORD = struct.Struct("<qqqq")


@dataclass
class Progress:
    """The number of batches that a process has trained.

    Attributes:
        first: Number of batches, from the first epoch on, that were done when training began; -1 if
            it did not begin.
        reached: Number of batches that were done at last.
        moments: Number of moments.
        fired: Whether the moment of the fault has come.
    """

    first: int = -1
    reached: int = -1
    moments: int = 0
    fired: int = 0

    @classmethod
    def read(cls, path: Path) -> Progress:
        data = path.read_bytes()
        return cls(*RECORD.unpack(data)) if len(data) == RECORD.size else cls()


class _Moments:
    def __init__(self, path: str, at: int, act: Callable[[], None]) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        self.progress, self.at, self.act = Progress(), at, act

    def next(self) -> None:
        self.progress.moments += 1
        now = self.progress.moments
        if now == self.at:
            self.progress.fired = 1
        self.write()
        if now == self.at:
            self.act()

    def write(self) -> None:
        os.pwrite(self.file, RECORD.pack(*vars(self.progress).values()), 0)

    def count(self, owner: Any, name: str, *, before: bool) -> None:
        """Make each call of a function a moment, before or after it."""
        do = getattr(owner, name)

        @wraps(do)
        def counted(*arguments: Any, **named: Any) -> Any:
            if before:
                self.next()
            done = do(*arguments, **named)
            if not before:
                self.next()
            return done

        setattr(owner, name, counted)

    def watch(self, event: Any) -> None:
        """Note the batches of an event of training."""
        if type(event).__name__ not in ("EpochBegun", "BatchesDone"):
            return
        position = (event.epoch - 1) * event.batches + event.batch
        if self.progress.first < 0:
            self.progress.first = position
        self.progress.reached = max(self.progress.reached, position)
        self.write()


class _Clock:
    """The wall clock and the times of new files, which jump."""

    def __init__(self, jumps: list[float]) -> None:
        self._jumps, self._offset = jumps, 0.0
        now, replace = time.time, os.replace

        def replaced(source: Any, target: Any) -> None:
            replace(source, target)
            os.utime(target, (time.time(), time.time()))

        time.time = lambda: now() + self._offset
        time.time_ns = lambda: int(time.time() * 1e9)
        os.replace = replaced

    def jump(self) -> None:
        self._offset += self._jumps.pop(0) if self._jumps else 0.0


def install(
    progress: str,
    at: int = 0,
    before: bool = True,
    save_seconds: float = 300.0,
    signals: tuple[int, ...] = (),
    again: int = 0,
    jumps: tuple[float, ...] = (),
    failing: str = "",
    damaged: tuple[str, str] = ("", ""),
    short: bool = True,
) -> None:
    """Change the functions.

    Args:
        progress: File that has the progress after each moment.
        at: Number of the moment at which something happens, from 1; 0 for none.
        before: Whether a moment comes before a call, not after it.
        save_seconds: Seconds between two states in an epoch; below 0: a state after every batch.
        signals: Numbers of the signals that the process sends itself.
        again: Number of the moments between two of these signals.
        jumps: Seconds by which the clock jumps, at the moment and at each of the same distance.
        failing: `nan`: an image of the next batch has a white first pixel. `memory`: there is no
            memory for the next images.
        damaged: An image and the file that replaces it.
        short: Whether each batch is a call of its own, as for large images.
    """
    from cnnforge.data import prefetch
    from cnnforge.data.files import ImageFiles
    from cnnforge.training import loop
    from cnnforge.training.session import Session
    from cnnforge.training.state import StateStore

    waiting = list(signals)
    clock = _Clock(list(jumps)) if jumps else None
    armed = False

    def act() -> None:
        nonlocal armed
        armed = True
        if damaged[0]:
            Path(damaged[0]).write_bytes(Path(damaged[1]).read_bytes())
        if clock is not None:
            clock.jump()
            moments.at += at
        if waiting:
            number = waiting.pop(0)
            moments.at += again
            os.kill(os.getpid(), number)

    moments = _Moments(progress, at, act)
    fetch = ImageFiles.fetch

    def fetched(files: ImageFiles, indices: Any) -> Any:
        nonlocal armed
        images = fetch(files, indices)
        if armed and failing == "memory":
            armed = False
            raise MemoryError
        return images

    chunks, poisoned = loop._Run.chunks, []

    def read(run: Any, state: Any, size: Any) -> Any:
        for chunk in chunks(run, state, size):
            if armed and failing == "nan" and not poisoned:
                poisoned.append((state.epoch, chunk.first))
            # The search for the layer reads the same batch again.
            for epoch, batch in poisoned:
                if epoch == state.epoch and chunk.first <= batch < chunk.first + chunk.batches:
                    chunk.images[(batch - chunk.first) * run.batch_size, 0, 0] = 255
            yield chunk

    tell = loop._Run.tell

    def told(run: Any, event: Any) -> None:
        moments.watch(event)
        tell(run, event)

    ImageFiles.fetch, loop._Run.chunks = fetched, read
    loop._Run.tell = told
    if short:
        prefetch.MAX_BYTES = 1
    loop._SAVE_SECONDS = save_seconds
    for owner, names in (
        (os, ("fsync", "replace", "unlink", "mkdir", "chmod")),
        (ImageFiles, ("fetch",)),
        (loop._Run, ("tell", "validate", "save")),
        (StateStore, ("save", "load")),
        (Session, ("_save_best", "report")),
    ):
        for name in names:
            moments.count(owner, name, before=before)
