"""The directory that a training run leaves behind."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from cnnforge import _files
from cnnforge.errors import RunError, UsageError

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
_MOST_TRIES = 1000


@dataclass(frozen=True)
class RunDirectory:
    """A run directory; every file in it is written whole or not at all.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def create(cls, parent: Path, model: str, dataset: str) -> RunDirectory:
        """Make a new, empty run directory `parent/MODEL-DATASET-NNN`.

        Args:
            parent: Where runs are kept; made if it is missing.
            model: The model's name; of a qualified name the last part is used.
            dataset: The dataset's name; of a reference with a path the last part of the path.

        Returns:
            The directory. Its number is one more than the highest one there is.

        Raises:
            RunError: It could not be made.
        """
        stem = f"{_slug(model.rpartition('/')[2])}-{_slug(_short(dataset))}"
        try:
            Path(parent).mkdir(parents=True, exist_ok=True)
            number = _highest(parent, stem) + 1
            # Two processes may have counted to the same number: mkdir decides who gets it.
            for candidate in range(number, number + _MOST_TRIES):
                path = Path(parent) / f"{stem}-{candidate:03d}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                _files.sync_folder(path.parent)
                return cls(path)
        except OSError as error:
            raise RunError(
                f"no run directory could be made in {parent}: {error.strerror or error}"
            ) from error
        raise RunError(f"no free number for {stem} in {parent}: choose another --output")

    @classmethod
    def open(cls, path: Path, needs: Sequence[str] = (CONFIG, MODEL)) -> RunDirectory:
        """Open a run directory that exists.

        Args:
            path: The directory.
            needs: The files without which it is of no use to the caller.

        Returns:
            The directory.

        Raises:
            UsageError: There is no such directory, or it is no run.
            RunError: A file is missing because the run never came that far, or a newer cnnforge
                wrote it.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            what = "is a file, not a directory" if run.path.exists() else "does not exist"
            raise UsageError(f"the run {path} {what}: give a directory that 'train' has made")
        if not (run.path / CONFIG).is_file():
            raise UsageError(f"{path} is no run directory: it holds no {CONFIG}")
        table = run.read_config()[1]
        written = table.get("format")
        if not isinstance(written, int):
            raise RunError(f"{run.path / CONFIG} names no run format: it is damaged")
        if written > FORMAT:
            raise RunError(
                f"the run {path} was written by a newer cnnforge "
                f"({table.get('cnnforge', 'unknown version')}, run format {written}; this one "
                f"reads {FORMAT}): update cnnforge"
            )
        for name in needs:
            if not (run.path / name).exists():
                raise RunError(
                    f"the run {path} has no {name}: its training was stopped before the first "
                    f"epoch was done; go on with 'cnnforge train --resume {path}'"
                )
        return run

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def model(self) -> Path:
        """The best model, in Keras' own format, of stock layers."""
        return self.path / MODEL

    @property
    def states(self) -> Path:
        """The folder of the training states."""
        return self.path / STATE_FOLDER

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from training this run while the block runs.

        The lock is the directory's own, leaves no file, and ends with the process however that
        ends. Where the system has none (Windows, some network file systems) nothing is kept off.

        Raises:
            RunError: Another process trains this run.
        """
        if fcntl is None:
            yield
            return
        directory = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"the run {self.path} is being trained by another process: wait until that has "
                    "ended, or interrupt it"
                ) from error
            except OSError:
                pass
            yield
        finally:
            os.close(directory)

    def write_config(self, options: Mapping[str, Any], table: Mapping[str, Any]) -> None:
        """Write `config.toml`.

        Args:
            options: What `train --config` reads again; `None` is left out.
            table: What the run is, besides; the format is added.

        Raises:
            RunError: It could not be written.
        """
        text = to_toml(options) + f"\n[{_RUN_TABLE}]\n" + to_toml({"format": FORMAT, **table})
        self.write_text(CONFIG, text)

    def read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.toml`.

        Returns:
            The options and the table that `write_config` got.

        Raises:
            RunError: It could not be read.
        """
        path = self.path / CONFIG
        try:
            options = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        table = options.pop(_RUN_TABLE, {})
        return options, table if isinstance(table, dict) else {}

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        with self.writing(name) as path:
            path.write_bytes(text.encode(errors="surrogateescape"))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a CSV file."""
        self.write_text(name, to_csv(header, rows))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path to write the file `name` to; it gets that name when the block is left.

        Raises:
            RunError: It could not be written; the old one is kept.
        """
        try:
            with _files.atomic_path(self.path / name) as path:
                yield path
        except OSError as error:
            raise RunError(
                f"{self.path / name} could not be written: {error.strerror or error}"
            ) from error


def to_toml(values: Mapping[str, Any]) -> str:
    """Write flat values as TOML.

    Args:
        values: str, bool, int, float and lists of them; `None` is left out.

    Returns:
        One line per value.
    """
    return "".join(
        f"{key} = {_toml(value)}\n" for key, value in values.items() if value is not None
    )


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as CSV with Unix line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # TOML's basic strings are JSON's, but that DEL has to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def _short(dataset: str) -> str:
    _, separator, argument = dataset.partition(":")
    return PurePath(argument).stem or argument if separator else dataset.rpartition("/")[2]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "_", text.lower()).strip("_.") or "data"


def _highest(parent: Path, stem: str) -> int:
    pattern = re.compile(re.escape(stem) + r"-(\d+)")
    found = (pattern.fullmatch(path.name) for path in Path(parent).iterdir())
    return max((int(match[1]) for match in found if match), default=0)
