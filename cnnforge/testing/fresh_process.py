"""Check that a saved model opens in a new process. That process runs `_main` of this module."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.utils.copied_process import CopiedProcess

_TIMEOUT = 600
_COPY_TIMEOUT = 60
_REPORT = "report.json"
# It ends what the process writes on stdout for a request.
_ANSWERED = b"\x00answered\n"


def save_and_load(subjects: Sequence[Any]) -> str:
    """Require that models saved as `.keras` files compute the same bits in a new process."""
    import keras

    from cnnforge.testing._subject import outputs_of

    kind = subjects[0].spec.load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, subject in enumerate(subjects):
            inputs = subject.inputs()
            model = keras.Sequential([keras.Input(inputs.shape[1:]), subject.built()])
            model.save(folder / f"{number}.keras")
            np.savez(folder / f"{number}.npz", inputs=inputs, outputs=outputs_of(model, inputs))
        errors = _in_fresh_process(folder, len(subjects), kind)
    for subject, error in zip(subjects, errors, strict=True):
        if error:
            case = f" (case {subject.case.name!r})" if subject.case.name else ""
            raise AssertionError(f"a saved model, opened in a fresh process{case}: {error}")
    return ""


def _in_fresh_process(folder: Path, count: int, kind: type) -> list[str]:
    request = {
        "folder": str(folder),
        "count": count,
        "module": kind.__module__,
        "file": inspect.getfile(kind),
        "path": sys.path,
    }
    if _from_copy(request):
        return json.loads((folder / _REPORT).read_text())
    process = _waiting()
    if _from_copy_of(process, request):
        return json.loads((folder / _REPORT).read_text())
    _ready.clear()
    try:
        _, errors = process.communicate(json.dumps(request), timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(
            f"a fresh process that opens the saved model has not ended after {_TIMEOUT} s"
        ) from None
    report = folder / _REPORT
    if not report.exists():
        last = [line for line in errors.splitlines() if line.strip()][-1:]
        raise AssertionError(
            f"a fresh process that opens the saved model ends with status {process.returncode}: "
            f"{' '.join(last)}"
        )
    return json.loads(report.read_text())


# The process that waits, with its environment and its folder.
_ready: list[tuple[subprocess.Popen[str], tuple[Any, ...]]] = []


def start() -> subprocess.Popen[str]:
    """Start the process that will open the saved models; it imports Keras, and waits.

    A process that waits already is ended.
    """
    _end_waiting()
    environment = _surroundings()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment[0],
        cwd=environment[1],
    )
    _ready.append((process, environment))
    return process


def _surroundings() -> tuple[dict[str, str], str]:
    """Return the environment of a new process, and the working folder."""
    path = os.pathsep.join(path for path in sys.path if path)
    # pytest changes its variable with each test.
    known = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return {**known, "PYTHONPATH": path}, os.getcwd()


def _waiting() -> subprocess.Popen[str]:
    """Return the process that waits, if it runs and was started as one would be now; else start."""
    if _ready:
        process, environment = _ready[0]
        if process.poll() is None and environment == _surroundings():
            return process
    return start()


def _end_waiting() -> None:
    while _ready:
        process, _ = _ready.pop()
        process.kill()
        process.communicate()


def _from_copy_of(process: subprocess.Popen[str], request: dict[str, Any]) -> bool:
    """Let a copy of a process open the models, and return whether it did and found no fault.

    An import of Keras takes seconds, so the process goes on to wait for the next request.
    """
    if sys.platform != "linux":
        return False
    import select

    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({**request, "copy": True}) + "\n")
        process.stdin.flush()
        answer = b""
        # Unlike `select`, it takes descriptors above 1023.
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        while _ANSWERED not in answer:
            if not poll.poll(_TIMEOUT * 1000):
                return False
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                return False
            answer += part
    except OSError:
        return False
    return _trusted(Path(request["folder"]) / _REPORT)


def _trusted(report: Path) -> bool:
    """Return whether a copy has found no fault; else remove its report."""
    with contextlib.suppress(OSError, ValueError):
        if not any(json.loads(report.read_text())):
            return True
    report.unlink(missing_ok=True)
    return False


_copies: list[CopiedProcess] = []


def fork() -> None:
    """Make the process that will open the saved models a copy of this one, which has Keras.

    Call it before a module with a layer is imported.
    """
    _copies.append(CopiedProcess(_open_models))


def _from_copy(request: dict[str, Any]) -> bool:
    """Let the copy of `fork` open the models, and return whether it did and found no fault."""
    if not _copies:
        return False
    with contextlib.suppress(OSError, EOFError):
        _copies.pop().ask(request, _COPY_TIMEOUT)
    return _trusted(Path(request["folder"]) / _REPORT)


@atexit.register
def _end() -> None:
    _end_waiting()
    for copy in _copies:
        copy.end()


def _main() -> None:
    import keras as keras

    for line in sys.stdin:
        request = json.loads(line)
        if not request.pop("copy", False):
            _open_models(request)
            return
        with contextlib.suppress(OSError, EOFError):
            CopiedProcess(_open_models).ask(request, _COPY_TIMEOUT)
        sys.stdout.buffer.write(_ANSWERED)
        sys.stdout.buffer.flush()


def _open_models(request: dict[str, Any]) -> None:
    """Load the saved models in the new process, and compare their outputs with the saved outputs.

    Write a list to `report.json`, with an error message or "" for each model.
    """
    import keras

    from cnnforge.errors import one_line

    folder = Path(request["folder"])
    sys.path += [path for path in request["path"] if path not in sys.path]

    _import(request["module"], request["file"])
    errors = []
    for number in range(request["count"]):
        known = np.load(folder / f"{number}.npz")
        try:
            model: Any = keras.models.load_model(folder / f"{number}.keras")
            found = np.asarray(keras.ops.convert_to_numpy(model(known["inputs"])))
        except Exception as error:
            errors.append(f"it cannot be opened: {one_line(error)}")
            continue
        same = found.tobytes() == known["outputs"].tobytes()
        errors.append(
            ""
            if same
            else "its outputs differ, by at most "
            f"{float(np.abs(found - known['outputs']).max()):.3g}"
        )
    (folder / _REPORT).write_text(json.dumps(errors))


def _import(module: str, file: str) -> None:
    """Import the plugin's module by name, or import its file if no module has this name.

    A plugin that was loaded with `--plugin FILE.py` has no module that can be imported by name.
    """
    try:
        importlib.import_module(module)
        return
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "?"):
            raise
    spec = importlib.util.spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python source file")
    sys.modules[module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[module])


if __name__ == "__main__":
    _main()
