"""A private folder for the files of a local Ray, its processes and their environment."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cnnforge.errors import CnnforgeError

# The path of a Unix socket has at most 107 bytes. Ray appends to the name of its folder
# `/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store`.
_MAX_PATH = 107 - 64
_PREFIX = "cnnforge-"
_NAME = re.compile(rf"{_PREFIX}(\d+)-\w+")
_INNER = "r"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it at the end.

    It is in the folder for temporary files. If the path of that folder is too long for a socket of
    Ray, it is in `/tmp` or in another short folder.

    Yields:
        The folder.

    Raises:
        CnnforgeError: No folder with a short path can be written to.
    """
    path = _make_folder()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def ray_folder(folder: Path) -> str:
    """Return the path for the files of Ray in a private folder.

    Ray lets all users write to its folder. They cannot enter the folder around it.
    """
    return str(folder / _INNER)


def _make_folder() -> Path:
    # A folder is that of this process and of no earlier one with the same number.
    length = len(f"/{_PREFIX}{os.getpid()}-12345678/{_INNER}")
    wanted = tempfile.gettempdir()
    tried = dict.fromkeys([wanted, "/tmp", os.environ.get("XDG_RUNTIME_DIR") or "", "/dev/shm"])
    for parent in filter(None, tried):
        if len(os.fsencode(os.path.abspath(parent))) + length > _MAX_PATH:
            continue
        _remove_stale(Path(parent))
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    raise CnnforgeError(
        f"Ray needs a folder for temporary files with a short path, and neither {wanted} nor /tmp "
        f"can be used: set TMPDIR to a folder whose path has at most {_MAX_PATH - length} letters"
    )


def _remove_stale(parent: Path) -> None:
    """Remove the folders of processes that were killed."""
    with contextlib.suppress(OSError):
        for path in list(parent.glob(f"{_PREFIX}*")):
            match = _NAME.fullmatch(path.name)
            if match and path.stat().st_uid == os.getuid() and not _exists(int(match[1])):
                shutil.rmtree(path, ignore_errors=True)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Descendants:
    """The processes that this process starts from now on, directly or through others.

    Processes that run already are left alone, and so are those that they start later.
    """

    def __init__(self) -> None:
        self._before = descendants({})
        self._seen: dict[int, str] = {}

    def look(self) -> None:
        """Note the processes that run now. A process whose parent ends later is still known."""
        self._seen.update(descendants(self._before))

    def kill(self, seconds: float = 5.0) -> None:
        """Kill all of them with SIGKILL, and wait until they have ended.

        Args:
            seconds: Max time to wait.
        """
        end = time.monotonic() + seconds
        self.look()
        while alive := self._alive():
            for process in alive:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            if time.monotonic() > end:
                return
            time.sleep(0.02)
            # A process may have started another one just before its end.
            self.look()

    def _alive(self) -> list[int]:
        found = []
        for process, start in self._seen.items():
            state = state_of(process)
            if state is None or state[2] != start:
                continue
            if state[1] == "Z":
                # A child of this process remains until its end was noticed.
                with contextlib.suppress(OSError):
                    os.waitpid(process, os.WNOHANG)
                continue
            found.append(process)
        return found


def descendants(without: Mapping[int, str]) -> dict[int, str]:
    """Return the start times of all descendants of this process; empty without `/proc`.

    Args:
        without: Start times of processes that are left out with all their descendants.
    """
    with contextlib.suppress(OSError):
        states = {int(name): state_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}
        children: dict[int, list[int]] = {}
        for process, state in states.items():
            if state is not None:
                children.setdefault(state[0], []).append(process)
        found: dict[int, str] = {}
        waiting = [os.getpid()]
        while waiting:
            for child in children.get(waiting.pop(), []):
                state = states[child]
                if child in found or state is None:
                    continue
                if without.get(child) != state[2]:
                    found[child] = state[2]
                    waiting.append(child)
        return found
    return {}


def state_of(process: int) -> tuple[int, str, str] | None:
    """Return the parent, the state and the start time of a process, or `None`."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name of the program, in brackets, may have blanks and brackets.
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), fields[0], fields[19]


@contextlib.contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in the block, and restore them at its end.

    Args:
        settings: Value of each variable. An empty text removes it.
    """
    before = {name: os.environ.get(name) for name in settings}
    try:
        for name, value in settings.items():
            _set(name, value or None)
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
