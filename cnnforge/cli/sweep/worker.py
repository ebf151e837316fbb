"""The process that trains the trials of a sweep, one after another.

It reads orders from stdin and writes answers to stdout, each a JSON object in one line:

* `{"train": {...}, "resume": PATH or null, "metric": NAME}`: train these options, or continue a
  run. The answers are `run`, an `epoch` for each epoch, and then `done`, `pruned`, `interrupted` or
  `error`.
* `{"go_on": true}` or `{"go_on": false}`: the answer to an epoch; false prunes the trial.
* `{"stop": true}`: save the state and end the trial.

If stdin ends, the sweep is gone, and this process ends at once: what it has saved is complete.
With the argument `--trust-model` it opens model files without checks.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cnnforge.cli._streams import answers_of_worker
from cnnforge.cli._training import prepare
from cnnforge.errors import CnnforgeError, one_line
from cnnforge.model_files.trust import trusting_models

if TYPE_CHECKING:
    from cnnforge.callbacks import EpochMetrics
    from cnnforge.training import Event, Session


class _Pruned(Exception):
    """The sweep ends this trial early."""


class _Sweep:
    """The process that gives the orders."""

    def __init__(self, orders: IO[bytes], answers: IO[str]) -> None:
        self.stop = threading.Event()
        self._answers = answers
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, args=(orders,), daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Wait for an order."""
        return self._orders.get()

    def tell(self, **answer: Any) -> None:
        """Write an answer."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def _listen(self, orders: IO[bytes]) -> None:
        for line in orders:
            order = json.loads(line)
            if "stop" in order:
                self.stop.set()
            else:
                self._orders.put(order)
        os._exit(0)


def main() -> None:
    """Train trials until stdin ends."""
    sweep = _Sweep(sys.stdin.buffer, answers_of_worker())
    with trusting_models("--trust-model" in sys.argv[1:]):
        while True:
            order = sweep.next()
            if "train" not in order:
                continue
            try:
                _train(sweep, order)
            except _Pruned:
                sweep.tell(pruned=True)
            except CnnforgeError as error:
                sweep.tell(error=str(error))
            except Exception as error:
                sweep.tell(error=one_line(error))


def _train(sweep: _Sweep, order: dict[str, Any]) -> None:
    metric = str(order["metric"])
    with ExitStack() as claims:
        session = _session(order, claims)
        sweep.tell(run=str(session.run.path))
        for row in session.state.history if session.state else ():
            _report(sweep, session, row, metric)
        if not session.finished:
            from cnnforge.training import EpochEnded

            def listen(event: Event) -> None:
                if isinstance(event, EpochEnded):
                    _report(sweep, session, event.metrics, metric)

            if session.train([listen], sweep.stop.is_set).interrupted:
                sweep.tell(interrupted=True)
                return
        session.report()
        state = session.state
        assert state is not None
        assert state.best is not None
        sweep.tell(done=float(state.best.values[metric]))


def _session(order: dict[str, Any], claims: ExitStack) -> Session:
    """Prepare the run of a trial: a new one, or the one that an earlier process began."""
    values = order["train"]
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    if order["resume"]:
        try:
            plugin = {"plugin": given.get("plugin", ())}
            return prepare(plugin, {}, None, Path(order["resume"]), claims)
        except CnnforgeError as error:
            print(f"a new run takes the place of {order['resume']}: {error}", file=sys.stderr)
    return prepare(given, {}, None, None, claims)


def _report(sweep: _Sweep, session: Session, row: EpochMetrics, metric: str) -> None:
    """Report an epoch, and wait for the decision whether to go on."""
    total = session.options.epochs
    sweep.tell(epoch=row.epoch, epochs=total, value=float(row.values[f"val_{metric}"]))
    if not sweep.next()["go_on"]:
        raise _Pruned


if __name__ == "__main__":
    main()
