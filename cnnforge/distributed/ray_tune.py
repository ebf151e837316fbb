"""Run the trials of a sweep with Ray Tune.

Ray Tune starts, places and restarts the processes. The sweep, in the process of the command,
chooses the values of trials, keeps the results and decides about pruning, as without Ray.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnforge.distributed.desk import Desk, OpenDesk, open_desk
from cnnforge.distributed.machines import (
    Place,
    graphics_cards_of_a_worker,
    processors_of_a_worker,
    scratch,
    wait_until_free,
)
from cnnforge.distributed.ray_call import Call, calling
from cnnforge.distributed.ray_start import cluster
from cnnforge.errors import CnnforgeError

if TYPE_CHECKING:
    from cnnforge.sweeping.processes import Process
    from cnnforge.sweeping.trials import Sweep

_MOMENT = 0.1
_PATIENCE = 60.0
_LOST = "its Ray worker was killed, or its machine is lost"


@dataclass
class RayTune:
    """Workers of a Ray cluster that run the trials of a sweep, one trial each at a time.

    Attributes:
        start: Function that starts a process for a trial; it is called on the machine of a worker,
            with the number of threads.
        folder: The folder of the sweep.
        place: The paths that every machine has to see.
        workers: Number of workers.
        address: `"local"`, or the address of a cluster.
        startup_timeout: Max number of seconds that the start of Ray takes.
        max_deaths: Number of deaths of its process after which a trial is left out.
    """

    start: Callable[[int], Process]
    folder: Path
    place: Place
    workers: int
    address: str
    startup_timeout: float
    max_deaths: int
    _errors: list[BaseException] = field(default_factory=list)
    _causes: dict[int, str] = field(default_factory=dict)

    def run(self, sweep: Sweep, should_stop: Callable[[], bool]) -> None:
        """Run trials until none is left."""
        with (
            scratch(self.folder) as storage,
            cluster(
                self.address, self.workers, self.startup_timeout, show=lambda line: None
            ) as ray_cluster,
        ):
            processors = processors_of_a_worker(ray_cluster, self.workers)
            with open_desk(lambda asked: self._answer(sweep, asked), self._errors.append) as desk:
                order = _Order(
                    self.start,
                    desk.for_others,
                    self.place.with_path(storage),
                    self.workers,
                    processors,
                    graphics_cards_of_a_worker(self.workers),
                    self.max_deaths,
                )
                with calling(ray_cluster.watch, "Ray Tune", _fit, order, storage) as call:
                    self._wait(call, desk, should_stop)
        if self._errors:
            raise self._errors[0]

    def _wait(self, call: Call, desk: OpenDesk, should_stop: Callable[[], bool]) -> None:
        """Answer questions until Ray Tune has ended, and pass on a request to stop."""
        end = None
        try:
            while not call.has_ended():
                desk.serve(_MOMENT)
                if end is None and (self._errors or should_stop()):
                    end = time.monotonic() + _PATIENCE
                    desk.stop()
                if end is not None and time.monotonic() > end:
                    return
            call.check()
        except CnnforgeError as error:
            self._errors.append(error)

    def _answer(self, sweep: Sweep, asked: dict[str, Any]) -> Any:
        """Answer a question of the searcher, or of the supervisor of a trial."""
        if "missing" in asked:
            raise CnnforgeError(asked["missing"])
        number = asked.get("trial")
        if number is None:
            return None if self._errors else sweep.next_trial()
        if "died" in asked:
            self._causes[number] = asked["died"]
        elif "lost" in asked:
            sweep.give_up(number, self._causes.get(number, _LOST))
        elif "answer" in asked:
            return sweep.answered(number, asked["answer"])
        else:
            if number in self._causes:
                sweep.tell(
                    f"trial {number}: {self._causes[number]}; it goes on from its last state"
                )
            # If the supervisor cannot say how the process has ended, it was killed itself.
            self._causes[number] = _LOST
            return sweep.order(number)
        return None


@dataclass(frozen=True)
class _Order:
    """Values for the process that runs Ray Tune; see `RayTune`."""

    start: Callable[[int], Process]
    desk: Desk
    place: Place
    workers: int
    processors: int
    cards: int
    max_deaths: int


def _fit(order: _Order, storage: Path) -> None:
    """Run Ray Tune."""
    # No files of TensorBoard; and the output that `_quiet` can end.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    from ray import tune

    supervised = tune.with_parameters(
        _supervise,
        start=order.start,
        desk=order.desk,
        place=order.place,
        processors=order.processors,
    )
    tune.Tuner(
        tune.with_resources(supervised, {"cpu": order.processors, "gpu": order.cards}),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(order.desk),
            num_samples=-1,
            max_concurrent_trials=order.workers,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=order.max_deaths - 1),
            verbose=0,
            callbacks=[_quiet()],
        ),
    ).fit()


def _quiet() -> Any:
    """Return an object that takes the place of Ray Tune's own lines about trials."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Quiet(TrialProgressCallback):
        def on_trial_result(self, *given: Any, **named: Any) -> None: ...
        def on_trial_error(self, *given: Any, **named: Any) -> None: ...
        def on_trial_complete(self, *given: Any, **named: Any) -> None: ...

    return Quiet()


def _searcher(desk: Desk) -> Any:
    """Return a searcher of Ray Tune that asks the sweep for the numbers of trials."""
    from ray.tune.search import Searcher

    class Proposals(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self._numbers: dict[str, int] = {}

        def suggest(self, trial_id: str) -> Any:
            number = None if desk.is_stopped() else desk.ask()
            if number is None:
                return Searcher.FINISHED
            self._numbers[trial_id] = number
            return {"trial": number}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            if error and not desk.is_stopped():
                desk.ask(trial=self._numbers[trial_id], lost=True)

        # The journal of the sweep keeps everything.
        def save(self, checkpoint_path: str) -> None: ...
        def restore(self, checkpoint_path: str) -> None: ...

    return Proposals()


def _supervise(
    config: dict[str, Any],
    start: Callable[[int], Process],
    desk: Desk,
    place: Place,
    processors: int,
) -> None:
    """Run the process of a trial on the machine of a worker, and pass on its messages."""
    number = config["trial"]
    missing = place.enter()
    if missing:
        desk.ask(trial=number, missing=missing)
        return
    order = desk.ask(trial=number)
    if order is None:
        return
    if order["resume"]:
        wait_until_free(Path(order["resume"]))
    process = start(processors)
    ended = threading.Event()
    try:
        watch = threading.Thread(target=_pass_on_stop, args=(desk, process, ended), daemon=True)
        watch.start()
        process.tell(order)
        while (answer := process.listen()) is not None:
            order = desk.ask(trial=number, answer=answer)
            if order is None:
                return
            if order:
                process.tell(order)
        cause = process.cause_of_death()
        if desk.is_stopped():
            return
        desk.ask(trial=number, died=cause)
        raise RuntimeError(cause)
    finally:
        ended.set()
        process.end()


def _pass_on_stop(desk: Desk, process: Process, ended: threading.Event) -> None:
    """Tell a process to save its state, once the command wants it."""
    while not ended.wait(5 * _MOMENT):
        if desk.is_stopped():
            process.tell({"stop": True})
            return
