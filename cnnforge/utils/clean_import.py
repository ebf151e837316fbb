"""Import an op in a process without frameworks, to find out whether it needs one of them."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

_FRAMEWORKS = ("keras", "tensorflow", "torch", "jax")
_TIMEOUT = 60
_IMPORT = """
import pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FRAMEWORKS:
            raise ImportError(f"it imports {name.partition('.')[0]}")

FRAMEWORKS = sys.argv[1].split(",")
sys.meta_path.insert(0, Refuse())
import cnnforge.ops
path = sys.stdin.read()
try:
    if path:
        pkgutil.resolve_name(path)
except Exception as error:
    print(str(error) if "it imports" in str(error) else f"{type(error).__name__}: {error}")
"""
# A process that waits for the path of an op, by the folders in which it looks for modules.
_ready: dict[tuple[str, ...], subprocess.Popen[str]] = {}


def start() -> None:
    """Start the process that the next `import_error` needs, while this one does something else."""
    folders = tuple(sys.path)
    if folders not in _ready:
        _ready[folders] = _process(folders)


@cache
def import_error(path: str, folders: tuple[str, ...]) -> str:
    """Return why an op cannot be imported in a new process without a framework, or "".

    Args:
        path: Import path of the op, `"module:attribute"`.
        folders: Folders in which modules are looked for.

    Raises:
        subprocess.TimeoutExpired: The import has not ended after a minute.
    """
    process = _ready.pop(folders, None) or _process(folders)
    try:
        output, _ = process.communicate(path, timeout=_TIMEOUT)
    finally:
        process.kill()
    if process.returncode:
        return f"exit code {process.returncode} of the process that imports it"
    return output.strip()


def _process(folders: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _IMPORT, ",".join(_FRAMEWORKS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in folders if each)},
    )


@atexit.register
def _end() -> None:
    for process in _ready.values():
        process.kill()
        process.communicate()
