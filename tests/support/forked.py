"""Run commands of cnnforge as processes that are killed, interrupted and short of everything.

An import of Keras takes seconds, so one process imports everything once, and is copied for each
command. The copies have computed nothing before, so they are like new processes. They have their
own signals, limits, environment and working folder.

`Commands` is for tests. This file is also the program of the process that is copied.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Max seconds that a test waits for a command. The machine may be busy.
PATIENCE = float(os.environ.get("CNNFORGE_PATIENCE", "150"))

# Python code after which a process of root may no longer write everywhere.
NO_PRIVILEGES = """
import ctypes
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
    raise OSError(ctypes.get_errno(), "capset")
"""

# The whole number of trials, which takes minutes: `make test-slow`.
SLOW = os.environ.get("CNNFORGE_SLOW_TESTS") == "1"


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: Exit code; 128 plus the number of the signal that ended the process.
        out: Text that it wrote on stdout.
        err: Text that it wrote on stderr.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The value on stdout."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that tell of an error."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


class Running:
    """A command that runs.

    Attributes:
        pid: Number of its process.
    """

    def __init__(self, commands: Commands, pid: int, folder: Path) -> None:
        self.pid, self._commands, self._folder = pid, commands, folder

    def kill(self, number: int) -> None:
        """Send a signal to it."""
        os.kill(self.pid, number)

    def says(self, text: str) -> None:
        """Wait until a text is on its stderr."""
        end = time.monotonic() + PATIENCE
        while text not in self._read("err"):
            # Z: it has ended, and nobody has asked how.
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if time.monotonic() > end or state == "Z":
                raise AssertionError(f"no {text!r} in: {self._read('err')}")
            time.sleep(0.005)

    def wait(self) -> Ended:
        """Wait until it has ended."""
        code = self._commands._ask(wait=self.pid)
        return Ended(code, self._read("out"), self._read("err"))

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8", errors="surrogateescape")


class Commands:
    """Starts commands as copies of one process.

    Args:
        folder: A folder for the output of the commands.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._log = (folder / "server.txt").open("wb")
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def start(self, *arguments: str | Path, **options: Any) -> Running:
        """Start a command.

        Args:
            *arguments: The command line without the name of the program.
            **options: `before`: Python code that is executed first; with no arguments it is all
                that is executed. `environment`: Variables, `None` removes one. `limits`: The soft
                limit for each name, such as `{"FSIZE": 65536}`. `folder`: The working folder.
                `user`: Number of the real user; the effective one stays root.
        """
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        listed = [os.fspath(each) for each in arguments]
        pid = self._ask(start=listed, output=str(folder), **options)
        return Running(self, pid, folder)

    def run(self, *arguments: str | Path, **options: Any) -> Ended:
        """Run a command to its end; see `start`."""
        return self.start(*arguments, **options).wait()

    def close(self) -> None:
        """End the process that is copied."""
        self._server.kill()
        self._server.wait()
        for stream in (self._server.stdin, self._server.stdout, self._log):
            if stream is not None:
                stream.close()

    def _ask(self, **request: Any) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise AssertionError(Path(self._log.name).read_text())
        return int(answer)


def files_in(folder: Path) -> list[str]:
    """List the files in a folder, and in the folders in it."""
    found = (each for each in folder.rglob("*") if not each.is_dir())
    return sorted(str(each.relative_to(folder)) for each in found)


def _serve() -> None:
    # Import what the commands use, and compute nothing: threads would be missing in the copies.
    import keras  # noqa: F401
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    import cnnforge.reports
    import cnnforge.training  # noqa: F401
    from cnnforge.cli import main  # noqa: F401

    threads = len(os.listdir("/proc/self/task"))
    print(f"{threads} threads", file=sys.stderr, flush=True)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(_wait(request["wait"]), file=answers, flush=True)
            continue
        pid = os.fork()
        if not pid:
            answers.close()
            _become(**request)
        print(pid, file=answers, flush=True)


def _wait(pid: int) -> int:
    end = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if time.monotonic() > end:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        time.sleep(0.005)


def _become(
    start: Sequence[str],
    output: str,
    before: str = "",
    environment: dict[str, str | None] | None = None,
    limits: dict[str, int] | None = None,
    folder: str | None = None,
    user: int | None = None,
) -> None:
    import faulthandler
    import resource
    import traceback

    from numba.core.config import reload_config

    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(output, name), os.O_WRONLY | os.O_APPEND), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (
        os.fdopen(descriptor, "w", 1, encoding="utf-8", errors="surrogateescape", closefd=False)
        for descriptor in (1, 2)
    )
    faulthandler.enable()
    code = 1
    try:
        for name, value in (environment or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        # Numba has read its variables when it was imported. It reads them again when it compiles,
        # and fails if its threads then run and their number has changed.
        reload_config()
        if folder is not None:
            os.chdir(folder)
        if user is not None:
            # Another user might not be allowed to read the files of Python.
            os.setresuid(user, 0, 0)
        for name, limit in (limits or {}).items():
            kind = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
        exec(compile(before, "before", "exec"), {"__name__": "before"})
        if start:
            from cnnforge.cli import main

            sys.argv = ["cnnforge", *start]
            code = main()
        else:
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        # Not by `sys.exit`: Python would free everything that this copy shares with its original.
        os._exit(code)


if __name__ == "__main__":
    _serve()
