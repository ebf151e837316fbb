"""Spoiled files of every kind: each is read or refused with one line, within limits.

`make fuzz` reads 100,000 of a kind, in processes of their own. CNNFORGE_FUZZ_INPUTS is the number
here.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_one import Tally, peak_memory
from fuzz_target import Target
from fuzz_targets import TARGETS

from cnnforge.data import files

INPUTS = int(os.environ.get("CNNFORGE_FUZZ_INPUTS", "2000"))
# Each takes ten times as long as one of the others.
KERAS_INPUTS = INPUTS // 50
MAX_GROWTH = 1 << 30


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is one."""
    memory = Path("/dev/shm")
    folder = memory / f"cnnforge-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    "target",
    # Kernels are compiled for minutes.
    [target for target in TARGETS if target.kind != "compiled"],
    ids=lambda target: target.name,
)
def test_spoiled_files(target: Target, fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    # Threads take longer than the tiny images of the cases. `make fuzz` reads them in threads.
    monkeypatch.setattr(files, "usable_processors", lambda: 1)
    tally = Tally(target, fast_folder / target.name)
    for seed in target.seeds:
        tally.run_files(seed)
    assert tally.outcomes["value"] > 0, "no seed can be read"
    before = peak_memory()
    for number in range(INPUTS if target.kind == "bytes" else KERAS_INPUTS):
        tally.run(number)
    assert tally.findings == {}, f"python tests/fuzzing/fuzz.py {target.name} --show NUMBER"
    assert peak_memory() - before < MAX_GROWTH
    # Faults that nothing notices, or that hide all others, would test nothing.
    assert 0 < tally.outcomes["value"] < tally.inputs or target.name in ("choices", "keras-json")
