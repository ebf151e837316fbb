"""Run an exported model in a new process in which cnnforge cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnforge.errors import CnnforgeError
from cnnforge.exporting.formats import FORMATS


class Replay(NamedTuple):
    """The outputs of an exported model.

    Attributes:
        outputs: (N, ...) array of each output, by the name that the file gives it.
        seconds: Seconds for the N images, without the time to open the file.
    """

    outputs: dict[str, np.ndarray]
    seconds: float


def replay(name: str, path: Path, images: np.ndarray) -> Replay:
    """Run an exported model on images.

    Args:
        name: Name of the format.
        path: The exported file or folder.
        images: (N, H, W, C) uint8.

    Raises:
        CnnforgeError: The model cannot be opened, or does not run.
    """
    with tempfile.TemporaryDirectory(prefix="cnnforge-") as folder:
        given, results = Path(folder) / "images.npy", Path(folder) / "outputs.npz"
        np.save(given, images)
        with as_file(files("cnnforge.exporting") / "replay_script.py") as script:
            command = [sys.executable, "-I", str(script), name, str(path.absolute())]
            done = subprocess.run(
                [*command, str(given), str(results)],
                capture_output=True,
                text=True,
                errors="replace",
                cwd=folder,
            )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
            raise CnnforgeError(
                f"{FORMATS[name].runs_in} cannot run the exported model without cnnforge: "
                f"{reason[:300]}; nothing was written, choose another --format"
            )
        facts = json.loads(done.stdout.splitlines()[-1])
        with np.load(results) as archive:
            return Replay({each: archive[each] for each in archive}, float(facts["predict"]))
