"""Processes that train trials, and the messages to and from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnforge.utils.processors import THREAD_VARIABLES

LOG = "worker.log"
"""Name of the file in the folder of a sweep with what its processes print."""


class Process:
    """A process that trains trials, one after another.

    Args:
        arguments: The arguments of Python that start it; it reads orders from stdin and answers on
            stdout.
        folder: The folder of the sweep.
        lock: Descriptor of the folder's lock, which the process inherits, or `None`.
        threads: Number of threads that it may use; `None`: as many as there are processors.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, lock: int | None, threads: int | None
    ) -> None:
        environment = dict(os.environ)
        if threads is not None:
            for name in THREAD_VARIABLES:
                environment.setdefault(name, str(threads))
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                pass_fds=() if lock is None else (lock,),
            )
        self._writing = threading.Lock()

    def tell(self, order: Mapping[str, Any]) -> None:
        """Write an order. It is lost if the process has ended."""
        assert self._process.stdin is not None
        with self._writing:
            try:
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                return

    def listen(self) -> dict[str, Any] | None:
        """Wait for an answer; `None` if the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue

    def cause_of_death(self) -> str:
        """Wait until the process has ended, and say how."""
        code = self._process.wait()
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            return f"its process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"its process was ended by signal {-code}"
