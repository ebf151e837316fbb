"""The images of a soak, and checks of the files of a run."""

from __future__ import annotations

import csv
import hashlib
import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("column", "none", "row")


def write_pictures(folder: Path, channels: int, count: int = 32, side: int = 10) -> None:
    """Write images of three classes: a bright row, a bright column, or neither. None has white."""
    draws = np.random.default_rng(channels)
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = draws.integers(0, 100, (side, side, channels))
            at = int(draws.integers(1, side - 1))
            if label == "row":
                pixels[at] += 120
            elif label == "column":
                pixels[:, at] += 120
            image = Image.fromarray(pixels.astype(np.uint8).squeeze())
            image.save(folder / label / f"{number}.png")


def digest_of(folder: Path) -> str:
    """Return a digest of the names and the contents of the files in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


def temporary_files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "tmp-" in path.name}


def incomplete_files(folder: Path, damaged: set[Path]) -> list[str]:
    """List the files of a folder, and in its folders, that are not whole.

    Args:
        folder: The folder.
        damaged: States that the soak itself has damaged.
    """
    found = []
    for path in folder.rglob("*"):
        if path in damaged or "tmp-" in path.name or not path.is_file():
            continue
        try:
            _read(path)
        except Exception as error:
            found.append(f"{path}: {type(error).__name__}: {error}")
    return found


def is_whole_state(path: Path) -> bool:
    """Return whether a state has the checksum in its first line.

    This is not done by cnnforge itself, whose import takes seconds and much memory.
    """
    line, _, rest = path.read_bytes().partition(b"\n")
    return line == b"cnnforge-state 2 " + hashlib.sha256(rest).hexdigest().encode()


def _read(path: Path) -> None:
    """Read a file; raise an error if it is not whole."""
    kind = path.suffix
    if kind in (".keras", ".npz"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    elif kind == ".ckpt":
        assert is_whole_state(path)
    elif kind == ".json":
        json.loads(path.read_text())
    elif kind == ".toml":
        tomllib.loads(path.read_text())
    elif kind == ".csv":
        rows = list(csv.reader(path.open(newline="")))
        assert rows, "no line"
        assert all(len(row) == len(rows[0]) for row in rows), "a line is cut off"
    elif kind == ".jsonl":
        _ = [json.loads(line) for line in path.read_text().splitlines()]
    elif kind == ".png" and path.stat().st_size:
        with Image.open(path) as image:
            image.load()
    elif kind == ".html":
        assert path.read_text().rstrip().endswith("</html>")


def facts_of(run: Path) -> dict[str, Any]:
    """Return what two runs of the same training have in common, by the name of the file."""
    facts: dict[str, Any] = {"names": sorted(_names(run))}
    for path in sorted(run.glob("*")):
        if path.name == "metrics.csv":
            rows = list(csv.DictReader(path.open(newline="")))
            times = ("seconds", "images_per_second", "waiting")
            facts[path.name] = [{k: v for k, v in row.items() if k not in times} for row in rows]
        elif path.name in ("predictions.csv", "evaluation.json", "split.csv", "skipped.csv"):
            facts[path.name] = path.read_text()
        elif path.name == "model.keras":
            facts[path.name] = _weights(path)
    return facts


def _names(run: Path) -> set[str]:
    # States may be of other batches, and the names of the files for TensorBoard have the time.
    found = (path for path in run.rglob("*") if path.suffix != ".ckpt")
    return {str(path.relative_to(run)).partition("tfevents")[0] for path in found}


def _weights(path: Path) -> str:
    import h5py

    total = hashlib.sha256()
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member:
        file = h5py.File(member, "r")

        def add(name: str, value: Any) -> None:
            if isinstance(value, h5py.Dataset):
                total.update(name.encode() + np.asarray(value).tobytes())

        file.visititems(add)
    return total.hexdigest()
