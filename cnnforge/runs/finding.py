"""Find the run that the user means: by its path, or the newest one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from cnnforge.errors import UsageError
from cnnforge.runs import CONFIG, METRICS

LATEST = "latest"
DEFAULT_FOLDER = Path("runs")
_MAX_NAMED = 3


def find_run(named: Path) -> Path:
    """Find the run directory that the user named.

    Args:
        named: The path of a run; or `latest`, the newest run in the folder `runs`; or
            `FOLDER/latest`, the newest run in another folder. If something named `latest` exists,
            it is used.

    Returns:
        The path of the run directory. It is `named` if this is a run. The content of the run is not
        checked.

    Raises:
        UsageError: There is no such run. The message names runs that the user may mean.
    """
    path = Path(os.path.expanduser(named))
    if is_run(path):
        return path
    if path.name == LATEST and not os.path.lexists(path):
        return _newest(path.parent if path.parent != Path() else DEFAULT_FOLDER)
    owner = next((parent for parent in path.parents if is_run(parent)), None)
    if owner is not None:
        raise UsageError(f"{named} is in the run {owner}: name the run itself, {owner}")
    if os.path.isdir(path):
        runs = runs_in(path)
        if runs:
            raise UsageError(
                f"{named} is a folder of runs: name one of them, such as {path / LATEST}, the "
                f"newest, or {_some(runs)}"
            )
        raise UsageError(f"{named} is not a run directory: it has no {CONFIG}{_hint(path)}")
    if os.path.exists(path):
        raise UsageError(f"{named} is a file, not a run: a run is a directory{_hint(path)}")
    close = _similar(path)
    if close:
        raise UsageError(
            f"there is no run {named}; did you mean {' or '.join(close)}?",
            correction=(str(named), close[0]) if len(close) == 1 else None,
        )
    raise UsageError(f"there is no run {named}{_hint(path)}")


def names_latest(word: str | Path) -> bool:
    """Return whether a word means the newest run of a folder."""
    return Path(word).name == LATEST and not os.path.lexists(word)


def is_run(path: str | Path) -> bool:
    """Return whether a path is a run directory: a directory with a `config.toml`."""
    return os.path.isfile(os.path.join(path, CONFIG))


def runs_in(folder: Path) -> list[Path]:
    """List the run directories in a folder, the newest first.

    Args:
        folder: An existing folder. Sub-folders that are not runs are left out.

    Returns:
        The paths, sorted by the time when training last wrote the configuration or the metrics.

    Raises:
        UsageError: The folder cannot be read.
    """
    try:
        paths = [folder / entry.name for entry in _folders(folder) if is_run(entry.path)]
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be read: {error.strerror}") from error
    return sorted(paths, key=lambda path: (time_of(path), path.name), reverse=True)


def time_of(run: Path) -> float:
    """Return the time when training last wrote `config.toml` or `metrics.csv`, in seconds."""
    times = [0.0]
    for name in (CONFIG, METRICS):
        try:
            times.append((run / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _newest(folder: Path) -> Path:
    runs = runs_in(folder) if os.path.isdir(folder) else []
    if not runs:
        missing = (
            "there is no folder" if not os.path.isdir(folder) else "there is no run in the folder"
        )
        raise UsageError(
            f"{LATEST} is the newest run, but {missing} {folder}: train one with 'cnnforge train', "
            f"or write FOLDER/{LATEST} for another folder of runs"
        )
    return runs[0]


def _near(path: Path) -> dict[str, Path]:
    """Return the runs next to a path and in the folder `runs`, by name."""
    folders = dict.fromkeys((path.parent, DEFAULT_FOLDER))
    readable = [folder for folder in folders if os.access(folder, os.R_OK | os.X_OK)]
    return {run.name: run for folder in readable if folder.is_dir() for run in runs_in(folder)}


def _similar(path: Path) -> list[str]:
    """Return the runs whose names are similar to a path that does not exist."""
    known = _near(path)
    if path.name in known:
        return [str(known[path.name])]
    names = [*known, LATEST] if known else []
    close = difflib.get_close_matches(path.name, names, _MAX_NAMED)
    return [str(known.get(name, name)) for name in close]


def _hint(path: Path) -> str:
    """Return the newest runs, or how to make one, as the end of a sentence."""
    known = _near(path)
    if known:
        newest = "the newest run is" if len(known) == 1 else "the newest runs are"
        return f"; {newest} {_some(list(known.values()))}; 'cnnforge runs' lists all"
    return "; train one with 'cnnforge train'"


def _some(runs: list[Path]) -> str:
    shown = ", ".join(map(str, runs[:_MAX_NAMED]))
    return f"{shown}, ..." if len(runs) > _MAX_NAMED else shown


def _folders(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield entry
