"""The folder of a sweep: its description, its lock, and the journal in which Optuna keeps trials.

One process at a time works on a sweep. So a lock file that an earlier process has left is stale,
and so is a last line of the journal that was not written to its end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnforge.errors import CnnforgeError, RunError, UsageError, one_line
from cnnforge.runs.finding import runs_in
from cnnforge.utils.atomic_files import remove_leftovers, write_text
from cnnforge.utils.names import printable
from cnnforge.utils.structured_text import MALFORMED, read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DESCRIPTION = "sweep.json"
JOURNAL = "journal.log"
FORMAT = 1
_STUDY = "sweep"
_LOCK = f"{JOURNAL}.lock"
# The processes of a killed sweep hold its lock until they have noticed that it is gone.
_PATIENCE = 20.0


def check_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        CnnforgeError: It is not.
    """
    if find_spec("optuna") is None:
        raise CnnforgeError(
            "a sweep needs Optuna, which is not installed; type: pip install 'cnnforge[sweep]'"
        )


@contextmanager
def claimed(folder: Path) -> Iterator[int | None]:
    """Lock the folder of a sweep, so that only one process works on it.

    The lock is that of the folder itself, so no file remains. It also ends if the process is
    killed, as soon as all processes have ended that inherited the open folder.

    Args:
        folder: The folder, which is made if it does not exist.

    Yields:
        The descriptor of the open folder, for processes that inherit the lock; `None` if there are
        no such locks here.

    Raises:
        RunError: Another process works on the sweep, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(
            f"the folder {folder} cannot be used: {error.strerror}; name another with --output"
        ) from error
    try:
        if fcntl is None:
            yield None
            return
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise RunError(
                        f"another process works on the sweep in {folder}: wait until it ends, or "
                        "interrupt it"
                    ) from None
                time.sleep(0.1)
            except OSError:
                break
        yield descriptor
    finally:
        os.close(descriptor)


def open_study(
    folder: Path, description: Mapping[str, Any], tell: Callable[[str], None]
) -> tuple[Any, Any]:
    """Open the study of a sweep, or make a new one.

    Args:
        folder: The folder, which this process has claimed.
        description: Plain values that must be the same if the sweep is continued. The value of
            `"direction"` is `"maximize"` or `"minimize"`.
        tell: Function that shows a line to the user.

    Returns:
        The study and its storage.

    Raises:
        UsageError: The folder has another sweep, or other files.
        RunError: A file is damaged, or cannot be written.
    """
    remove_leftovers(folder)
    path, journal = folder / DESCRIPTION, folder / JOURNAL
    described = {"format": FORMAT, **description}
    if path.exists():
        _check_same(folder, described)
    else:
        _check_unused(folder)
        try:
            write_text(path, json.dumps(described, indent=2) + "\n")
        except OSError as error:
            raise RunError(f"{path} could not be written: {error.strerror or error}") from error
    lock = folder / _LOCK
    if os.path.lexists(lock):
        lock.unlink(missing_ok=True)
        tell(f"a lock of a killed process is removed: {lock}")
    if _repaired(journal):
        tell(f"the last entry of {journal} was not complete, and is removed")
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = "maximize" if description["direction"] == "maximize" else "minimize"
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(
            study_name=_STUDY,
            storage=storage,
            direction=direction,
            load_if_exists=True,
        )
        # Optuna takes the directions of the journal, and not the one that it is given.
        if [each.name.lower() for each in study.directions] != [direction]:
            raise ValueError(f"the direction of its study is not {direction}")
        for trial in study.get_trials(deepcopy=False):
            _check_numbers(trial)
    except Exception as error:
        raise RunError(
            f"{journal} cannot be read ({one_line(error)}): restore it, or begin a new sweep with "
            "another --output"
        ) from error
    return study, storage


def _check_same(folder: Path, described: Mapping[str, Any]) -> None:
    path = folder / DESCRIPTION
    try:
        before = read_json(path)
        # Tuples become lists, as in the file.
        now = json.loads(json.dumps(described))
        flat = [{**each.pop("options"), **each.pop("space"), **each} for each in (before, now)]
    except (OSError, *MALFORMED) as error:
        raise RunError(
            f"{path} is damaged ({one_line(error)}): restore it, or begin a new sweep with another "
            "--output"
        ) from error
    for name in dict.fromkeys([*flat[0], *flat[1]]):
        values = [each.get(name) for each in flat]
        if values[0] != values[1]:
            own, other = ("left out" if each is None else printable(str(each)) for each in values)
            raise UsageError(
                f"{folder} has another sweep, in which {printable(name)} is {own}, and now "
                f"{other}: type the command of that sweep to continue it, or name another folder "
                "with --output"
            )


def _check_numbers(trial: Any) -> None:
    """Check what Optuna takes from the journal unseen: the numbers of a trial."""
    values = [*trial.intermediate_values.values()]
    if trial.state.name == "COMPLETE" or trial.value is not None:
        values.append(trial.value)
    for value in values:
        too_large = isinstance(value, int) and abs(value) > sys.float_info.max
        if too_large or isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"trial {trial.number} has the value {str(value)[:40]!r}")
    if not all(isinstance(step, int) for step in trial.intermediate_values):
        raise ValueError(f"trial {trial.number} has a value of an epoch that is not a number")


def _check_unused(folder: Path) -> None:
    if runs_in(folder) or (folder / JOURNAL).exists():
        raise UsageError(
            f"{folder} has runs or a journal, but no {DESCRIPTION}, so it is not the folder of a "
            "sweep: name another folder with --output"
        )


def _repaired(journal: Path) -> bool:
    """Remove a last line without an end from the journal. Return whether there was one."""
    try:
        with journal.open("rb+") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            if end == len(content):
                return False
            file.truncate(end)
            os.fsync(file.fileno())
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunError(f"{journal} cannot be read: {error.strerror or error}") from error
