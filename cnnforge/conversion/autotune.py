"""Which of the two computes a layer faster: the plugin's kernel or the framework.

Measured once per layer, shape, versions and processor, and remembered in a file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numba
import numpy as np
import platformdirs

from cnnforge.conversion.workloads import Repeatable, Workload, functions
from cnnforge.utils.atomic_files import write_text
from cnnforge.utils.environment import backend, graphics, processor, versions
from cnnforge.utils.source_digest import sources_digest
from cnnforge.utils.timing import interleave, ratio

Implementation = Literal["numba", "keras"]
_VERSION = 2
_ROUNDS = 9
# What a shape may take once both are traced and compiled; a large layer gets three rounds.
_SECONDS = 0.06
# The framework's is taken where it is faster by this much: two runs of the same code differ by a
# few per cent.
_MARGIN = 0.05
# A kernel that wins by this in each of three rounds needs no more of them.
_CLEAR = 1.4
# All layers of one model together, compiling apart; the rest keep the plugin's kernel.
_BUDGET = 20.0
_TOLD_AFTER = 1.0
_PACKAGES = ("cnnforge", "keras", "tensorflow", "torch", "numba", "llvmlite", "numpy")
# Settings of the libraries that decide what is the faster one.
_SETTINGS = ("TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What was chosen for one layer, and why.

    Attributes:
        implementation: The framework's where it is faster by more than noise, else the plugin's.
        ratio: How many times as fast as the reference the plugin's layer is; `None` where the two
            were not measured against each other.
        reason: `"measured"`, or why there was nothing to measure.
        seconds: Those of the plugin's layer and of the reference; `None` as for `ratio`.
    """

    implementation: Implementation
    ratio: float | None
    reason: str = "measured"
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Remembered:
    """A choice in the file, and what it is about.

    Attributes:
        machine: A digest of the machine and the versions.
        layer: The plugin layer's qualified name.
        shape: (N, H, W, C) of its inputs.
        training: Whether forward and backward was measured, or forward alone.
        choice: The choice.
    """

    machine: str
    layer: str
    shape: tuple[int, ...]
    training: bool
    choice: Choice


class Chooser:
    """Chooses, and measures what nobody has measured before; a context manager.

    What is measured is written when the context ends. Python's and NumPy's random state are left as
    they were: a first training, which measures, draws the same numbers as a second one.

    Args:
        training: Whether a step of training is compared, forward and backward, or forward alone.
        cache_file: Where choices are remembered; in the user's cache folder by default. A file
            that cannot be read or written costs time and nothing else.
    """

    def __init__(self, *, training: bool = True, cache_file: Path | None = None) -> None:
        self._training = training
        self._path = default_cache_file() if cache_file is None else cache_file
        self._known = _read(self._path)
        self._measured: dict[str, Remembered] = {}
        self._machines = _Machines()
        self._begun = 0.0
        self._spent = 0.0
        self._told = False

    def __enter__(self) -> Chooser:
        """Return the chooser."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what was measured, also where something else has failed."""
        kept = f"remembered in {self._path}"
        if self._measured:
            # Another process may have written in the meantime; what it has said stays.
            error = _write(self._path, {**self._measured, **_read(self._path)})
            if error is not None:
                kept = f"not remembered: {self._path} cannot be written ({error})"
        if self._told:
            _log.info(
                "measured %d layers in %.1f s; %s",
                len(self._measured),
                time.perf_counter() - self._begun,
                kept,
            )

    def choose(self, workloads: Sequence[Workload]) -> Choice:
        """Choose for one layer.

        Args:
            workloads: The layer at each of its shapes; what is faster on the whole is chosen.

        Returns:
            The choice; the same every time, once it was measured.
        """
        if not workloads:
            return Choice("numba", None, "there is nothing to measure it against")
        choices = [self._one(it) for it in workloads]
        seconds = [it.seconds for it in choices if it.seconds is not None]
        if len(choices) == 1 or len(seconds) < len(choices):
            # One that cannot be computed by the one has to be computed by the other.
            return next((it for it in choices if it.seconds is None), choices[0])
        ours, reference = (sum(column) for column in zip(*seconds, strict=True))
        if len({it.implementation for it in choices}) == 1:
            return Choice(choices[0].implementation, reference / ours, seconds=(ours, reference))
        faster: Implementation = "keras" if ours > reference * (1 + _MARGIN) else "numba"
        return Choice(faster, reference / ours, seconds=(ours, reference))

    def _one(self, workload: Workload) -> Choice:
        if self._training and workload.crashes:
            return Choice("numba", None, "the framework's gradient may corrupt memory")
        machine = self._machines[workload.kind]
        key = _key(machine, workload, self._training)
        found = self._known.get(key) or self._measured.get(key)
        if found is not None:
            return found.choice
        if self._spent > _BUDGET:
            return Choice("numba", None, f"not measured: the layers before it took {_BUDGET:.0f} s")
        self._tell()
        with random_state_kept():
            choice, spent = _measure(workload, self._training)
        self._spent += spent
        if choice.ratio is not None:
            # What has failed may work the next time.
            self._measured[key] = Remembered(
                machine, workload.spec.qualified_name, workload.shape, self._training, choice
            )
        return choice

    def _tell(self) -> None:
        now = time.perf_counter()
        self._begun = self._begun or now
        if not self._told and now - self._begun > _TOLD_AFTER:
            self._told = True
            _log.info("measuring which implementation of each layer is faster, once on a machine")


def default_cache_file() -> Path:
    """Where choices are remembered unless somebody says otherwise."""
    return Path(platformdirs.user_cache_dir("cnnforge", appauthor=False)) / "choices.json"


def remembered(kinds: Mapping[str, type], cache_file: Path | None = None) -> list[Remembered]:
    """What is remembered for this machine and these versions.

    Args:
        kinds: The classes of the plugin layers, by qualified name.
        cache_file: As for `Chooser`.
    """
    machines = _Machines()
    here = {name: machines[kind] for name, kind in kinds.items()}
    found = _read(default_cache_file() if cache_file is None else cache_file).values()
    mine = [it for it in found if here.get(it.layer) == it.machine]
    return sorted(mine, key=lambda it: (it.layer, it.shape, it.training))


def _measure(workload: Workload, training: bool) -> tuple[Choice, float]:
    """The choice, and the seconds that it took besides tracing and compiling."""
    which = "full" if training else "forward"
    try:
        ours = getattr(functions(workload, workload.kind), which)
        ours()
    except Exception as error:
        # The framework's own layer says what is wrong with it, if it is wrong there too.
        return Choice("keras", None, f"the kernel failed: {type(error).__name__}"), 0.0
    try:
        reference = getattr(functions(workload, workload.reference), which)
        reference()
    except Exception as error:
        return Choice("numba", None, f"the framework failed: {type(error).__name__}"), 0.0
    begun = time.perf_counter()
    times = _interleaved(ours, reference)
    if _lost(times):
        # What else runs for a moment may decide once; hardly twice.
        times = _interleaved(ours, reference)
    median, _, _ = ratio(times["keras"], times["numba"])
    seconds = (float(np.median(times["numba"])), float(np.median(times["keras"])))
    choice = Choice("keras" if _lost(times) else "numba", median, seconds=seconds)
    return choice, time.perf_counter() - begun


def _interleaved(ours: Repeatable, reference: Repeatable) -> Mapping[str, np.ndarray]:
    return interleave(
        {"numba": ours, "keras": reference},
        rounds=_ROUNDS,
        warm_up=0,
        seconds=_SECONDS / (2 * _ROUNDS),
        limit=_SECONDS,
        enough=lambda so_far: bool((so_far["keras"] / so_far["numba"]).min() > _CLEAR),
    )[1]


def _lost(times: Mapping[str, np.ndarray]) -> bool:
    """Whether the framework's is faster beyond noise: mostly, in the middle, and at its best.

    Where other processes take a core now and then, the shortest times are those of rounds in which
    they did not; a kernel that halves its work evenly waits longer for a core that is taken.
    """
    median, _, high = ratio(times["keras"], times["numba"])
    best = times["keras"].min() / times["numba"].min()
    return high < 1 and max(median, best) < 1 / (1 + _MARGIN)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the random state of Python and NumPy as it was."""
    # Initializers draw their seeds from Python's generator.
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _key(machine: str, workload: Workload, training: bool) -> str:
    facts = [machine, training, workload.key if training else workload.forward_key]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class _Machines(dict[type, str]):
    """Of a plugin layer's class: a digest of what a choice depends on besides its workload."""

    def __init__(self) -> None:
        settings = {name: os.environ.get(name) for name in _SETTINGS}
        threads, cards = numba.get_num_threads(), graphics()
        self._facts = [processor(), cards, backend(), versions(_PACKAGES), settings, threads]
        if cards["gpu"] != "none":
            # What takes the kernels to a card; without it they are measured on the CPU.
            compilers = [shutil.which(name) for name in ("g++", "c++", "clang++")]
            settings = [os.environ.get(name) for name in ("CNNFORGE_TENSORFLOW_GPU", "CXX")]
            self._facts += [versions(("numba-cuda",)), compilers, settings]

    def __missing__(self, kind: type) -> str:
        text = json.dumps([*self._facts, sources_digest(kind)], sort_keys=True)
        self[kind] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self[kind]


def _read(path: Path) -> dict[str, Remembered]:
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        if stored["version"] != _VERSION:
            return {}
        return {key: _from_json(value) for key, value in stored["choices"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _from_json(value: Mapping[str, Any]) -> Remembered:
    ours, reference = value["seconds"]
    choice = Choice(value["implementation"], float(value["ratio"]), seconds=(ours, reference))
    if choice.implementation not in ("numba", "keras"):
        raise ValueError(f"no implementation: {choice.implementation!r}")
    about = (str(value["machine"]), str(value["layer"]), tuple(map(int, value["shape"])))
    return Remembered(*about, bool(value["training"]), choice)


def _write(path: Path, choices: Mapping[str, Remembered]) -> str | None:
    """Write choices; return why they could not be written: then they are measured again."""
    rows = {}
    for key, it in sorted(choices.items()):
        row = asdict(it)
        row |= row.pop("choice")
        del row["reason"]  # Only what was measured is remembered.
        rows[key] = row
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"version": _VERSION, "choices": rows}, indent=1) + "\n")
    except OSError as error:
        return error.strerror or str(error)
    return None
