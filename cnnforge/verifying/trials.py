"""Train a copy of a run for a few steps. This module runs in the processes of a check."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge import training
from cnnforge.data import Dataset, Samples, SomeSamples, prefetch, samples_of_epoch
from cnnforge.errors import CnnforgeError
from cnnforge.model_files.trust import trusting_models
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.runs import STATE_FOLDER, requirements
from cnnforge.training import BatchesDone, Event, Session, StateStore, TrainingState, loop
from cnnforge.utils.keras_graph import all_layers
from cnnforge.utils.watched_layers import describe_layer
from cnnforge.verifying.traces import Recorder, recorded

# Max number of validation images. An epoch may end among the steps, and the whole validation of
# large data would take long.
_MAX_VALIDATION = 256
# A run with fewer steps left is trained from its beginning instead.
_MIN_STEPS = 3

Load = Callable[[Sequence[str]], Plugins]


def answer(request: Mapping[str, Any], load: Load) -> dict[str, Any]:
    """Do what a request asks for.

    Args:
        request: Values by name. `original`, `data`, `plugin`, `trust` and `steps` belong to every
            request, and `copies`, the paths of copies of the run. Each is trained. `last` is the
            step at which training ends, and `kill` the step after which this process kills itself.
            With `expected`, the path of another copy, its state is compared with the result. With
            `record`, a folder, the values of all steps are recorded there.
        load: Function that loads plugins.

    Returns:
        `trials`, a result for each copy, or `error` and `code`, an error and its exit code.
    """
    try:
        with trusting_models(bool(request["trust"])):
            trials = [
                _Trial(request, Path(path), load).result(number)
                for number, path in enumerate(request["copies"])
            ]
        return {"trials": trials}
    except CnnforgeError as error:
        return {"error": _for_user(request, str(error)), "code": error.exit_code}


def _for_user(request: Mapping[str, Any], message: str) -> str:
    """Name the run in a message, and not its copies, which the user does not know."""
    for path in request["copies"]:
        message = message.replace(path, request["original"])
    return message


class _Trial:
    """A few steps of a training.

    Args:
        request: See `answer`.
        path: A copy of the run.
        load: Function that loads plugins.
    """

    def __init__(self, request: Mapping[str, Any], path: Path, load: Load) -> None:
        self._request, self._load = request, load
        self.session = self._opened(path)
        self.batches = -(-len(self.session.dataset.train) // self.session.options.batch_size)
        self.total = self.batches * self.session.options.epochs
        self.first = self._position(self.session.state)
        left = 0 if self.session.finished else self.total - self.first
        if self.first and left < _MIN_STEPS and "last" not in request:
            shutil.rmtree(self.session.run.states)
            self.session, self.first = self._opened(path), 0
        self.last = request.get("last") or min(self.first + request["steps"], self.total)
        self._done = self.first

    def result(self, number: int) -> dict[str, Any]:
        """Train, and return the result as plain values."""
        request, session = self._request, self.session
        recorder = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(_single_steps())
            if "record" in request:
                recorder = Recorder(Path(request["record"]), number)
                stack.enter_context(recorded(recorder))
            state = session.train([self._listen], lambda: self._done >= self.last).state
        facts = {
            "first": self.first,
            "last": self._done,
            # A callback may end the training before.
            "limit": self.last,
            "batches": self.batches,
            "batch_size": session.options.batch_size,
            "model": session.options.model,
            "notes": [_for_user(request, note) for note in self._notes],
            "weights": state.digest(),
        }
        if recorder is not None:
            facts["steps"] = recorder.steps
            facts["owners"] = _owners(session)
        if "expected" in request:
            expected = StateStore(Path(request["expected"])).load()[0]
            facts["difference"] = None if expected is None else _compare(session, expected, state)
        return facts

    def _opened(self, path: Path) -> Session:
        # Nothing is written outside of the copy.
        given = {"cache": False, "tensorboard": False, "plugin": tuple(self._request["plugin"])}
        if self._request["data"] is not None:
            given["data"] = self._request["data"]
        _, damaged = StateStore(path / STATE_FOLDER).load()
        session = training.resume(path, given, None, self._load)
        changed = requirements.check(session.run, session.plugins.records, model_only=False)
        # The user has seen what else there is to note about the data and the model.
        self._notes = [*damaged, *map(requirements.describe_change, changed)]
        devices = session.state.config.get("devices", 1) if session.state else 1
        if devices != 1:
            self._notes.append(f"the run was trained on {devices} devices, and is checked on one")
        session.options = replace(session.options, log=None)
        session.dataset = _cheap(session.dataset)
        return session

    def _position(self, state: TrainingState | None) -> int:
        return 0 if state is None else state.epoch * self.batches + state.batch

    def _listen(self, event: Event) -> None:
        if isinstance(event, BatchesDone):
            self._done = (event.epoch - 1) * self.batches + event.batch
            if self._done == self._request.get("kill"):
                os.kill(os.getpid(), signal.SIGKILL)


class _EachEpoch:
    """Training samples for which the loop keeps no features.

    The features of all images would be computed before the first step of a frozen backbone.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.names = samples.names

    def __len__(self) -> int:
        return len(self._samples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)

    def at_epoch(self, epoch: int) -> Samples:
        """Return the samples of an epoch."""
        return samples_of_epoch(self._samples, epoch)


def _cheap(dataset: Dataset) -> Dataset:
    """Return the dataset with few validation images. The training images are the same."""
    count = min(len(dataset.validation), _MAX_VALIDATION)
    few = SomeSamples(dataset.validation, np.arange(count))
    return replace(dataset, train=_EachEpoch(dataset.train), validation=few)


@contextlib.contextmanager
def _single_steps() -> Iterator[None]:
    """Make each call of the trainer one step, and save the state after each step."""
    before = prefetch.MAX_BYTES, loop._SAVE_SECONDS
    prefetch.MAX_BYTES, loop._SAVE_SECONDS = 1, -1.0
    try:
        yield
    finally:
        prefetch.MAX_BYTES, loop._SAVE_SECONDS = before


def _compare(
    session: Session, expected: TrainingState, found: TrainingState
) -> dict[str, Any] | None:
    """Describe the first variable that differs between two states; `None` if none does."""
    pairs = list(zip(expected.arrays, found.arrays, strict=False))
    different = [index for index, (a, b) in enumerate(pairs) if a.tobytes() != b.tobytes()]
    if not different:
        return None
    first = different[0]
    before, after = (np.asarray(array, np.float64) for array in pairs[first])
    variables = session.model.variables
    path = f"variable {first - len(variables) + 1} of the optimizer"
    if first < len(variables):
        path = variables[first].path
    layer, plugin = _owners(session).get(path, ["", ""])
    return {
        "variable": path,
        "layer": layer,
        "plugin": plugin,
        "differing": len(different),
        "variables": len(pairs),
        "max": float(np.abs(before - after).max()),
    }


def _owners(session: Session) -> dict[str, list[str]]:
    """Find the layer of each variable, and the plugin of each layer.

    Returns:
        Two texts for the path of each variable, and for the description of each layer: the
        description of the layer, and the name of its plugin. The name is empty for layers of Keras.
        For a layer that no plugin declares, it is the name of its module.
    """
    plugins = {spec.target: spec.plugin for spec in session.plugins.layers.values()}
    owners: dict[str, list[str]] = {}
    smallest: dict[str, int] = {}
    for layer in all_layers(session.model):
        kind = type(layer)
        plugin = ""
        if kind.__module__.partition(".")[0] != "keras":
            plugin = plugins.get(f"{kind.__module__}:{kind.__qualname__}", kind.__module__)
        text = describe_layer(layer)
        owners[text] = [text, plugin]
        for variable in layer.variables:
            # A model that contains the layer has the variable too.
            if len(layer.variables) <= smallest.get(variable.path, len(layer.variables)):
                smallest[variable.path] = len(layer.variables)
                owners[variable.path] = [text, plugin]
    return owners
