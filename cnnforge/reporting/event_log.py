"""Write the events of training to a file that programs can read, one JSON object per line."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cnnforge.errors import RunError
from cnnforge.utils.names import resume_command


class EventLog:
    """A listener of training events that appends a line to a file for each event.

    A line is a JSON object with `event`, the kind of event such as `epoch_ended`, `run`, the run
    directory, `time` in seconds since 1970, and the attributes of the event.

    Args:
        path: The file. It is made if it does not exist.
        run: The run directory.
    """

    def __init__(self, path: Path, run: Path) -> None:
        self._path, self._run = path, run

    def __call__(self, event: Any) -> None:
        """Append a line.

        Args:
            event: An event, see `cnnforge.training.Event`.
        """
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
        self.write(name, asdict(event))

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Append a line.

        Args:
            name: Kind of the event.
            values: Plain values.

        Raises:
            RunError: The file cannot be written.
        """
        about = {"event": name, "run": str(self._run), "time": round(time.time(), 3)}
        line = json.dumps(_plain({**about, **values}), allow_nan=False, ensure_ascii=False)
        try:
            # Opened for every line, so that another program may move the file away.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise RunError(
                f"{self._path} could not be written: {error.strerror or error}; the run is kept; "
                f"go on with {resume_command(self._run, '--log jsonl:FILE')}"
            ) from error


def _plain(value: Any) -> Any:
    """Return a value with `None` for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
