"""Read spoiled files in the test suite: fewer than `make fuzz`, and in the process of the tests.

CNNFORGE_FUZZ_INPUTS is the number of cases of a reader.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fuzz_one import Tally, peak_memory
from fuzz_target import Target
from PIL import Image

from cnnforge.data import files

INPUTS = int(os.environ.get("CNNFORGE_FUZZ_INPUTS", "2000"))
MAX_GROWTH = 1 << 30
# Most pixels of an image. What larger ones need adds up with the memory of other tests: they are
# left to `make fuzz`, whose processes have a limit of their own.
MAX_PIXELS = 1_000_000


def check_target(target: Target, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read valid and spoiled files: each is read or refused with one line, within limits.

    Args:
        target: The reader.
        folder: A folder for the files, used if the machine has no folder in memory.
        monkeypatch: The fixture.
    """
    with limited_tally(target, folder, monkeypatch) as tally:
        for number in range(INPUTS):
            tally.run(number)
        assert tally.findings == {}, f"python tests/fuzzing/fuzz.py {target.name} --show NUMBER"
    # Faults that nothing notices, or that hide all others, would test nothing.
    assert 0 < tally.outcomes["value"] < tally.inputs or target.name in ("choices", "keras-json")


@contextmanager
def limited_tally(target: Target, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tally]:
    """Read the valid files, yield a tally for others, and check the memory that these took."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    # Threads take longer than the tiny images of the cases. `make fuzz` reads them in threads.
    monkeypatch.setattr(files, "usable_processors", lambda: 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS)
    memory = Path("/dev/shm")
    fast = memory / f"cnnforge-{os.getpid()}" if os.access(memory, os.W_OK) else folder
    try:
        tally = Tally(target, fast / target.name)
        for seed in target.seeds:
            tally.run_files(seed)
        assert tally.outcomes["value"] > 0, "no seed can be read"
        before = peak_memory()
        yield tally
        assert peak_memory() - before < MAX_GROWTH
    finally:
        shutil.rmtree(fast, ignore_errors=True)
