"""Define and check the options about the further files that a training writes.

Importing this module does not import Keras.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cnnforge.errors import UsageError
from cnnforge.optimizer_options import option


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Files that a training writes if they are asked for.

    Args:
        tensorboard: Whether the metrics are also written as files for TensorBoard.
        thumbnails: Whether the run keeps small pictures of some validation images for its report.
        log: File to which the events of training are appended, `"jsonl:FILE"`; `None`: none.

    Raises:
        UsageError: A value is not valid.
    """

    tensorboard: bool = option(False, "", "Write files for TensorBoard into the run.", "no")
    thumbnails: bool = option(
        True, "", "Keep small pictures of some validation images for the report of the run.", "yes"
    )
    log: str | None = option(
        None, "jsonl:FILE", "Append each event of training to a file, as a line of JSON.", "none"
    )

    def check_output(self) -> None:
        """Check the values.

        Raises:
            UsageError: `log` names no file that can be written.
        """
        _ = self.log_file

    @property
    def log_file(self) -> Path | None:
        """The file that `log` names, or `None`."""
        if self.log is None:
            return None
        kind, _, name = self.log.partition(":")
        if kind != "jsonl" or not name:
            raise UsageError(f"log is {self.log!r}: expected jsonl:FILE, for instance jsonl:a")
        path = Path(os.path.expanduser(name))
        if path.is_dir() or not path.parent.is_dir():
            why = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise UsageError(f"log is {self.log!r}: {why}; name a file in an existing folder")
        return path
