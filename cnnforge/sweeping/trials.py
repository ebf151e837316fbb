"""The trials of a sweep: those that a killed process has left, then others that are proposed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna

from cnnforge.configuration import check_types
from cnnforge.errors import CnnforgeError
from cnnforge.runs import RunDirectory
from cnnforge.runs.finding import is_run, runs_in
from cnnforge.sweeping.processes import LOG
from cnnforge.sweeping.sampling import add_running, propose
from cnnforge.sweeping.space import Dimension, Value

MAX_DEATHS = 3
"""A trial whose process ends this often without an answer is left out."""
_STATES = optuna.trial.TrialState
_STUDY = "sweep"
_MAX_FAILED_AT_FIRST = 3


class Executor(Protocol):
    """Something that runs the processes of trials: on this machine, or on several."""

    def run(self, sweep: Sweep, should_stop: Callable[[], bool]) -> None:
        """Run trials until `sweep.next_trial` returns `None`.

        A process gets `sweep.order` first, and what `sweep.answered` returns for each of its
        answers. A process that ends without an answer is replaced. If that happens `MAX_DEATHS`
        times in one trial, `sweep.give_up` is called.

        Args:
            sweep: The sweep.
            should_stop: Function that is called ten times a second. If it returns true, the
                processes save the states of their trials, and no other trial begins.

        Raises:
            CnnforgeError: The sweep cannot go on.
        """
        ...


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
    prune: bool
    tell: Callable[[str], None]
    _guard: threading.RLock = field(default_factory=threading.RLock)
    _wanted: int = 0
    _taken: set[int] = field(default_factory=set)

    def run(self, executor: Executor, trials: int, should_stop: Callable[[], bool]) -> bool:
        """Run trials until there is a number of them.

        Args:
            executor: It runs their processes.
            trials: Number of trials of the sweep, with those of earlier calls.
            should_stop: Function that is called ten times a second. If it returns true, the states
                of running trials are saved, and they are continued by the next call.

        Returns:
            Whether all trials have ended.

        Raises:
            CnnforgeError: The first three trials have failed, or `executor` cannot go on.
        """
        if self.prune:
            self.study.pruner = optuna.pruners.MedianPruner()
        else:
            self.study.pruner = optuna.pruners.NopPruner()
        # Trials are opened only to report to them; `propose` chooses their values.
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        self._wanted = trials
        if self._is_done():
            self._check_failures(self.study.get_trials(deepcopy=False))
            return True
        executor.run(self, should_stop)
        return self._is_done()

    def _is_done(self) -> bool:
        known = self.study.get_trials(deepcopy=False)
        return len(known) >= self._wanted and all(t.state.is_finished() for t in known)

    def next_trial(self) -> int | None:
        """Return the number of the next trial, or `None` if no trial is left.

        Raises:
            CnnforgeError: The first three trials have failed.
        """
        with self._guard:
            known = self.study.get_trials(deepcopy=False)
            self._check_failures(known)
            left = [t.number for t in known if not t.state.is_finished()]
            for number in left:
                if number not in self._taken:
                    self._taken.add(number)
                    self.tell(f"trial {number} goes on: {self._described(number)}")
                    return number
            if len(known) >= self._wanted:
                return None
            number = add_running(self.study, self.space, propose(self.study, self.space, self.seed))
            self._taken.add(number)
            self.tell(f"trial {number} begins: {self._described(number)}")
            return number

    def order(self, number: int) -> dict[str, Any]:
        """Return the first order to a process that runs a trial, or continues it.

        Args:
            number: Number of the trial.
        """
        values = self._trial(number).params
        options = {each.name: each.option(values[each.name]) for each in self.space}
        return {
            "train": {**self.options, **options, "output": str(self.folder)},
            "resume": self._earlier_run(number, options),
            "metric": self.metric,
        }

    def answered(self, number: int, answer: Mapping[str, Any]) -> dict[str, Any] | None:
        """Keep an answer of the process of a trial.

        Args:
            number: Number of the trial.
            answer: The answer, see `cnnforge.cli.sweep.worker`.

        Returns:
            The next order; `{}` if the process needs no order now; `None` if the trial has ended or
            was stopped.
        """
        if "run" in answer:
            self._set(number, "run", Path(answer["run"]).name)
            return {}
        if "epoch" in answer:
            return {"go_on": self._epoch(number, answer)}
        if "error" in answer:
            self._failed(number, str(answer["error"]))
        elif "interrupted" not in answer:
            self._ended(number, answer.get("done"))
        return None

    def give_up(self, number: int, cause: str) -> None:
        """Leave out a trial whose process has ended `MAX_DEATHS` times.

        Args:
            number: Number of the trial.
            cause: Clause that says how the last process ended.
        """
        self._failed(number, f"{cause}; see {self.folder / LOG}")

    def _check_failures(self, known: Sequence[Any]) -> None:
        ended = [t for t in known if t.state.is_finished()]
        failed = [t for t in ended if t.state == _STATES.FAIL]
        if len(failed) == len(ended) and len(failed) >= min(_MAX_FAILED_AT_FIRST, self._wanted):
            reason = failed[-1].user_attrs.get("error", "unknown")
            raise CnnforgeError(
                f"the first {len(failed)} trials failed, the last because: {reason}; begin a new "
                "sweep with another space, data or --output"
            )

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
