"""Copy this process, so that a task runs in a process that has its modules and no others.

A copy takes no time, and an import of Numba or Keras takes a second or more.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Collection
from typing import Any


def can_copy(without: Collection[str]) -> bool:
    """Return whether a copy of this process can be made, and has not imported these modules.

    Args:
        without: Names of modules.
    """
    return sys.platform == "linux" and not any(name in sys.modules for name in without)


class CopiedProcess:
    """A copy of this process that waits for one request.

    An answer is to be trusted only if it reports no fault. A copy may fail where a new process
    works, because libraries have threads that the copy lacks.

    Args:
        serve: Function that the copy calls with the request. Its result is the answer.
    """

    def __init__(self, serve: Callable[[Any], Any]) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        with warnings.catch_warnings():
            # Python warns of the threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = multiprocessing.get_context("fork").Process(
                target=_wait, args=(serve, theirs, self._connection), daemon=True
            )
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def ask(self, request: Any, timeout: float) -> Any:
        """Send the request and return the answer; the copy then ends.

        Args:
            request: An object that can be pickled.
            timeout: Time limit in seconds.

        Raises:
            OSError: The copy has ended before, or has not answered in time.
            EOFError: The copy has ended without an answer.
        """
        try:
            self._connection.send(request)
            if not self._connection.poll(timeout):
                raise TimeoutError(f"no answer after {timeout:g} s")
            return self._connection.recv()
        finally:
            self.end()

    def end(self) -> None:
        """End the copy."""
        self._process.kill()
        self._connection.close()


def _wait(serve: Callable[[Any], Any], connection: Any, other_end: Any) -> None:
    # Only the parent may hold the other end: `recv` then ends when the parent ends or crashes.
    other_end.close()
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    with contextlib.suppress(EOFError):
        connection.send(serve(connection.recv()))
