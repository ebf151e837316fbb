"""Run the trials of a sweep: continue those that a killed process has left, then propose others."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from cnnforge.configuration import check_types
from cnnforge.errors import CnnforgeError
from cnnforge.runs import RunDirectory
from cnnforge.runs.finding import is_run, runs_in
from cnnforge.sweeping.processes import LOG, Process
from cnnforge.sweeping.sampling import add_running, propose
from cnnforge.sweeping.space import Dimension, Value

_STATES = optuna.trial.TrialState
_STUDY = "sweep"
# A trial whose process ends this often is left out.
_MAX_DEATHS = 3
_MAX_FAILED_AT_FIRST = 3
# TensorFlow keeps memory of every model that it has trained.
_TRIALS_PER_PROCESS = 20
_MOMENT = 0.1
_PATIENCE = 60.0


@dataclass
class Sweep:
    """A sweep that is under way.

    Attributes:
        folder: Its folder, in which the run directories are made.
        space: The dimensions.
        options: Options of each trial that the space does not have, by name.
        study: The study.
        storage: Its storage.
        metric: Name of the metric; its best validation value is the value of a trial.
        shown: Function that formats a value of the metric.
        seed: Random seed of the sweep.
        command: Command that starts a process for trials.
        lock: Descriptor of the lock of the folder, or `None`.
        prune: Whether a trial ends early if it is worse than the median of the others.
        tell: Function that shows a line to the user.
    """

    folder: Path
    space: Sequence[Dimension]
    options: Mapping[str, Any]
    study: Any
    storage: Any
    metric: str
    shown: Callable[[float], str]
    seed: int
    command: Sequence[str]
    lock: int | None
    prune: bool
    tell: Callable[[str], None]
    _guard: threading.RLock = field(default_factory=threading.RLock)
    _stopping: bool = False
    _processes: list[Process] = field(default_factory=list)
    _taken: set[int] = field(default_factory=set)
    _errors: list[BaseException] = field(default_factory=list)

    def run(self, trials: int, parallel: int, should_stop: Callable[[], bool]) -> bool:
        """Run trials until there is a number of them.

        Args:
            trials: Number of trials of the sweep, with those of earlier calls.
            parallel: Number of processes.
            should_stop: Function that is called ten times a second. If it returns true, the states
                of running trials are saved, and they are continued by the next call.

        Returns:
            Whether all trials have ended.

        Raises:
            CnnforgeError: The first three trials have failed.
        """
        if self.prune:
            self.study.pruner = optuna.pruners.MedianPruner()
        else:
            self.study.pruner = optuna.pruners.NopPruner()
        # Trials are opened only to report to them; `propose` chooses their values.
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        threads = [
            threading.Thread(target=self._work, args=(trials, parallel), daemon=True)
            for _ in range(parallel)
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
        left = [t for t in self.study.get_trials(deepcopy=False) if not t.state.is_finished()]
        return not left and len(self.study.get_trials(deepcopy=False)) >= trials

    def _stop(self) -> None:
        with self._guard:
            self._stopping = True
            for process in self._processes:
                process.tell({"stop": True})

    def _work(self, trials: int, parallel: int) -> None:
        """Run trials in one process after another, until none is left."""
        try:
            process: Process | None = None
            trained = 0
            while (number := self._next(trials)) is not None:
                for death in range(1, _MAX_DEATHS + 1):
                    process = process or self._process(parallel)
                    cause = self._train(process, number)
                    if not cause or self._stopping:
                        break
                    # The next process continues the run of the trial.
                    process = self._replaced(process)
                    if death == _MAX_DEATHS:
                        self._failed(number, f"{cause}; see {self.folder / LOG}")
                trained += 1
                if process is not None and trained % _TRIALS_PER_PROCESS == 0:
                    process = self._replaced(process)
        except BaseException as error:
            self._errors.append(error)

    def _replaced(self, process: Process) -> None:
        """End a process. The next trial starts another."""
        with self._guard:
            self._processes.remove(process)
        process.end()

    def _process(self, parallel: int) -> Process:
        threads = max(1, (os.cpu_count() or 1) // parallel) if parallel > 1 else None
        process = Process(self.command, self.folder, self.lock, threads)
        with self._guard:
            self._processes.append(process)
        return process

    def _next(self, trials: int) -> int | None:
        """Return the number of the next trial, or `None` if no trial is left."""
        with self._guard:
            if self._stopping or self._errors:
                return None
            known = self.study.get_trials(deepcopy=False)
            self._check_failures(known, trials)
            left = [t.number for t in known if not t.state.is_finished()]
            for number in left:
                if number not in self._taken:
                    self._taken.add(number)
                    self.tell(f"trial {number} goes on: {self._described(number)}")
                    return number
            if len(known) >= trials:
                return None
            number = add_running(self.study, self.space, propose(self.study, self.space, self.seed))
            self._taken.add(number)
            self.tell(f"trial {number} begins: {self._described(number)}")
            return number

    def _check_failures(self, known: Sequence[Any], trials: int) -> None:
        ended = [t for t in known if t.state.is_finished()]
        failed = [t for t in ended if t.state == _STATES.FAIL]
        if len(failed) == len(ended) and len(failed) >= min(_MAX_FAILED_AT_FIRST, trials):
            reason = failed[-1].user_attrs.get("error", "unknown")
            raise CnnforgeError(
                f"the first {len(failed)} trials failed, the last because: {reason}; begin a new "
                "sweep with another space, data or --output"
            )

    def _train(self, process: Process, number: int) -> str:
        """Run a trial. Return "" if it has ended or was stopped, or the death of its process."""
        values = self._trial(number).params
        options = {each.name: each.option(values[each.name]) for each in self.space}
        process.tell(
            {
                "train": {**self.options, **options, "output": str(self.folder)},
                "resume": self._earlier_run(number, options),
                "metric": self.metric,
            }
        )
        while (answer := process.listen()) is not None:
            if "run" in answer:
                self._set(number, "run", Path(answer["run"]).name)
            elif "epoch" in answer:
                go_on = self._epoch(number, answer)
                process.tell({"go_on": go_on})
            elif "error" in answer:
                self._failed(number, str(answer["error"]))
                return ""
            elif "interrupted" in answer:
                return ""
            else:
                self._ended(number, answer.get("done"))
                return ""
        return process.cause_of_death()

    def _epoch(self, number: int, answer: Mapping[str, Any]) -> bool:
        """Keep the value of an epoch, and return whether the trial goes on."""
        with self._guard:
            trial, epoch = self._open(number), int(answer["epoch"])
            if epoch not in self._trial(number).intermediate_values:
                trial.report(float(answer["value"]), epoch)
            # At the last epoch, there is nothing left to save.
            return epoch >= int(answer["epochs"]) or not trial.should_prune()

    def _ended(self, number: int, value: float | None) -> None:
        with self._guard:
            if value is None:
                self.study.tell(number, state=_STATES.PRUNED)
                epoch = max(self._trial(number).intermediate_values)
                self.tell(
                    f"trial {number}: {self.shown(self._trial(number).value)} after {epoch} epochs,"
                    " pruned: worse than the median of the others"
                )
                return
            if not math.isfinite(value):
                self._failed(number, f"its {self.metric} is not a finite number")
                return
            self.study.tell(number, value)
            best = self.study.best_trial
            note = (
                "the best so far"
                if best.number == number
                else (f"the best is {self.shown(best.value)} of trial {best.number}")
            )
            self.tell(f"trial {number}: {self.shown(value)}, {note}")

    def _failed(self, number: int, reason: str) -> None:
        with self._guard:
            self._set(number, "error", reason)
            self.study.tell(number, state=_STATES.FAIL)
            self.tell(f"trial {number} failed: {reason}")

    def _earlier_run(self, number: int, options: Mapping[str, Any]) -> str | None:
        """Return the run that an earlier process began for a trial, or `None`."""
        name = self._trial(number).user_attrs.get("run")
        if name is not None:
            path = self.folder / name
            return str(path) if is_run(path) else None
        # The process was killed after it had made a directory, and before this was noted.
        with self._guard:
            known = {each.user_attrs.get("run") for each in self.study.get_trials(deepcopy=False)}
            for path in runs_in(self.folder):
                if path.name not in known and _has_options(path, options):
                    return str(path)
        return None

    def _described(self, number: int) -> str:
        values: Mapping[str, Value] = self._trial(number).params
        return ", ".join(f"{name} {shown_value(value)}" for name, value in values.items())

    def _set(self, number: int, name: str, value: Any) -> None:
        with self._guard:
            self.storage.set_trial_user_attr(self._id(number), name, value)

    def _trial(self, number: int) -> Any:
        return self.study.get_trials(deepcopy=False)[number]

    def _open(self, number: int) -> Any:
        return optuna.trial.Trial(self.study, self._id(number))

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(_STUDY)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)


def shown_value(value: Value) -> str:
    """Return a value of a trial as a short text."""
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _has_options(path: Path, options: Mapping[str, Any]) -> bool:
    try:
        stored = check_types(RunDirectory.open(path, needs=()).read_config()[0], str(path))
    except CnnforgeError:
        return False
    return all(
        list(stored.get(name) or ()) == list(value or ())
        if isinstance(value, tuple)
        else stored.get(name) == value
        for name, value in options.items()
    )
