"""Commands with workers as processes, what they listen on, and what they leave behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cnnforge.distributed.processes import descendants, state_of

# Max seconds that a test waits. The machine may be busy, and each worker imports Keras.
PATIENCE = 900.0
# Ray has as much time for its start.
PATIENT = ("--startup-timeout", "15m")
PROGRAM = "import sys; from cnnforge.cli import main; sys.exit(main())"
_SUBREAPER = 36
_LISTENS = "0A"


def adopt_orphans() -> None:
    """Make this process the parent of processes whose parents have ended."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


class Command:
    """A process of Python that runs a command or a program.

    Args:
        folder: Working directory, also for its output.
        words: The command line without the name of the program; or a program, after `"-c"`.
        environment: Variables that differ from those of this process.
    """

    def __init__(self, folder: Path, *words: str | Path, **environment: str) -> None:
        self._before = descendants({})
        self._files = folder / "out.txt", folder / "err.txt"
        code = [] if words[0] == "-c" else ["-c", PROGRAM]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *code, *map(str, words)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
            )

    def path(self, name: str) -> Path:
        """The path of a file in its working directory."""
        return self._files[0].with_name(name)

    @property
    def out(self) -> str:
        return self._files[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._files[1].read_text(encoding="utf-8")

    def wait(self) -> int:
        """Wait until it has ended. Return its exit code, 128 plus the number after a signal."""
        code = self.process.wait(PATIENCE)
        return code if code >= 0 else 128 - code

    def until(self, found: Callable[[], Any]) -> Any:
        """Wait until a function returns something true, and return it."""
        end = time.monotonic() + PATIENCE
        while not (result := found()):
            assert self.process.poll() is None, f"ended with {self.process.poll()}: {self.err}"
            assert time.monotonic() < end, self.err
            time.sleep(0.002)
        return result

    def processes(self) -> list[int]:
        """The processes that have begun after it, also those that a running cluster has started."""
        found = []
        for process in descendants({}):
            if process in self._before:
                continue
            if not _is_zombie(process):
                found.append(process)
            elif process != self.process.pid:
                # Forget it if it was adopted, as the first process of a machine does. A worker of
                # Ray ends after its raylet, and takes a zombie for a process that still runs.
                with contextlib.suppress(OSError):
                    os.waitpid(process, os.WNOHANG)
        return found

    def titled(self, text: str) -> list[int]:
        """The processes with a text in their title."""
        return [process for process in self.processes() if text in title(process)]

    def left(self, seconds: float = 120.0) -> dict[int, str]:
        """Wait until no process is left. Return the titles of those that remain."""
        end = time.monotonic() + seconds
        while (found := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return {process: title(process) for process in found}

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes():
            with contextlib.suppress(OSError):
                os.kill(process, 9)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)


def title(process: int) -> str:
    """The title of a process; empty if it has ended."""
    try:
        content = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return content.replace(b"\0", b" ").decode(errors="replace").strip()


def listeners(processes: list[int]) -> Iterator[tuple[int, str, int]]:
    """The processes that listen, with addresses in the form of `/proc/net/tcp`, and ports."""
    places: dict[str, tuple[str, int]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                address, _, port = fields[1].partition(":")
                places[fields[9]] = address, int(port, 16)
    for process in processes:
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{process}/fd/{descriptor}")
                    inode = target.removeprefix("socket:[").removesuffix("]")
                    if inode in places:
                        yield process, *places[inode]


def is_loopback(address: str) -> bool:
    """Whether an address of `/proc/net/tcp` is one of the loopback interface."""
    if len(address) == 8 or address.startswith("0000000000000000FFFF0000"):
        return address.endswith("7F")
    return address == "00000000000000000000000001000000"


def _is_zombie(process: int) -> bool:
    state = state_of(process)
    return state is None or state[1] == "Z"
