"""Open the weights of a run or a file, from which a model can be initialized."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.errors import CnnforgeError, RunError, UsageError, one_line
from cnnforge.model_files.content import check_weights_file
from cnnforge.model_files.trust import TRUST, models_are_trusted
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction.keras_model import load_model
from cnnforge.runs import CONFIG, RunDirectory, requirements
from cnnforge.tasks import Task, open_task
from cnnforge.utils.keras_graph import all_layers
from cnnforge.utils.structured_text import MALFORMED

_KERAS, _WEIGHTS = ".keras", ".weights.h5"


@dataclass(frozen=True, slots=True)
class WeightedLayer:
    """A layer with its own weights, without those of layers inside it.

    Attributes:
        path: Names of the models and layers around it, and its own name.
        names: Names of the weights, or their indices as text if they have no names of their own.
        values: Weights: variables of the model, or arrays of a file.
        named: Whether `names` are names; if not, weights are found by their index.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    named: bool = True

    @property
    def name(self) -> str:
        """Name of the layer; empty for the model itself."""
        return self.path[-1] if self.path else ""


@dataclass(frozen=True, slots=True)
class Source:
    """The weights of a run or a file.

    Attributes:
        name: Path that the user gave.
        layers: Layers that have weights.
        image_shape: (H, W, C) of the model's images; `None` if unknown.
        model: Name of the model; empty if unknown.
        task: Task of the run; `None` if unknown.
    """

    name: str
    layers: Sequence[WeightedLayer]
    image_shape: tuple[int, int, int] | None = None
    model: str = ""
    task: Task | None = None


def open_source(path: Path, plugins: Plugins, option: str = "--init-from") -> Source:
    """Read the weights of a run or a file.

    Args:
        path: A run directory, a `.keras` file or a `.weights.h5` file.
        plugins: All plugins.
        option: Name of the command-line option, for error messages.

    Raises:
        UsageError: The file is missing or has another format.
        RunError: The file is damaged.
    """
    name = str(path)
    if not path.exists():
        raise UsageError(f"{option}: there is no file or run {path}")
    if path.is_dir():
        run = RunDirectory.open(path)
        requirements.check(run, plugins.records, model_only=True)
        return _run_source(run, run.model, name, plugins)
    if path.name.endswith(_WEIGHTS):
        if not models_are_trusted():
            check_weights_file(path)
        layers = list(_layers_in(path))
        # Layers of one name inside a custom layer are in another order in the file than in the
        # model.
        counts = Counter(layer.path for layer in layers)
        return Source(name, [layer for layer in layers if counts[layer.path] == 1])
    old = path.suffix in (".h5", ".hdf5")
    if path.suffix != _KERAS and not (old and models_are_trusted()):
        convert = f"; such a file may contain code: {TRUST}" if old else ""
        raise UsageError(
            f"{option} takes a run, or a {_KERAS} or {_WEIGHTS} file of Keras, not {path}{convert}"
        )
    if (path.parent / CONFIG).is_file():
        return _run_source(RunDirectory(path.parent), path, name, plugins)
    return _model_source(load_model(path, plugins.layers), name)


def _run_source(run: RunDirectory, path: Path, name: str, plugins: Plugins) -> Source:
    try:
        task = open_task(run, plugins.tasks)
    except CnnforgeError:
        # Weights can be taken without it.
        task = None
    model = str(run.read_config()[1].get("model", "")).partition(":")[0].rpartition("/")[2]
    return _model_source(load_model(path, plugins.layers), name, model, task)


def _model_source(
    model: keras.Model, name: str, model_name: str = "", task: Task | None = None
) -> Source:
    shape = getattr(model, "input_shape", None)
    known = None
    if isinstance(shape, tuple) and len(shape) == 4 and None not in shape[1:]:
        known = shape[1:]
    layers = [
        WeightedLayer(layer.path, layer.names, tuple(map(_array, layer.values)), layer.named)
        for layer in weighted_layers(model)
    ]
    return Source(name, layers, known, model_name, task)


def weighted_layers(model: keras.Model) -> list[WeightedLayer]:
    """List the layers of a model that have weights of their own.

    Args:
        model: Any model.
    """
    paths: dict[int, tuple[str, ...]] = {id(model): ()}
    owners: dict[int, Any] = {}
    layers = all_layers(model)
    for layer in layers:
        # A layer precedes the layers inside it, so the innermost owner and path remain.
        for inner in all_layers(layer)[1:]:
            paths[id(inner)] = (*paths[id(layer)], inner.name)
        owners |= {id(variable): layer for variable in layer.weights}
    found = []
    for layer in layers:
        own = tuple(variable for variable in layer.weights if owners[id(variable)] is layer)
        names = tuple(variable.name for variable in own)
        # Keras names a weight without a name variable, variable_1, ...: these names depend on what
        # was built before.
        named = len(set(names)) == len(names) and not any(stem(n) == "variable" for n in names)
        if own:
            indices = tuple(map(str, range(len(own))))
            found.append(WeightedLayer(paths[id(layer)], names if named else indices, own, named))
    return _distinct(found)


def _distinct(layers: Sequence[WeightedLayer]) -> list[WeightedLayer]:
    """Number the layers after the first that have the same path, as inside a custom layer."""
    counts: Counter[tuple[str, ...]] = Counter()
    found = []
    for layer in layers:
        counts[layer.path] += 1
        number = counts[layer.path]
        path = (*layer.path[:-1], f"{layer.name}#{number}") if number > 1 else layer.path
        found.append(replace(layer, path=path))
    return found


def _layers_in(path: Path) -> Iterator[WeightedLayer]:
    """Read the layers that have weights from a `.weights.h5` file.

    Raises:
        RunError: The file is damaged.
    """
    import h5py  # Keras needs it too, but only for files.

    def read(group: Any, outer: tuple[str, ...], is_root: bool) -> Iterator[WeightedLayer]:
        own = group.get("vars")
        name = None if own is None else own.attrs.get("name")
        here = outer if is_root or name is None else (*outer, str(name))
        if own is not None and len(own):
            numbers = tuple(sorted(own, key=int))
            yield WeightedLayer(here, numbers, tuple(own[number][()] for number in numbers), False)
        for key, inner in group.items():
            # The seeds of a layer are not weights. The group `layers` has no `vars`.
            if isinstance(inner, h5py.Group) and key != "vars" and stem(key) != "seed_generator":
                yield from read(inner, here, False)

    try:
        with h5py.File(path) as file:
            yield from read(file, (), True)
    except (OSError, RuntimeError, *MALFORMED) as error:
        raise RunError(f"{path} cannot be read as weights of Keras: {one_line(error)}") from error


def stem(name: str) -> str:
    """Return a name without the number that Keras appends to it."""
    return re.sub(r"_\d+$", "", name)


def _array(variable: keras.Variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))
