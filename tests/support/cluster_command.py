"""Start a command whose work several workers share, and kill its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# The machine may be busy, and each worker imports Keras.
PATIENCE = 900.0
PROGRAM = Path(sys.executable).with_name("cnnforge")


class Command:
    """A command that runs in a process of its own.

    Args:
        folder: Working directory. Its output goes into two files there.
        *arguments: The command line without the name of the program.
        **environment: Environment variables that differ from those of this process.
    """

    def __init__(self, folder: Path, *arguments: str | Path, **environment: str) -> None:
        self._files = folder / "out.txt", folder / "err.txt"
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [PROGRAM, *map(str, arguments)],
                cwd=folder,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        """The text that it has written on stdout."""
        return self._files[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """The text that it has written on stderr."""
        return self._files[1].read_text(encoding="utf-8")

    def says(self, text: str, times: int = 1) -> None:
        """Wait until a text is on its stderr."""
        end = time.monotonic() + PATIENCE
        while self.err.count(text) < times:
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"no {text!r} in: {self.err}")
            time.sleep(0.02)

    def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended: {self.err}") from None

    def end(self) -> None:
        """Kill it, and what it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def processes_with(text: str) -> dict[int, int]:
    """Return the processes that have a text in their command line.

    Returns:
        The rank of each process as a worker, by its number; 0 if it is not a worker.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text in folder.joinpath("cmdline").read_bytes().decode(errors="replace"):
                lines = folder.joinpath("environ").read_bytes().split(b"\0")
                named = dict(line.partition(b"=")[::2] for line in lines)
                config = json.loads(named.get(b"TF_CONFIG", b"") or b"{}")
                found[int(folder.name)] = config.get("task", {}).get("index", 0)
        except OSError:
            continue
    return found


def parent_of(process: int) -> int:
    """Return the number of the process that has started another one."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
