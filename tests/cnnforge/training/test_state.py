"""Training states on disk."""

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cnnforge.errors import UsageError
from cnnforge.training import Best, EpochMetrics, StateStore, TrainingState
from cnnforge.training.state import Sums

VALUES = {"loss": 0.1, "accuracy": 0.2, "val_loss": 0.3, "val_accuracy": 0.4}
ROW = EpochMetrics(1, VALUES, 1e-3, 1.5, 1e4)


def state(epoch: int, batch: int = 0, size: int = 10) -> TrainingState:
    generator = np.random.default_rng([epoch, batch])
    return TrainingState(
        arrays=[generator.random(size, np.float32), np.uint32([1, 2]), np.array(epoch, np.int64)],
        epoch=epoch,
        batch=batch,
        sums=Sums({"loss": 1 / 3, "correct": 17.0}, 0.5),
        best=Best(1, {"accuracy": 0.4, "loss": 0.1 + 0.2}),
        history=(ROW,) * epoch,
        config={"seed": 1, "model": "lenet", "rate": 0.1},
    )


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = state(2, 5)
    StateStore(tmp_path / "last").save(saved)
    loaded, warnings = StateStore(tmp_path / "last").load()
    assert warnings == []
    assert loaded is not None
    assert loaded.digest() == saved.digest()
    for name in ("epoch", "batch", "sums", "best", "history", "config"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert [it.dtype for it in loaded.arrays] == [it.dtype for it in saved.arrays]


def test_nothing_was_saved(tmp_path: Path) -> None:
    assert StateStore(tmp_path / "last").load() == (None, [])


def test_the_newest_and_the_one_before_are_kept(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "last")
    for epoch, batch in ((0, 0), (0, 3), (1, 0), (2, 0)):
        store.save(state(epoch, batch))
    assert sorted(os.listdir(store.folder)) == [
        "state-00001-0000000.ckpt",
        "state-00002-0000000.ckpt",
    ]


def test_a_newer_format_is_an_error_not_damage(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "last")
    path = store.save(state(1))
    path.write_bytes(path.read_bytes().replace(b"state 2 ", b"state 9 ", 1))
    with pytest.raises(UsageError, match="written by a newer cnnforge") as raised:
        store.load()
    assert raised.value.exit_code == 2


def test_the_first_format_is_read(tmp_path: Path) -> None:
    """State that cnnforge 0.1 wrote in the middle of an epoch."""
    row = {"epoch": 1, "loss": 0.1, "accuracy": 0.2, "val_loss": 0.3, "val_accuracy": 0.4}
    row |= {"learning_rate": 1e-3, "seconds": 1.5, "images_per_second": 1e4}
    meta = {
        "epoch": 1,
        "batch": 5,
        "sums": {"loss": 1 / 3, "correct": 17, "seconds": 0.5},
        "best": {"epoch": 1, "accuracy": 0.4, "loss": 0.1 + 0.2},
        "history": [row],
        "config": {"seed": 1, "model": "lenet", "rate": 0.1},
        "arrays": 1,
    }
    body = io.BytesIO()
    np.savez(body, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **{"00000": np.ones(2)})
    digest = hashlib.sha256(body.getvalue()).hexdigest()
    header = f"cnnforge-state 1 {digest}\n".encode()
    (tmp_path / "state-00001-0000005.ckpt").write_bytes(header + body.getvalue())
    loaded, warnings = StateStore(tmp_path).load()
    assert warnings == []
    assert loaded is not None
    expected = state(1, 5)
    for name in ("epoch", "batch", "sums", "best", "history", "config"):
        assert getattr(loaded, name) == getattr(expected, name)
    assert (loaded.callbacks, loaded.stopped) == ({}, "")
