"""Import an op in a process without frameworks, to find out whether it needs one of them."""

from __future__ import annotations

import atexit
import os
import pkgutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.abc import MetaPathFinder
from typing import Any

from cnnforge.utils.copied_process import CopiedProcess, can_copy

_FRAMEWORKS = ("keras", "tensorflow", "torch", "jax")
_TIMEOUT = 60
_SOURCE = "from cnnforge.utils.clean_import import _main; _main()"
# A process that waits for the path of an op, by the folders in which it looks for modules.
_ready: dict[tuple[str, ...], CopiedProcess] = {}


def can_start() -> bool:
    """Return whether `start` makes a process without frameworks: this one has imported none."""
    return can_copy(_FRAMEWORKS)


def start() -> None:
    """Make the process that the next `import_error` needs a copy of this one."""
    folders = tuple(sys.path)
    if folders not in _ready:
        _ready[folders] = CopiedProcess(_error)


@cache
def import_error(path: str, folders: tuple[str, ...]) -> str:
    """Return why an op cannot be imported in a new process without a framework, or "".

    Args:
        path: Import path of the op, `"module:attribute"`.
        folders: Folders in which modules are looked for.

    Raises:
        subprocess.TimeoutExpired: The import has not ended after a minute.
    """
    copy = _ready.pop(folders, None)
    if copy is not None:
        with suppress(OSError, EOFError):
            if not copy.ask(path, _TIMEOUT):
                return ""
    process = subprocess.Popen(
        # With -P, Python looks for no module in the working directory.
        [sys.executable, "-P", "-c", _SOURCE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in folders if each)},
    )
    try:
        output, _ = process.communicate(path, timeout=_TIMEOUT)
    finally:
        process.kill()
    if process.returncode:
        return f"exit code {process.returncode} of the process that imports it"
    return output.strip()


class _Refusal(MetaPathFinder):
    """Import finder that refuses to import a framework."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise an error for a framework; leave other modules to the next finder."""
        root = name.partition(".")[0]
        if root in _FRAMEWORKS:
            raise ImportError(f"it imports {root}")


def _error(path: str) -> str:
    """Import an op in this process, and return why that fails, or ""."""
    sys.meta_path.insert(0, _Refusal())
    try:
        pkgutil.resolve_name(path)
    except Exception as error:
        return str(error) if "it imports" in str(error) else f"{type(error).__name__}: {error}"
    return ""


def _main() -> None:
    print(_error(sys.stdin.read()))


@atexit.register
def _end() -> None:
    for copy in _ready.values():
        copy.end()
