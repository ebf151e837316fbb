"""Run a training command on the machine of a worker, for the process of the command.

This module runs in a Ray worker. It needs neither Keras nor TensorFlow: the command is a process of
its own, which can die without the worker.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from cnnforge.distributed.desk import Desk
from cnnforge.distributed.machines import Place, host, wait_until_free
from cnnforge.utils.processors import THREAD_VARIABLES

ERROR = "error: "
_HELD_BACK = (ERROR, "interrupted by ")
_MOMENT = 0.5
# A worker that does not save its state in this time is killed.
_PATIENCE = 120.0


class WorkerDied(RuntimeError):
    """The command has ended without a result, so that all workers have to start again."""


def supervise(
    rank: int,
    who: Mapping[str, Any],
    desk: Desk,
    place: Place,
    command: Sequence[str],
    environment: Mapping[str, str],
) -> None:
    """Run the command of a worker, and tell the desk what happens.

    Args:
        rank: Number of the worker, from 0.
        who: Values that the desk is told when the command begins.
        desk: The desk. Its questions have the keys `rank` and one of `missing`, `begins`, `line`
            and `code`.
        place: The paths that this machine has to see.
        command: Arguments of Python before those of the command.
        environment: Environment variables of the process that differ from those of Ray's worker.

    Raises:
        WorkerDied: The process of the command wants all workers to start again.
    """
    missing = place.enter()
    if missing:
        desk.ask(rank=rank, missing=missing)
        return
    order = desk.ask(rank=rank, begins=True, host=host(), process=os.getpid(), **who)
    if order is None:
        return
    if order["run"] and rank == 0:
        wait_until_free(Path(order["run"]))
    process = subprocess.Popen(
        [sys.executable, *command, *order["arguments"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(environment),
        encoding="utf-8",
        errors="replace",
    )
    held: list[str] = []
    try:
        readers = [
            threading.Thread(target=_forward, args=(stream, name, rank, desk, held), daemon=True)
            for stream, name in ((process.stdout, "out"), (process.stderr, "err"))
        ]
        for reader in readers:
            reader.start()
        code = _wait(process, desk)
        for reader in readers:
            reader.join(_PATIENCE)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    errors = [line[len(ERROR) :] for line in held if line.startswith(ERROR)]
    if desk.ask(rank=rank, code=code, errors=errors):
        raise WorkerDied(f"worker {rank} ended with {code}")


def _environment(changed: Mapping[str, str]) -> dict[str, str]:
    # Ray Train sets the last one for another Keras.
    left_out = {*THREAD_VARIABLES, "TF_USE_LEGACY_KERAS"}
    return {**{k: v for k, v in os.environ.items() if k not in left_out}, **changed}


def _forward(stream: IO[str], name: str, rank: int, desk: Desk, held: list[str]) -> None:
    """Send the lines of the first worker to the desk, and keep the errors of all."""
    for line in stream:
        text = line.rstrip("\n")
        if name == "err" and text.startswith(_HELD_BACK):
            held.append(text)
        elif rank == 0:
            # The lines must be read to their end, also if the cluster is lost.
            with contextlib.suppress(Exception):
                desk.ask(rank=rank, line=text, stream=name)


def _wait(process: subprocess.Popen[str], desk: Desk) -> int:
    """Wait for the end of a process. Ask it to save and to end when the desk is stopped."""
    waited: Any = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_MOMENT)
        if waited is None and desk.is_stopped():
            process.terminate()
            waited = 0.0
        elif waited is not None:
            waited += _MOMENT
            if waited > _PATIENCE or desk.is_over():
                process.kill()
