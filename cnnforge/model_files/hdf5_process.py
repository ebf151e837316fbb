"""Let another process read HDF5 content before this one does, because HDF5 may hang or crash.

The process is started when it is first needed, and answers until this one ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

# Processor time for any file, and bytes of the file for each further second. A file of 20,000 tiny
# layers has 51 MB and takes 7 s on a busy machine.
_SECONDS = 5
_BYTES_PER_SECOND = 2_000_000
# Seconds that this process waits, in addition to ten times the processor time: the machine may be
# busy.
_MORE_SECONDS = 60
# The content is not the reason for these exit codes. Python ends with 1 if an import fails, and a
# machine without memory sends signal 9.
_FROM_OUTSIDE = (0, 1, -9, -15)
_SIGXCPU = getattr(signal, "SIGXCPU", None)


class DamagedContentError(Exception):
    """HDF5 cannot read the content."""


class NoProcessError(Exception):
    """The process that reads HDF5 content cannot be started, or was ended from outside."""


def find_problem(path: Path, member: str, size: int) -> str:
    """Let the process check HDF5 content and read all of it.

    Args:
        path: The file.
        member: Name of the content in a ZIP archive; empty if the file itself is the content.
        size: Bytes of the file, by which time and memory are limited.

    Returns:
        A clause about the first object that is not a plain array; `""` without one.

    Raises:
        DamagedContentError: The content is damaged, or HDF5 needs too much time or memory for it.
        NoProcessError: The process cannot be started, or something else has ended it.
    """
    # JSON has no bytes, and a path need not be UTF-8.
    name = os.fsencode(os.path.abspath(path)).decode("latin-1")
    seconds = _SECONDS + size // _BYTES_PER_SECOND
    answer = _reader.ask({"path": name, "member": member, "size": size, "seconds": seconds})
    if "damaged" in answer:
        raise DamagedContentError(answer["damaged"])
    return answer.get("refused", "")


class _Reader:
    """The process, which one thread uses at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, str | int]) -> dict[str, str]:
        with self._lock:
            # The process may have been ended since the last request, and other content may have
            # damaged its memory. So try again once, with a new process.
            line = self._answer(request) or self._answer(request)
        if not line:
            raise NoProcessError("the process that reads it was ended twice")
        return json.loads(line)

    def _answer(self, request: dict[str, str | int]) -> bytes:
        """Return the line of the process; empty if the content is perhaps not why it has ended."""
        is_new = self.process is None
        seconds = int(request["seconds"])
        patience = _MORE_SECONDS + 10 * seconds
        try:
            process = self.process = self.process or _start()
            late = threading.Timer(patience, process.kill)
            late.daemon = True
            late.start()
        # Python raises RuntimeError if it can start no thread.
        except (OSError, RuntimeError) as error:
            raise NoProcessError(f"no process can be started, {error}") from error
        assert process.stdin is not None
        assert process.stdout is not None
        line, began = b"", time.monotonic()
        try:
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
        finally:
            late.cancel()
            # After a Ctrl-C, too: the next request would get this answer.
            if not line.endswith(b"\n"):
                self.end()
        if line.endswith(b"\n"):
            return line
        code = process.returncode
        if -code == _SIGXCPU or time.monotonic() - began >= patience:
            raise DamagedContentError(f"HDF5 does not end after {seconds} s")
        if code in _FROM_OUTSIDE or not is_new:
            return b""
        raise DamagedContentError(f"HDF5 crashes with the exit code {code}")

    def end(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            # A request that is not written yet cannot be written.
            with contextlib.suppress(OSError), process:
                pass


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(each for each in sys.path if each)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cnnforge.model_files.hdf5"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # NumPy would reserve memory for a thread on each processor.
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        # A Ctrl-C in the terminal is for this process.
        start_new_session=True,
    )


_reader = _Reader()
# Readers of the processes of which this one is a copy.
_originals: list[_Reader] = []


def _begin_copy() -> None:
    global _reader
    # Keep it, because a thread of the original may use its pipes now, so they cannot be closed.
    _originals.append(_reader)
    _reader = _Reader()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_copy)
atexit.register(lambda: _reader.end())
