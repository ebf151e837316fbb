"""Measure whether a plugin's kernel or the framework computes a layer faster.

A layer is measured once for each shape. The results are kept in a file. The layer is measured again
if the processor, the graphics card, the version of a package or a setting changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numba
import numpy as np

from cnnforge.conversion.matching import layer_classes
from cnnforge.conversion.workloads import Repeatable, Workload, timed_passes
from cnnforge.plugin import LayerSpec
from cnnforge.utils.atomic_files import write_text
from cnnforge.utils.cache_folder import cache_folder
from cnnforge.utils.environment import backend, graphics, processor, versions
from cnnforge.utils.source_digest import sources_digest
from cnnforge.utils.structured_text import MALFORMED, read_json
from cnnforge.utils.timing import interleave, ratio

Implementation = Literal["numba", "keras"]
_VERSION = 2
_ROUNDS = 9
# Max seconds to measure a layer at one shape, without tracing and compiling. Three rounds are
# measured even if they take longer.
_SECONDS = 0.06
# The framework's layer is used only if it is faster by more than this fraction, since two runs of
# the same code differ by a few per cent.
_MARGIN = 0.05
# The measurement ends after three rounds if the kernel is faster by this factor in each of them.
_CLEAR = 1.4
# Max seconds to measure all layers of a model, without compiling. After this time, no further layer
# is measured, and the remaining layers use the plugin's kernel.
_MAX_SECONDS = 20.0
_MESSAGE_AFTER = 1.0
_PACKAGES = ("cnnforge", "keras", "tensorflow", "torch", "numba", "llvmlite", "numpy")
# Environment variables that affect the speed of the libraries.
_SETTINGS = ("TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The implementation of one layer, and the reason.

    Attributes:
        implementation: ``numba`` for the plugin's layer, ``keras`` for the framework's layer.
        ratio: Time of the framework's layer divided by that of the plugin's layer; `None` if they
            were not measured.
        reason: `"measured"`, or the reason for a choice without a measurement.
        seconds: Times of the plugin's layer and of the framework's layer, in seconds; `None` if
            `ratio` is `None`.
    """

    implementation: Implementation
    ratio: float | None
    reason: str = "measured"
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class CachedMeasurement:
    """A choice in the cache file, with the layer and the machine that it was measured for.

    Attributes:
        machine: Digest of the machine, the versions, the settings and the layer's source code.
        layer: The plugin layer's qualified name.
        shape: Shape of the inputs, including the batch, such as (N, H, W, C).
        training: `True` if forward and backward pass were measured, `False` if only the forward
            pass was measured.
        choice: The choice.
    """

    machine: str
    layer: str
    shape: tuple[int, ...]
    training: bool
    choice: Choice


class Autotuner:
    """Chooses between the plugin's and the framework's implementation of layers.

    A layer is measured if the cache file has no measurement of it. Use the tuner as a context
    manager; the file is written at the end of the context. A measurement does not change the random
    state of Python and NumPy. So a training that follows draws the same numbers whether or not
    layers are measured.

    Args:
        training: `True` to measure forward and backward pass, `False` to measure only the forward
            pass.
        cache_file: File of the measurements; by default one in the user's cache folder. If it
            cannot be read or written, layers are measured again, and nothing else changes.
    """

    def __init__(self, *, training: bool = True, cache_file: Path | None = None) -> None:
        self._training = training
        self._path = default_cache_file() if cache_file is None else cache_file
        self._known = _read(self._path)
        self._measured: dict[str, CachedMeasurement] = {}
        self._machines = _Machines()
        self._begun = 0.0
        self._spent = 0.0
        self._told = False

    def __enter__(self) -> Autotuner:
        """Return this object, for the `with` statement."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the new measurements to the cache file, also if the block has raised an error."""
        kept = f"remembered in {self._path}"
        if self._measured:
            # Another process may have written the file in the meantime. So read the file again, and
            # keep the measurements of that process.
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
        """Choose the implementation of one layer.

        Args:
            workloads: One workload for each shape of the layer's inputs. The choice is the same for
                all shapes.

        Returns:
            The choice. Once the layer has been measured at all shapes, later calls return the same
            choice without measuring again.
        """
        if not workloads:
            return Choice("numba", None, "there is nothing to measure it against")
        choices = [self._choose_one(workload) for workload in workloads]
        seconds = [choice.seconds for choice in choices if choice.seconds is not None]
        if len(choices) == 1 or len(seconds) < len(choices):
            # A choice has no times if, for instance, one of the implementations has failed at the
            # shape. Such a choice decides for all shapes.
            return next((choice for choice in choices if choice.seconds is None), choices[0])
        ours, reference = (sum(column) for column in zip(*seconds, strict=True))
        if len({choice.implementation for choice in choices}) == 1:
            return Choice(choices[0].implementation, reference / ours, seconds=(ours, reference))
        faster: Implementation = "keras" if ours > reference * (1 + _MARGIN) else "numba"
        return Choice(faster, reference / ours, seconds=(ours, reference))

    def _choose_one(self, workload: Workload) -> Choice:
        if self._training and workload.reference_is_unsafe:
            return Choice("numba", None, "the framework's gradient may corrupt memory")
        machine = self._machines[workload.kind]
        key = _key(machine, workload, self._training)
        found = self._known.get(key) or self._measured.get(key)
        if found is not None:
            return found.choice
        if self._spent > _MAX_SECONDS:
            reason = f"not measured: the layers before it took {_MAX_SECONDS:.0f} s"
            return Choice("numba", None, reason)
        self._announce()
        with random_state_kept():
            choice, spent = _measure(workload, self._training)
        self._spent += spent
        if choice.ratio is not None:
            # A failure is not written to the file, so that the next run tries the layer again.
            self._measured[key] = CachedMeasurement(
                machine, workload.spec.qualified_name, workload.shape, self._training, choice
            )
        return choice

    def _announce(self) -> None:
        now = time.perf_counter()
        self._begun = self._begun or now
        if not self._told and now - self._begun > _MESSAGE_AFTER:
            self._told = True
            _log.info("measuring which implementation of each layer is faster, once for each shape")


def default_cache_file() -> Path:
    """Return the file that keeps measurements by default."""
    return cache_folder() / "choices.json"


def cached_measurements(
    specs: Iterable[LayerSpec], cache_file: Path | None = None
) -> list[CachedMeasurement]:
    """List the measurements in the cache file that were made on this machine with these versions.

    Args:
        specs: Specs of the plugin layers.
        cache_file: File of the measurements, as for `Autotuner`.
    """
    machines = _Machines()
    here = {spec.qualified_name: machines[kind] for spec, kind in layer_classes(specs)}
    found = _read(default_cache_file() if cache_file is None else cache_file).values()
    mine = [cached for cached in found if here.get(cached.layer) == cached.machine]
    return sorted(mine, key=lambda cached: (cached.layer, cached.shape, cached.training))


def _measure(workload: Workload, training: bool) -> tuple[Choice, float]:
    """Measure one layer at one shape.

    Returns two values: the choice, and the number of seconds that were spent on measuring, without
    tracing and compiling.
    """
    which = "full" if training else "forward"
    try:
        ours = getattr(timed_passes(workload, workload.kind), which)
        ours()
    except Exception as error:
        # Choose the framework's layer. If the configuration of the layer is wrong, that layer later
        # raises an error that explains what is wrong.
        return Choice("keras", None, f"the kernel failed: {type(error).__name__}"), 0.0
    try:
        reference = getattr(timed_passes(workload, workload.reference), which)
        reference()
    except Exception as error:
        return Choice("numba", None, f"the framework failed: {type(error).__name__}"), 0.0
    begun = time.perf_counter()
    times = _interleaved(ours, reference)
    if _lost(times):
        # Another process may have slowed the kernel in the first measurement, so measure again.
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
    """Return whether the framework's layer is faster by more than noise.

    It must be faster by the medians and by the min times. Another process may use a core in some
    rounds. This slows the kernel more than the framework, because the kernel divides its work
    evenly over the threads and waits for all of them. The min times are from rounds in which no
    other process used a core.
    """
    median, _, high = ratio(times["keras"], times["numba"])
    best = times["keras"].min() / times["numba"].min()
    return high < 1 and max(median, best) < 1 / (1 + _MARGIN)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random state of Python and NumPy at the end of the block."""
    # The initializers of weights draw their seeds from Python's generator, so restore it too.
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
    """Maps the class of a plugin layer to a digest of everything that its speed depends on.

    The speed depends on the machine, the versions of packages, settings, and the layer's source.
    """

    def __init__(self) -> None:
        settings = {name: os.environ.get(name) for name in _SETTINGS}
        threads, cards = numba.get_num_threads(), graphics()
        self._facts = [processor(), cards, backend(), versions(_PACKAGES), settings, threads]
        if cards["gpu"] != "none":
            # These determine whether the kernels run on the graphics card or on the CPU.
            compilers = [shutil.which(name) for name in ("g++", "c++", "clang++")]
            settings = [os.environ.get(name) for name in ("CNNFORGE_TENSORFLOW_GPU", "CXX")]
            self._facts += [versions(("numba-cuda",)), compilers, settings]

    def __missing__(self, kind: type) -> str:
        text = json.dumps([*self._facts, sources_digest(kind)], sort_keys=True)
        self[kind] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self[kind]


def _read(path: Path) -> dict[str, CachedMeasurement]:
    try:
        stored: Any = read_json(path)
        if stored["version"] != _VERSION:
            return {}
        return {key: _from_json(value) for key, value in stored["choices"].items()}
    except (OSError, *MALFORMED):
        return {}


def _from_json(value: Mapping[str, Any]) -> CachedMeasurement:
    ours, reference = value["seconds"]
    choice = Choice(value["implementation"], float(value["ratio"]), seconds=(ours, reference))
    if choice.implementation not in ("numba", "keras"):
        raise ValueError(f"no implementation: {choice.implementation!r}")
    about = (str(value["machine"]), str(value["layer"]), tuple(map(int, value["shape"])))
    return CachedMeasurement(*about, bool(value["training"]), choice)


def _write(path: Path, choices: Mapping[str, CachedMeasurement]) -> str | None:
    """Write choices to the cache file. Return `None`, or the reason why they cannot be written."""
    rows = {}
    for key, cached in sorted(choices.items()):
        row = asdict(cached)
        row |= row.pop("choice")
        del row["reason"]  # It is always "measured".
        rows[key] = row
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"version": _VERSION, "choices": rows}, indent=1) + "\n")
    except OSError as error:
        return error.strerror or str(error)
    return None
