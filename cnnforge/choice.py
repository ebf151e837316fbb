"""Which of the two computes each layer of a model faster: the plugin's kernel or the framework.

Measured once per layer, shape, versions and processor, and remembered in a file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import platformdirs

from cnnforge._files import write_text
from cnnforge._timing import interleave, ratio
from cnnforge._workloads import Workload, functions, model_workloads
from cnnforge.environment import backend, graphics, processor, versions
from cnnforge.plugin import LayerSpec
from cnnforge.registry import Registry

Implementation = Literal["numba", "keras"]
_VERSION = 1
_ROUNDS = 9
_SECONDS = 0.1
_PACKAGES = ("cnnforge", "keras", "tensorflow", "torch", "numba", "llvmlite", "numpy")


@dataclass(frozen=True)
class Choice:
    """What was chosen for one layer, and why.

    Attributes:
        implementation: The faster one; the plugin's where there is no telling them apart.
        ratio: How many times as fast as the reference the plugin's layer is; `None` where the two
            were not measured against each other.
        reason: `"measured"`, or why there was nothing to measure.
    """

    implementation: Implementation
    ratio: float | None
    reason: str = "measured"


def choose(
    model: keras.Model,
    layers: Registry[LayerSpec],
    cache_file: Path | None = None,
    *,
    batch_size: int = 64,
) -> dict[str, Implementation]:
    """Choose for every plugin layer of a model between its kernel and the framework's own.

    What is compared is a step of training, forward and backward, at the model's shapes. A layer
    that is used at several shapes gets what is faster on the whole.

    Args:
        model: A built model, as `cnnforge.conversion.forge` returns it; it is not touched.
        layers: The plugin layers.
        cache_file: Where choices are remembered; in the user's cache folder by default. A file
            that cannot be read or written costs time and nothing else.
        batch_size: The batch to measure with.

    Returns:
        The names of the plugin layers that stand for a stock layer, and what should compute each.
    """
    path = default_cache_file() if cache_file is None else cache_file
    known = _read(path)
    machine = _machine()
    found: dict[str, list[Choice]] = {}
    measured = {}
    for name, workload in model_workloads(model, layers, batch_size):
        key = hashlib.sha256(f"{machine}\n{workload.key}".encode()).hexdigest()
        if key not in known:
            known[key] = measured[key] = _measure(workload)
        found.setdefault(name, []).append(known[key])
    if measured:
        # Another process may have written in the meantime.
        _write(path, {**_read(path), **measured})
    return {name: _joint(choices) for name, choices in found.items()}


def default_cache_file() -> Path:
    """Where choices are remembered unless somebody says otherwise."""
    return Path(platformdirs.user_cache_dir("cnnforge", appauthor=False)) / "choices.json"


def _measure(workload: Workload) -> Choice:
    if workload.crashes:
        return Choice("numba", None, "the reference may corrupt memory")
    try:
        ours = functions(workload, workload.kind)
        ours.full()
    except Exception:
        # The framework's own layer says what is wrong with it, if it is wrong there too.
        return Choice("keras", None, "the kernel failed")
    try:
        reference = functions(workload, workload.reference)
        reference.full()
    except Exception:
        return Choice("numba", None, "the reference failed")
    _, times = interleave(
        {"numba": ours.full, "keras": reference.full},
        rounds=_ROUNDS,
        warm_up=1,
        seconds=_SECONDS / (2 * _ROUNDS),
        # A large layer needs more time for its three rounds; not for nine.
        limit=_SECONDS,
    )
    median, _, high = ratio(times["keras"], times["numba"])
    # The framework's only where it wins beyond the noise: in four rounds of five.
    return Choice("keras" if high < 1 else "numba", median)


def _joint(choices: list[Choice]) -> Implementation:
    if len({it.implementation for it in choices}) == 1:
        return choices[0].implementation
    product = 1.0
    for it in choices:
        product *= it.ratio or 1.0
    return "numba" if product >= 1 else "keras"


def _machine() -> str:
    """What a choice depends on besides the layer."""
    facts = [processor(), graphics(), backend(), versions(_PACKAGES)]
    return json.dumps(facts, sort_keys=True)


def _read(path: Path) -> dict[str, Choice]:
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        if stored["version"] != _VERSION:
            return {}
        return {key: _checked(Choice(**value)) for key, value in stored["choices"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _checked(choice: Choice) -> Choice:
    if choice.implementation not in ("numba", "keras"):
        raise ValueError(f"no implementation: {choice.implementation!r}")
    return choice


def _write(path: Path, choices: dict[str, Choice]) -> None:
    stored = {
        "version": _VERSION,
        "choices": {
            key: {"implementation": it.implementation, "ratio": it.ratio, "reason": it.reason}
            for key, it in sorted(choices.items())
        },
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(stored, indent=1) + "\n")
    except OSError:
        return  # Measured again next time.
