"""Make, open and lock the directory of a training run, and write files into it."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Any

from cnnforge.errors import RunError, UsageError, message_of, one_line
from cnnforge.utils import atomic_files
from cnnforge.utils.names import escaped, resume_command, unescaped
from cnnforge.utils.structured_text import read_toml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = 2
CONFIG = "config.toml"
MODEL = "model.keras"
METRICS = "metrics.csv"
EVALUATION = "evaluation.json"
STATE_FOLDER = "last"
_RUN_TABLE = "run"
_MAX_TRIES = 1000
# Names of files of boxes that say nothing about the data.
_GENERAL = ("data", "dataset", "annotations", "_annotations.coco")
# Seconds until `claimed` tries again to lock a directory.
_MOMENT = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a training run. Every file in it is written atomically.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def create(cls, parent: Path, model: str, dataset: str) -> RunDirectory:
        """Make a new, empty run directory `parent/MODEL-DATASET-NNN`.

        Args:
            parent: Folder of all runs; created if it is missing.
            model: Name of the model. Only the last part of a qualified name is used.
            dataset: Name of the dataset. Only the last part of a path is used.

        Returns:
            The directory. Its number NNN is one more than the highest one for the same model and
            dataset in `parent`.

        Raises:
            RunError: The directory could not be created.
        """
        stem = f"{_slug(model.rpartition('/')[2])}-{_slug(_short(dataset))}"
        try:
            Path(parent).mkdir(parents=True, exist_ok=True)
            number = _highest(parent, stem) + 1
            # Another process may choose the same number at the same time. `mkdir` succeeds in only
            # one of the two processes, and the other process tries the next number.
            for candidate in range(number, number + _MAX_TRIES):
                path = Path(parent) / f"{stem}-{candidate:03d}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                with cls(path).discarded_on_error():
                    atomic_files.sync_folder(path.parent)
                return cls(path)
        except OSError as error:
            raise RunError(
                f"cannot create a run directory in {parent}: {error.strerror or error}"
            ) from error
        raise RunError(f"no free number for {stem} in {parent}: choose another --output")

    @classmethod
    def open(cls, path: Path, needs: Sequence[str] = (CONFIG, MODEL)) -> RunDirectory:
        """Open an existing run directory.

        Args:
            path: The directory.
            needs: Names of the files that must exist.

        Returns:
            The directory.

        Raises:
            UsageError: The directory does not exist, it is not a run, or a newer cnnforge wrote
                it.
            RunError: A file is damaged, or it is missing: training stopped before the end of the
                first epoch, or the file was removed.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            what = "is a file, not a directory" if run.path.exists() else "does not exist"
            raise UsageError(f"the run {path} {what}: name a directory that 'cnnforge train' made")
        if not (run.path / CONFIG).is_file():
            raise UsageError(f"{path} is not a run directory: it has no {CONFIG}")
        table = run.read_config()[1]
        written = table.get("format")
        if not isinstance(written, int):
            raise RunError(f"{run.path / CONFIG} is damaged: it has no run format")
        if written > FORMAT:
            raise UsageError(
                f"the run {path} was written by a newer cnnforge "
                f"({table.get('cnnforge', 'unknown version')}, run format {written}; this one "
                f"reads {FORMAT}): update cnnforge"
            )
        for name in needs:
            if not (run.path / name).exists():
                if name == MODEL and run.had_model:
                    raise run.model_is_gone()
                cause = (
                    "it is training now, and its first epoch has not ended: wait until it has"
                    if run.is_claimed
                    else "its training stopped before the end of the first epoch; go on with "
                    f"{resume_command(path)}"
                )
                raise RunError(f"the run {path} has no {name}: {cause}")
        return run

    @property
    def had_model(self) -> bool:
        """Whether `model.keras` has been written: training has ended, or two epochs have.

        `metrics.csv` gets the row of the first epoch before the model is saved.
        """
        try:
            epochs = len((self.path / METRICS).read_bytes().splitlines()) - 1
        except OSError:
            epochs = 0
        return epochs > 1 or (self.path / EVALUATION).is_file()

    def model_is_gone(self) -> RunError:
        """Return an error for a run whose model was saved, and is missing now."""
        return RunError(
            f"the run {self.path} has no {MODEL}: the file was removed, or was not copied with the "
            "others: copy the whole directory again, or start a new run"
        )

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Remove the directory if the block raises an error or is interrupted.

        It is for a new run, until `config.toml` is written: before that, it cannot be resumed.
        """
        try:
            yield
        except BaseException:
            try:
                shutil.rmtree(self.path, ignore_errors=True)
            except KeyboardInterrupt:
                # A second Ctrl-C. The directory is small, so this takes no time.
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    @property
    def name(self) -> str:
        """Name of the directory: the last part of its path."""
        return self.path.name

    @property
    def model(self) -> Path:
        """Path of the model of the best epoch, a `.keras` file with stock Keras layers."""
        return self.path / MODEL

    @property
    def states(self) -> Path:
        """Path of the folder with the training states, from which the run can be resumed."""
        return self.path / STATE_FOLDER

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the run directory, so that only one process at a time can train in it.

        The directory itself is locked, so no lock file remains. The lock is released when the
        process ends, however it ends. Windows and some network file systems do not have such locks;
        this method then does nothing.

        Raises:
            RunError: Another process is training in this directory.
        """
        if fcntl is None:
            yield
            return
        directory = os.open(self.path, os.O_RDONLY)
        try:
            # `is_claimed` of another process may hold a lock for a moment, so try twice.
            if not _lock(directory):
                time.sleep(_MOMENT)
                if not _lock(directory):
                    raise RunError(
                        f"another process is training the run {self.path}: wait until it ends, or "
                        "interrupt it"
                    )
            yield
        finally:
            os.close(directory)

    @property
    def is_claimed(self) -> bool:
        """Whether a process has locked the directory, because it trains in it."""
        try:
            directory = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            # This method holds the lock only for a moment; `claimed` tries again if it meets it.
            return not _lock(directory, shared=True)
        finally:
            os.close(directory)

    def write_config(self, options: Mapping[str, Any], table: Mapping[str, Any]) -> None:
        """Write `config.toml`.

        Args:
            options: Options of training, which `train --config` can read again; `None` values are
                omitted.
            table: Facts about the run, for the table `[run]`. The version of the format is added.

        Raises:
            RunError: The file could not be written.
        """
        text = to_toml(options) + f"\n[{_RUN_TABLE}]\n" + to_toml({"format": FORMAT, **table})
        self.write_text(CONFIG, text)

    def read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.toml`.

        Returns:
            Two dictionaries, the arguments of `write_config`: the options, and the facts about the
            run.

        Raises:
            RunError: The file could not be read.
        """
        path = self.path / CONFIG
        try:
            options = unescaped(read_toml(path))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {message_of(error)}") from error
        table = options.pop(_RUN_TABLE, {})
        return options, table if isinstance(table, dict) else {}

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the run directory."""
        with self.writing(name) as path:
            path.write_bytes(text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file into the run directory."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a CSV file into the run directory."""
        self.write_text(name, to_csv(header, rows))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path. At the end of the block, this file replaces the file `name`.

        Raises:
            RunError: The file could not be written; the old file is kept.
        """
        try:
            with atomic_files.atomic_path(self.path / name) as path:
                yield path
        except OSError as error:
            raise RunError(
                f"{self.path / name} could not be written: {error.strerror or error}"
            ) from error

    @contextmanager
    def optional(self, name: str) -> Iterator[None]:
        """Log a warning, and go on, if the file `name` cannot be made in the block.

        It is for tables and figures of a finished training. The model and the state are saved
        before, and an error here must not cost them.

        Args:
            name: Name of the file, or of the files.
        """
        try:
            yield
        except Exception as error:
            # The message of an error of `writing` already says which file could not be written.
            cause = one_line(error).removeprefix(f"{self.path / name} could not be written: ")
            _log.warning(
                "%s of the run could not be written: %s; the model is saved; to write it again, "
                "type %s",
                name,
                cause,
                resume_command(self.path),
            )


def _lock(directory: int, *, shared: bool = False) -> bool:
    """Lock an open directory. Return false if another process has locked it.

    Where there are no such locks, do nothing and return true.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(directory, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def to_toml(values: Mapping[str, Any]) -> str:
    """Format flat values as TOML.

    Args:
        values: Values of type str, bool, int, float, or lists of these; `None` values are omitted.

    Returns:
        TOML text with a line `key = value` for each value. Bytes of a path that are not valid UTF-8
        are escaped; `cnnforge.utils.names.unescaped` reads them.
    """
    return "".join(
        f"{key} = {_toml(value)}\n" for key, value in values.items() if value is not None
    )


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Format rows as CSV, with `\n` at the end of each line."""
    return "".join(csv_parts(header, rows))


def csv_parts(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Format rows as CSV, as `to_csv`, in parts of some hundred lines."""
    lines = chain([header], rows)
    while part := list(islice(lines, 512)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(part)
        yield text.getvalue()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a valid TOML string, except that TOML requires an escape for DEL.
        return json.dumps(escaped(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def _short(dataset: str) -> str:
    name, separator, argument = dataset.partition(":")
    if not separator:
        return name.rpartition("/")[2]
    path = PurePath(argument)
    if argument.isdigit():
        return f"{name}_{argument}"
    # The files of boxes are called alike in all folders.
    is_general = path.suffix in (".json", ".yaml", ".yml") and path.stem in _GENERAL
    return (path.parent.name if is_general else path.stem) or argument


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "_", text.lower()).strip("_.") or "data"


def _highest(parent: Path, stem: str) -> int:
    pattern = re.compile(re.escape(stem) + r"-(\d+)")
    found = (pattern.fullmatch(path.name) for path in Path(parent).iterdir())
    return max((int(match[1]) for match in found if match), default=0)
