"""Train one model with several workers, which Ray Train starts, places and restarts.

Each worker runs the command `cnnforge train` in a process of its own, with the variable `TF_CONFIG`
that names all workers. If one dies, Ray Train ends all and starts them again, and they go on from
the last state of the run.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnforge.distributed.desk import Desk, OpenDesk, open_desk
from cnnforge.distributed.machines import (
    Place,
    graphics_cards_of_a_worker,
    processors_of_a_worker,
    scratch,
)
from cnnforge.distributed.ray_call import Call, calling
from cnnforge.distributed.ray_start import cluster
from cnnforge.distributed.ray_watch import ClusterWatch
from cnnforge.distributed.ray_workers import addresses, work
from cnnforge.errors import CnnforgeError, RunError, WorkerError
from cnnforge.runs import RunDirectory
from cnnforge.utils.names import resume_command

MAX_RESTARTS = 3
"""Number of restarts without a new state of the run after which training ends."""
_RUN = "run directory: "
_MOMENT = 0.1
# Time in which all workers save and end.
_PATIENCE = 150.0
# Time in which the workers notice that another one has failed.
_SHORT = 10.0
# Seconds between two looks at the machines of the cluster.
_LOOK = 2.0
_PROCESS = re.compile(r"worker process (\d+)")


@dataclass
class RayTrain:
    """A training with several workers.

    Attributes:
        command: Arguments of Python that start a command of cnnforge.
        arguments: Arguments of the command `train`, without those of this class.
        resumed: Function that returns the arguments of the command which continues a run.
        run: The run that the first command continues; `None`: it makes a run.
        output: Folder of the run directories.
        place: The paths that every machine has to see.
        workers: Number of workers.
        address: `"local"`, or the address of a cluster.
        startup_timeout: Max number of seconds that the start of Ray takes.
        show: Function that shows a line of the first worker: its text, and `"out"` or `"err"`.
        tell: Function that shows a message.
    """

    command: Sequence[str]
    arguments: Sequence[str]
    resumed: Callable[[Path], list[str]]
    run: Path | None
    output: Path
    place: Place
    workers: int
    address: str
    startup_timeout: float
    show: Callable[[str, str], None]
    tell: Callable[[str], None]
    _errors: list[BaseException] = field(default_factory=list)
    _hosts: dict[int, str] = field(default_factory=dict)
    _nodes: dict[int, str] = field(default_factory=dict)
    _processes: dict[int, int] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)
    _dead: set[int] = field(default_factory=set)
    _codes: dict[int, int] = field(default_factory=dict)
    _messages: dict[int, list[str]] = field(default_factory=dict)
    _attempt: str | None = None
    _stopping: bool = False
    _over: bool = False
    _restarts: int = 0
    _in_vain: int = 0
    _states: Any = None
    _waiting_since: float | None = None
    _next_look: float = 0.0

    def train(self, should_stop: Callable[[], bool]) -> int:
        """Train until the command has ended.

        Args:
            should_stop: Function that is called ten times a second. If it returns true, all workers
                save their state and end.

        Returns:
            The exit code of the command; 0 after a stop, too.

        Raises:
            CnnforgeError: The cluster cannot be used, or training cannot go on.
        """
        with (
            scratch(self.output) as storage,
            cluster(
                self.address, self.workers, self.startup_timeout, show=self._note_death
            ) as ray_cluster,
        ):
            processors = processors_of_a_worker(ray_cluster, self.workers)
            with open_desk(self._answer, self._errors.append) as desk:
                order = _Order(
                    desk.for_others,
                    self.place.with_path(storage),
                    self.command,
                    self.workers,
                    processors,
                    graphics_cards_of_a_worker(self.workers),
                    self.startup_timeout,
                )
                with calling(ray_cluster.watch, "Ray Train", _fit, order, storage) as call:
                    self._wait(call, desk, ray_cluster.watch, should_stop)
        if self._errors:
            raise self._errors[0]
        for rank, code in sorted(self._codes.items()):
            if code:
                self._fail(rank, code)
        return 0

    def _wait(
        self, call: Call, desk: OpenDesk, watch: ClusterWatch, should_stop: Callable[[], bool]
    ) -> None:
        """Answer questions until Ray Train has ended, and pass on a request to stop."""
        end = None
        self._waiting_since = time.monotonic()
        try:
            while not call.has_ended():
                desk.serve(_MOMENT)
                if end is None:
                    self._look(watch)
                final = bool(self._errors or any(self._codes.values()))
                if end is None and (final or should_stop()):
                    self._over, self._stopping = final, not final
                    end = time.monotonic() + (_SHORT if final else _PATIENCE)
                    desk.stop()
                    if final:
                        # The other workers wait for the one that has failed.
                        desk.end()
                # Ray Train itself ends ten seconds after its workers.
                complete = end is not None or len(self._begun) == self.workers
                if complete and not self._begun - set(self._codes):
                    return
                if end is not None and time.monotonic() > end:
                    return
            call.check()
        except CnnforgeError as error:
            self._errors.append(CnnforgeError(f"{error}; {self.how_to_go_on()}"))

    def _answer(self, asked: dict[str, Any]) -> Any:
        """Answer a question of the supervisor of a worker."""
        rank = asked["rank"]
        if "missing" in asked:
            raise CnnforgeError(asked["missing"])
        if "line" in asked:
            self._show(asked["line"], asked["stream"])
        elif "begins" in asked:
            return self._begin(rank, asked)
        elif "code" in asked:
            return self._ended(rank, asked["code"], asked["errors"])
        return None

    def _show(self, line: str, stream: str) -> None:
        if self.run is None and stream == "err" and line.startswith(_RUN):
            self.run = Path(line.removeprefix(_RUN))
        self.show(self._with_workers(line), stream)

    def _with_workers(self, text: str) -> str:
        """Add the workers to a command in a text that continues the run."""
        if self.run is None:
            return text
        # The command may have more options, which remain.
        command = resume_command(self.run).removesuffix("'")
        options = f"{command} {self._options()}"
        return re.sub(rf"{re.escape(command)}(?=[' ])", lambda _: options, text)

    def _options(self) -> str:
        more = "" if self.address == "local" else f" --address {self.address}"
        return f"--workers {self.workers}{more}"

    def _begin(self, rank: int, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what a worker runs; `None` if it is not to begin."""
        if self._stopping or self._errors:
            return None
        if self._attempt != asked["attempt"]:
            if self._attempt is not None:
                self._restart()
            self._attempt = asked["attempt"]
        self._hosts[rank], self._nodes[rank] = asked["host"], asked["node"]
        self._processes[rank] = asked["process"]
        self._begun.add(rank)
        if len(self._begun) == self.workers:
            self._waiting_since = None
        run = self.run
        arguments = self.arguments if not self._restarts or run is None else self.resumed(run)
        return {"arguments": list(arguments), "run": None if run is None else str(run)}

    def _ended(self, rank: int, code: int, errors: list[str]) -> bool:
        """Keep how the command of a worker has ended. Return whether all start again."""
        if code == 0 or self._over or self._errors or (self._stopping and code in _INTERRUPTED):
            self._codes[rank] = 0
            return False
        if not self._stopping and code < 0:
            self._died(rank, f"was ended by {_signal(code)}")
            return True
        if not self._stopping and (self._dead or code in (WorkerError.exit_code, *_INTERRUPTED)):
            if not self._dead:
                lost = code == WorkerError.exit_code
                self._died(rank, "has lost another one" if lost else "was asked to end")
            return True
        self._codes[rank] = code
        self._messages[rank] = errors or [f"its command ended with {code}"]
        return False

    def _died(self, rank: int, how: str) -> None:
        """Tell that a worker has died, and what happens now."""
        if rank in self._dead or rank not in self._begun:
            return
        self._dead.add(rank)
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        after = f"from the last state of {self.run}" if self.run else "from the beginning"
        self.tell(f"{self._name(rank)} {how}; all workers start again {after}")

    def _restart(self) -> None:
        """Check that the workers do not start again in vain."""
        if not self._dead and self._begun:
            self._died(min(self._begun), "or another one was lost")
        self._restarts += 1
        states = self._newest_states()
        self._in_vain = self._in_vain + 1 if states == self._states else 1
        self._states = states
        self._begun.clear()
        self._codes.clear()
        self._dead.clear()
        if self._in_vain > MAX_RESTARTS:
            raise RunError(
                f"{MAX_RESTARTS} restarts in a row have given no new state, so training ends; "
                + self.how_to_go_on()
            )

    def _look(self, watch: ClusterWatch) -> None:
        """Look which machines are lost, and whether the workers start in time."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK
        # Without an answer, `ray.nodes` would not return.
        if not watch.look():
            return
        import ray

        alive = {each["NodeID"] for each in ray.nodes() if each["Alive"]}
        for rank, node in list(self._nodes.items()):
            if node not in alive:
                self._died(rank, "is lost with its machine")
        since = self._waiting_since
        if since is not None and time.monotonic() - since > self.startup_timeout:
            self._errors.append(
                RunError(
                    f"{len(self._begun - self._dead)} of {self.workers} workers have started within"
                    f" {self.startup_timeout:g} s: see that the cluster has enough processors, or "
                    f"give it more time with --startup-timeout; {self.how_to_go_on()}"
                )
            )

    def _note_death(self, line: str) -> None:
        """Keep which worker's Ray process has died, from a line of Ray about it."""
        match = _PROCESS.search(line)
        for rank, process in list(self._processes.items()):
            if match and int(match[1]) == process:
                self._died(rank, f"was killed (process {process} of Ray)")

    def _newest_states(self) -> Any:
        if self.run is None:
            return None
        folder = RunDirectory(self.run).states
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted((each.name, each.stat().st_mtime_ns) for each in found)

    def _name(self, rank: int) -> str:
        return f"worker {rank} on {self._hosts.get(rank, '?')}"

    def how_to_go_on(self) -> str:
        """Return a clause with the command that continues the run."""
        if self.run is None:
            return "there is no run yet: type the command again"
        return f"go on with {resume_command(self.run, self._options())}"

    def _fail(self, rank: int, code: int) -> None:
        message = self._with_workers("; ".join(self._messages[rank]))
        # The command names itself: `worker 1: ...`.
        message = message.removeprefix(f"worker {rank}: ")
        error = CnnforgeError(message if rank == 0 else f"{self._name(rank)}: {message}")
        error.exit_code = max(1, code)
        raise error


@dataclass(frozen=True)
class _Order:
    """Values for the process that runs Ray Train; see `RayTrain`."""

    desk: Desk
    place: Place
    command: Sequence[str]
    workers: int
    processors: int
    cards: int
    startup_timeout: float


def _fit(order: _Order, storage: Path) -> None:
    """Run Ray Train."""
    # Ray's own limit must not be the smaller one.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(max(60.0, order.startup_timeout))
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    DataParallelTrainer(
        work,
        train_loop_config={
            "desk": order.desk,
            "place": order.place,
            "command": order.command,
            "processors": order.processors,
        },
        backend_config=addresses(),
        scaling_config=ScalingConfig(
            num_workers=order.workers,
            use_gpu=bool(order.cards),
            resources_per_worker={
                "CPU": order.processors,
                **({"GPU": order.cards} if order.cards else {}),
            },
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage),
            # The desk counts restarts.
            failure_config=FailureConfig(max_failures=-1),
        ),
    ).fit()


# Exit codes with which a worker says that it has saved its state, because of a signal.
_INTERRUPTED = (129, 130, 138, 143)


def _signal(code: int) -> str:
    import signal

    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
