"""Run the trials of a sweep in processes of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cnnforge.sweeping.processes import Process
from cnnforge.sweeping.trials import MAX_DEATHS, Sweep

# TensorFlow keeps memory of every model that it has trained.
_TRIALS_PER_PROCESS = 20
_MOMENT = 0.1
_PATIENCE = 60.0


@dataclass
class LocalProcesses:
    """Processes of this machine that run the trials of a sweep, see `trials.Executor`.

    Attributes:
        start: Function that starts a process.
        parallel: Number of processes.
    """

    start: Callable[[], Process]
    parallel: int
    _guard: threading.RLock = field(default_factory=threading.RLock)
    _stopping: bool = False
    _processes: list[Process] = field(default_factory=list)
    _errors: list[BaseException] = field(default_factory=list)

    def run(self, sweep: Sweep, should_stop: Callable[[], bool]) -> None:
        """Run trials until none is left."""
        threads = [
            threading.Thread(target=self._work, args=(sweep,), daemon=True)
            for _ in range(self.parallel)
        ]
        for thread in threads:
            thread.start()
        end = None
        try:
            while any(thread.is_alive() for thread in threads):
                threads[0].join(_MOMENT) if threads[0].is_alive() else time.sleep(_MOMENT)
                if end is None and (self._errors or should_stop()):
                    end = time.monotonic() + _PATIENCE
                    self._stop()
                if end is not None and time.monotonic() > end:
                    break
        finally:
            for process in self._processes:
                process.end()
        if self._errors:
            raise self._errors[0]

    def _stop(self) -> None:
        with self._guard:
            self._stopping = True
            for process in self._processes:
                process.tell({"stop": True})

    def _work(self, sweep: Sweep) -> None:
        """Run trials in one process after another, until none is left."""
        try:
            process: Process | None = None
            trained = 0
            while (number := self._next(sweep)) is not None:
                for death in range(1, MAX_DEATHS + 1):
                    process = process or self._process()
                    cause = _train(sweep, process, number)
                    if not cause or self._stopping:
                        break
                    # The next process continues the run of the trial.
                    process = self._replaced(process)
                    if death == MAX_DEATHS:
                        sweep.give_up(number, cause)
                trained += 1
                if process is not None and trained % _TRIALS_PER_PROCESS == 0:
                    process = self._replaced(process)
        except BaseException as error:
            self._errors.append(error)

    def _next(self, sweep: Sweep) -> int | None:
        with self._guard:
            return None if self._stopping or self._errors else sweep.next_trial()

    def _process(self) -> Process:
        process = self.start()
        with self._guard:
            self._processes.append(process)
        return process

    def _replaced(self, process: Process) -> None:
        """End a process. The next trial starts another."""
        with self._guard:
            self._processes.remove(process)
        process.end()


def _train(sweep: Sweep, process: Process, number: int) -> str:
    """Run a trial. Return "" if it has ended or was stopped, or the death of its process."""
    process.tell(sweep.order(number))
    while (answer := process.listen()) is not None:
        order = sweep.answered(number, answer)
        if order is None:
            return ""
        if order:
            process.tell(order)
    return process.cause_of_death()
