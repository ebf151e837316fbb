"""The process that compiles ahead, as the one that has started it knows it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cnnforge.ops.ahead.job import CANNOT, COMPILED, DONE, Job

VARIABLE = "CNNFORGE_COMPILE_AHEAD"

# The path of this process, which may have been changed since it has started.
_SOURCE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from cnnforge.ops.ahead import worker
_ahead_worker.main()
"""


class Helper:
    """A process that compiles.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self) -> None:
        flags = subprocess._args_from_interpreter_flags()  # pyright: ignore[reportAttributeAccessIssue]
        self._process = subprocess.Popen(
            [
                sys.executable,
                *flags,
                "-c",
                _SOURCE,
                json.dumps([path for path in sys.path if isinstance(path, str)]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, VARIABLE: "0"},
            # What the terminal sends, an interrupt for one, is not for it.
            start_new_session=True,
        )
        self._jobs: Any = self._process.stdin
        self._replies: Any = self._process.stdout

    def do(self, job: Job) -> Iterator[bytes]:
        """Have a job done.

        Yields:
            What it says, `COMPILED`, `DONE` or `CANNOT`; the last two end the job. Another end:
            it has ended.
        """
        with contextlib.suppress(OSError):
            self._jobs.write(pickle.dumps(job))
            while (word := self._replies.read(1)) in (COMPILED, DONE, CANNOT):
                yield word
                if word != COMPILED:
                    return

    def kill(self) -> None:
        """Make it end, without waiting for it."""
        self._process.kill()

    def end(self) -> None:
        """Make it end, and wait until it has."""
        self._process.kill()
        # A process that the system does not let go of is nothing to wait for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._close()

    def forget(self) -> None:
        """Let go of a process that is not this process' child."""
        self._close()
        self._process.returncode = 0

    def _close(self) -> None:
        for pipe in (self._jobs, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()
