"""Save and load the complete state of a training run, from which the run can be resumed.

A state file begins with one line of text, `cnnforge-state 2 <sha256 of the rest>`. The rest is an
`.npz` archive without pickles. It contains `meta` (JSON), and one array for each variable, named by
the index of the variable. The same code reads format 1, which cnnforge 0.1 wrote. In format 1 the
task is always classification, and its sums and metrics have the same names as now.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.errors import RunError, UsageError, message_of
from cnnforge.model_files.arrays import DAMAGED, check_arrays
from cnnforge.training.events import EpochMetrics
from cnnforge.utils.atomic_files import write_bytes
from cnnforge.utils.structured_text import MALFORMED, parse_json

FORMAT = 2
_MAGIC = b"cnnforge-state"
_MAX_KEPT = 2


@dataclass(frozen=True, slots=True)
class Best:
    """The best epoch so far.

    Attributes:
        epoch: Number of the epoch, from 1.
        values: Validation metrics, by name.
    """

    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums over the images of an epoch in progress, from which training metrics are computed.

    Attributes:
        values: Sum over the images so far for each name in `Task.sum_names`.
        seconds: Training time of the epoch so far.
        waiting: Part of this time in which training waited for images.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    waiting: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The complete state of training, from which a run can be resumed.

    Attributes:
        arrays: Variables of the model (weights, statistics, seed generators), then variables of the
            optimizer.
        epoch: Index of the epoch in progress, from 0.
        batch: Number of batches of this epoch that are done.
        sums: Training sums of the epoch in progress.
        best: The best epoch so far, or `None`.
        history: Metrics of each finished epoch.
        config: Options and other values that must be the same when the run is resumed.
        callbacks: Values that each callback saved, by the name of the callback.
        stopped: Reason that a callback gave for ending training early; empty if none did.
    """

    arrays: Sequence[np.ndarray]
    epoch: int = 0
    batch: int = 0
    sums: Sums = field(default_factory=Sums)
    best: Best | None = None
    history: tuple[EpochMetrics, ...] = ()
    config: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    callbacks: Mapping[str, Any] = field(default_factory=dict)
    stopped: str = ""

    def digest(self) -> str:
        """Return the SHA-256 of all variables. A change of a single bit changes this digest."""
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of `train`.

    Attributes:
        state: The training state at the end of the call.
        interrupted: Whether training was asked to stop before the last epoch was done.
    """

    state: TrainingState
    interrupted: bool


class StateStore:
    """Saves and loads the training states of a run. The two newest states are kept.

    Args:
        folder: The folder `last/` of the run; it is made when the first state is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def save(self, state: TrainingState) -> Path:
        """Write a state, and delete all other state files except the previous one.

        A file of a later step is also deleted. Such a file is damaged: if it could have been read,
        the run would have been resumed from it.

        Args:
            state: The state.

        Returns:
            Path of the new file.

        Raises:
            RunError: The file could not be written. Earlier states are kept.
        """
        path = self.folder / f"state-{state.epoch:05d}-{state.batch:07d}.ckpt"
        others = [found for found in self._newest_first() if found != path]
        earlier = [found for found in others if found.name < path.name]
        try:
            self.folder.mkdir(exist_ok=True)
            write_bytes(path, _encode(state))
        except OSError as error:
            raise RunError(
                f"the training state could not be written to {path}: {error.strerror or error}; "
                f"{f'{earlier[0].name} is kept' if earlier else 'there is no earlier one'}"
            ) from error
        for superseded in set(others) - set(earlier[: _MAX_KEPT - 1]):
            superseded.unlink(missing_ok=True)
        return path

    def load(self) -> tuple[TrainingState | None, list[str]]:
        """Read the newest undamaged state.

        Returns:
            Two values: the state, or `None` if no state can be read, and a list with one warning
            for each damaged file that was skipped.

        Raises:
            UsageError: A newer version of cnnforge wrote a state.
        """
        warnings: list[str] = []
        for path in self._newest_first():
            try:
                return _decode(path.read_bytes()), warnings
            except (OSError, *MALFORMED, *DAMAGED) as error:
                reason = message_of(error)
                warnings.append(f"{path} is damaged ({reason}): the previous state is used")
            except _NewerFormatError as error:
                raise UsageError(f"{path} {error}") from error
        return None, warnings

    @property
    def has_states(self) -> bool:
        """Whether a state has been saved."""
        return bool(self._newest_first())

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.ckpt"), reverse=True)


class _NewerFormatError(Exception):
    pass


def _encode(state: TrainingState) -> bytes:
    meta = {
        "epoch": state.epoch,
        "batch": state.batch,
        "sums": {"seconds": state.sums.seconds, **state.sums.values},
        "waiting": state.sums.waiting,
        "best": {"epoch": state.best.epoch, **state.best.values} if state.best else None,
        "history": [row.as_dict() for row in state.history],
        "config": dict(state.config),
        "callbacks": dict(state.callbacks),
        "stopped": state.stopped,
        "arrays": len(state.arrays),
    }
    named: dict[str, Any] = {f"{number:05d}": array for number, array in enumerate(state.arrays)}
    body = io.BytesIO()
    np.savez(body, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **named)
    data = body.getvalue()
    return _MAGIC + f" {FORMAT} {hashlib.sha256(data).hexdigest()}\n".encode() + data


def _decode(data: bytes) -> TrainingState:
    line, _, body = data.partition(b"\n")
    words = line.split()
    if len(words) != 3 or words[0] != _MAGIC or not words[1].isdigit():
        raise ValueError("not a training state")
    if int(words[1]) > FORMAT:
        raise _NewerFormatError(
            f"was written by a newer cnnforge (state format {int(words[1])}, this one reads "
            f"{FORMAT}): update cnnforge"
        )
    if hashlib.sha256(body).hexdigest().encode() != words[2]:
        raise ValueError("its checksum does not match")
    check_arrays(io.BytesIO(body))
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        meta = parse_json(archive["meta"].tobytes())
        arrays = [archive[f"{number:05d}"] for number in range(meta["arrays"])]
    return _checked(
        TrainingState(
            arrays=arrays,
            epoch=meta["epoch"],
            batch=meta["batch"],
            sums=Sums(
                seconds=meta["sums"].pop("seconds"),
                values=meta["sums"],
                waiting=meta.get("waiting", 0.0),
            ),
            best=Best(meta["best"].pop("epoch"), meta["best"]) if meta["best"] else None,
            history=tuple(map(EpochMetrics.from_dict, meta["history"])),
            config=meta["config"],
            # States that older versions of cnnforge wrote lack these keys.
            callbacks=meta.get("callbacks", {}),
            stopped=meta.get("stopped", ""),
        )
    )


def _checked(state: TrainingState) -> TrainingState:
    """Return a state if its values have the right types, which a checksum does not tell."""
    best = {} if state.best is None else {"epoch": state.best.epoch, **state.best.values}
    numbers = [state.sums.seconds, state.sums.waiting, *state.sums.values.values(), *best.values()]
    numbers += [value for row in state.history for value in row.as_dict().values()]
    counts = [state.epoch, state.batch, *([state.best.epoch] if state.best else [])]
    if not all(_is_number(value) for value in [*numbers, *counts]):
        raise ValueError("a metric or a count is not a number")
    if not all(isinstance(count, int) and 0 <= count < 2**31 for count in counts):
        raise ValueError("an epoch or a batch is not a whole number from 0 up")
    if not all(isinstance(value, str | int | float | bool) for value in state.config.values()):
        raise ValueError("an option is not a plain value")
    if not isinstance(state.callbacks, dict) or not isinstance(state.stopped, str):
        raise ValueError("the states of callbacks have no names, or the reason is not a text")
    if any(array.dtype.kind in "USMm" for array in state.arrays):
        raise ValueError("an array does not have numbers")
    return state


def _is_number(value: object) -> bool:
    # A float may be NaN or infinite; a whole number may be too large for a float.
    is_small = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000
    return isinstance(value, float) or is_small
