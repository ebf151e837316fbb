"""Check the settings of the user and of the machine that a command depends on.

A setting that cnnforge cannot use is changed for this process, and one line names it and its
source. If no sensible value is known, the setting is an error.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnforge.errors import message_of

_DEFAULT_BACKEND = "tensorflow"
# The extra of cnnforge that installs a backend.
_BACKENDS = {_DEFAULT_BACKEND: "cnnforge", "torch": "cnnforge[torch]"}
# The values that cnnforge needs for settings of Keras.
_NEEDED = {"floatx": "float32", "image_data_format": "channels_last"}
_SYSTEMS = {"win32": "Windows", "cygwin": "Windows", "darwin": "macOS"}
# Environment variables that must be integers, with the min value. Otherwise an import fails.
_NUMBERS = {"KERAS_MAX_EPOCHS": 1, "KERAS_MAX_STEPS_PER_EPOCH": 1, "NUMBA_NUM_THREADS": 1}


def show_platform() -> None:
    """Print one line on stderr if this system is not Linux: which commands should work there."""
    if sys.platform.startswith("linux"):
        return
    from cnnforge.cli import _render

    system = _SYSTEMS.get(sys.platform, sys.platform)
    _render.message(
        f"note: cnnforge is tested on Linux only, and this is {system}: train, evaluate and "
        "predict should work with --kernels keras, which uses the framework's own layers; "
        "'cnnforge doctor' checks whether the kernels work, too"
    )


def repair_environment(*, python_functions: bool = False) -> None:
    """Change what cannot work in the environment of this process, and print a line for each change.

    The changes hold for this process and its children.

    Args:
        python_functions: Whether the command can work with functions that Numba does not compile.
    """
    for note in (*_umask(), *_home(), *_variables(python_functions)):
        from cnnforge.cli import _render

        _render.message(f"note: {note}")


def _umask() -> Iterator[str]:
    # Setting the umask is the only way to read it.
    mask = os.umask(0o077)
    os.umask(mask & 0o077)
    if mask & 0o700:
        yield (
            f"the umask is {mask:04o}, so that nobody could use new files, not even their owner; "
            f"cnnforge uses {mask & 0o077:04o}"
        )


def _home() -> Iterator[str]:
    # Without a home folder, "~" stands for itself, and libraries make a folder of this name.
    if os.path.isabs(os.path.expanduser("~")):
        return
    os.environ["HOME"] = _temporary_folder()
    yield (
        "this user has no home folder, and HOME is not set: what commands keep for each other, "
        "such as compiled kernels, is lost; set HOME to a folder that can be written to"
    )


def _variables(python_functions: bool) -> Iterator[str]:
    for name, lowest in _NUMBERS.items():
        text = os.environ.get(name, str(lowest))
        if not text.strip().isdecimal() or int(text) < lowest:
            del os.environ[name]
            yield f"{name} is {text!r}, expected a number from {lowest}; cnnforge ignores it"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") == "0":
        return
    if python_functions:
        yield "NUMBA_DISABLE_JIT is set: the functions of layers run as Python, slowly"
    else:
        del os.environ["NUMBA_DISABLE_JIT"]
        yield "NUMBA_DISABLE_JIT is set, but the kernels must be compiled; cnnforge ignores it"


@dataclass(frozen=True)
class KerasSettings:
    """The settings of Keras that cnnforge changes for this process.

    Attributes:
        backend: Name of the backend to use.
        ignored: Whether Keras cannot read the file `keras.json`, so that it must not see it.
        notes: One line for each setting that is changed: its source, its value, and the new value.
        error: Reason why no command can run with the backend that the user asked for, and how to
            fix it; "" without a reason.
    """

    backend: str
    ignored: bool = False
    notes: tuple[str, ...] = ()
    error: str = ""


def keras_settings() -> KerasSettings:
    """Read the settings of Keras: the file `keras.json` and the environment variables."""
    path = _keras_json()
    notes: list[str] = []
    stored, ignored = _read(path, notes)
    for name, needed in _NEEDED.items():
        if not ignored and stored.get(name, needed) != needed:
            notes.append(f"{path} sets {name} to {stored[name]!r}; cnnforge uses {needed}")
    backend, error = str(stored.get("backend", _DEFAULT_BACKEND)), ""
    if wanted := os.environ.get("KERAS_BACKEND"):
        backend = wanted
        if problem := _problem(wanted):
            backend, error = _DEFAULT_BACKEND, f"KERAS_BACKEND is {wanted!r}, but {problem}"
            error += ", or unset KERAS_BACKEND"
    elif problem := _problem(backend):
        notes.append(
            f"{path} sets backend to {backend!r}, but {problem.partition(':')[0]}; cnnforge uses "
            f"{_DEFAULT_BACKEND}"
        )
        backend = _DEFAULT_BACKEND
    return KerasSettings(backend, ignored, tuple(notes), error)


def before_import(settings: KerasSettings) -> None:
    """Change the environment of this process and of its children, so that Keras can be imported.

    Args:
        settings: The settings.
    """
    os.environ["KERAS_BACKEND"] = settings.backend
    if settings.ignored:
        os.environ["KERAS_HOME"] = _temporary_folder()


def after_import() -> None:
    """Set the values that cnnforge needs in Keras, which was imported."""
    keras: Any = sys.modules["keras"]
    keras.config.set_floatx(_NEEDED["floatx"])
    keras.config.set_image_data_format(_NEEDED["image_data_format"])


def _keras_json() -> Path:
    """Return the path at which Keras looks for its settings."""
    if "KERAS_HOME" in os.environ:
        folder = Path(os.environ["KERAS_HOME"])
    else:
        home = os.path.expanduser("~")
        folder = Path(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    return Path(os.path.expanduser(folder / "keras.json"))


def _read(path: Path, notes: list[str]) -> tuple[dict[str, Any], bool]:
    """Read `keras.json`. Return its values, and whether Keras must not see the file."""
    from cnnforge.utils.structured_text import read_json

    try:
        if not path.exists():
            return {}, False
        values = read_json(path)
        problem = "" if isinstance(values, dict) else f"it has a {type(values).__name__}, no names"
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or message_of(error)
        values = {}
    if not problem:
        problem = _invalid(values)
    if problem:
        notes.append(f"{path} cannot be used: {problem}; cnnforge ignores it")
        return {}, True
    return values, False


def _invalid(values: dict[str, Any]) -> str:
    """Return the reason why Keras would reject values of `keras.json`; "" for none."""
    expected: dict[str, Any] = {
        "floatx": ("float16", "float32", "float64"),
        "image_data_format": ("channels_last", "channels_first"),
    }
    for name, allowed in expected.items():
        if values.get(name, allowed[0]) not in allowed:
            return f"{name} is {values[name]!r}, expected {' or '.join(allowed)}"
    if not isinstance(values.get("epsilon", 1e-7), float):
        return f"epsilon is {values['epsilon']!r}, expected a number such as 1e-07"
    return ""


def _problem(backend: str) -> str:
    """Return why a backend cannot be used, and how to fix that after a colon; "" if it can be."""
    if backend not in _BACKENDS:
        return f"cnnforge runs on {' and '.join(_BACKENDS)}: set it to one of them"
    if find_spec(backend) is None:
        return f"{backend} is not installed: type pip install '{_BACKENDS[backend]}'"
    return ""


def _temporary_folder() -> str:
    """Make a folder that is removed when the program ends."""
    folder = tempfile.mkdtemp(prefix="cnnforge-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
