"""T5 to T8: what was saved stays readable if a save fails, or a file is damaged."""

import os
import random
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from forked import SLOW, files_in

from cnnforge.errors import RunError
from cnnforge.runs import RunDirectory
from cnnforge.training import Session, StateStore, TrainingState

SMALL = 65536


@contextmanager
def small_disk():
    """No file may have more than 64 KiB: a full disk that needs no root."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def state(epoch: int, batch: int = 0, size: int = 10) -> TrainingState:
    drawn = np.random.default_rng(epoch + batch).random(size, np.float32)
    return TrainingState(arrays=[drawn, np.array(epoch)], epoch=epoch, batch=batch)


def loaded(store: StateStore, warnings: int = 0) -> TrainingState:
    found, said = store.load()
    assert len(said) == warnings, said
    assert found is not None
    return found


def test_t05_a_full_disk_keeps_the_earlier_state(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "last")
    store.save(state(1))
    with (
        small_disk(),
        pytest.raises(RunError, match=r"too large; state-00001-0000000\.ckpt is kept"),
    ):
        store.save(state(2, size=100_000))
    assert os.listdir(store.folder) == ["state-00001-0000000.ckpt"]
    assert loaded(store).digest() == state(1).digest()


def test_t05_a_full_disk_keeps_the_best_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((36,)), keras.layers.Dense(2000)])
    # Only what `_save_best` needs.
    session = Session.__new__(Session)
    session.run = RunDirectory.create(tmp_path, "model", "toy")
    session.model = session.stock = model
    session._save_best()
    before = session.run.model.read_bytes()
    model.set_weights([weight + 1 for weight in model.get_weights()])
    with small_disk(), pytest.raises(RunError, match="could not be written"):
        session._save_best()
    assert session.run.model.read_bytes() == before
    assert os.listdir(session.run.path) == ["model.keras"]
    keras.saving.load_model(session.run.model)


def test_t05_a_full_disk_ends_a_training_with_one_line(train, whole, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole("small", "--epochs", "1").json["run"], run)
    before = loaded(StateStore(run / "last")).digest()
    ended = train("--resume", run, "--epochs", "3", limits={"FSIZE": 6000})
    assert ended.code == 1
    (line,) = ended.errors
    assert line.startswith("error: the training state could not be written to ")
    assert line.endswith("File too large; state-00001-0000000.ckpt is kept")
    assert loaded(StateStore(run / "last")).digest() == before
    assert not [name for name in files_in(run) if "tmp" in name]
    # There is room again.
    more = train("--resume", run, "--epochs", "3").json
    assert more["weights"] == whole("small", "--epochs", "3").json["weights"]


DAMAGES = {
    "truncated": lambda data: data[:-10],
    "empty": lambda data: b"",
    "garbage": lambda data: b"garbage\n" * 30,
    "header": lambda data: data.replace(b" 2 ", b" x ", 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_t06_a_damaged_newest_state_is_passed_over_and_said(tmp_path: Path, damage) -> None:
    store = StateStore(tmp_path / "last")
    store.save(state(1))
    newest = store.save(state(2))
    newest.write_bytes(damage(newest.read_bytes()))
    found, (warning,) = store.load()
    assert found is not None
    assert found.epoch == 1
    assert str(newest) in warning
    # What is saved next is the newest, though the damaged one has a higher number.
    store.save(state(1, 4))
    assert loaded(store).digest() == state(1, 4).digest()


def test_t06_a_run_goes_on_from_the_state_before_the_damaged_one(train, whole, tmp_path) -> None:
    run = tmp_path / "run"
    first = whole("small", "--epochs", "3").json
    shutil.copytree(first["run"], run)
    newest = run / "last" / "state-00003-0000000.ckpt"
    newest.write_bytes(newest.read_bytes()[:-5])
    ended = train("--resume", run)
    assert f"{newest} is damaged" in ended.err
    assert ended.json["weights"] == first["weights"]


SAVE_FOR_EVER = """
import numpy as np
from pathlib import Path
from cnnforge.training import StateStore, TrainingState
store = StateStore(Path({folder!r}))
epoch = (store.load()[0] or TrainingState([])).epoch
while True:
    epoch += 1
    drawn = np.random.default_rng(epoch).random({size}, np.float32)
    store.save(TrainingState(arrays=[drawn, np.array(epoch)], epoch=epoch))
"""


def test_t07_a_process_that_is_killed_while_it_saves_leaves_a_whole_state(
    commands, tmp_path: Path
) -> None:
    """50 kills; 5 in a short test. The process does nothing but save."""
    size, draws = 300_000, random.Random(7)
    store = StateStore(tmp_path / "last")
    store.save(state(1, size=size))
    for _ in range(50 if SLOW else 5):
        begun = loaded(store).epoch
        saver = commands.start(before=SAVE_FOR_EVER.format(folder=str(store.folder), size=size))
        end = time.monotonic() + 60
        while not (store.folder / f"state-{begun + 1:05d}-0000000.ckpt").exists():
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.05))
        saver.kill(signal.SIGKILL)
        assert saver.wait().code == 128 + signal.SIGKILL
        found = loaded(store)
        assert found.epoch > begun
        assert found.digest() == state(found.epoch, size=size).digest()


def test_t08_a_flipped_bit_is_found(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "last")
    store.save(state(1))
    newest = store.save(state(2))
    data = newest.read_bytes()
    draws = random.Random(8)
    for place in (0, len(data) - 1, *(draws.randrange(len(data)) for _ in range(50))):
        changed = bytearray(data)
        changed[place] ^= 1 << draws.randrange(8)
        newest.write_bytes(changed)
        assert loaded(store, warnings=1).epoch == 1, place
