"""Define a reader of foreign bytes that is fuzzed, and spoil its files."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from fuzz_forms import spoiled_file

MAX_SECONDS = 5.0
"""Time of the processor that a case may take."""
Files = Mapping[str, bytes]
"""Content of each file of a case, by its path in the folder of the case."""


@dataclass(frozen=True)
class Target:
    """A reader of foreign bytes.

    Attributes:
        name: Name for the user.
        about: Description of the files in one line, for the table.
        make_seeds: Function that returns valid cases.
        read: Function that reads a case in a folder, with a random number that chooses options. It
            raises a `CnnforgeError` for a case that cannot be used.
        kind: `"keras"` if Keras opens the files, and `"compiled"` if kernels are compiled for them.
            Both take longer.
        fixed: Files that are never spoiled.
        refuses: Further exceptions with a message for the user.
        seconds: Time of the processor that a case may take.
    """

    name: str
    about: str
    make_seeds: Callable[[], Sequence[Files]]
    read: Callable[[Path, int], object]
    kind: Literal["bytes", "keras", "compiled"] = "bytes"
    fixed: Sequence[str] = ()
    refuses: tuple[type[Exception], ...] = ()
    seconds: float = MAX_SECONDS

    @cached_property
    def seeds(self) -> Sequence[Files]:
        """The valid cases."""
        return self.make_seeds()

    def case(self, number: int) -> Files:
        """Return a case: the seeds themselves first, and then spoiled ones."""
        if number < len(self.seeds):
            return self.seeds[number]
        rng = random.Random(f"{self.name} {number}")
        return self.spoil(rng.choice(self.seeds), rng)

    def spoil(self, files: Files, rng: random.Random) -> Files:
        """Return a case in which one file is spoiled, or two are."""
        made = dict(files)
        names = [name for name in made if name not in self.fixed]
        for name in rng.sample(names, min(len(names), rng.choice((1, 1, 1, 2)))):
            others = [seed[name] for seed in self.seeds if name in seed]
            made[name] = spoiled_file(name, made[name], rng, others)
        if len(made) > 1 and rng.random() < 0.02:
            del made[rng.choice(names)]
        return made


def digest(files: Files) -> int:
    """Return a number that depends on a case alone."""
    text = hashlib.sha256()
    for name, content in files.items():
        text.update(os.fsencode(f"{name} {len(content)} ") + content)
    return int.from_bytes(text.digest()[:8], "little")


def place(folder: Path, before: Files, files: Files) -> None:
    """Write a case into a folder that has the case `before`."""
    for name in before:
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        if before.get(name) != content or not (folder / name).exists():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def tree(folder: Path) -> Files:
    """Return all files below a folder, as a case."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fresh(folder: Path) -> Path:
    """Make a folder empty."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder
