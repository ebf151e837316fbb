"""Make the callbacks and augmentations that the user names, and call callbacks after each epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import keras

from cnnforge.callbacks import Callback, FinishedEpoch
from cnnforge.data import Augmentation, Composing, Mixing
from cnnforge.distributed.workers import ALONE, Workers
from cnnforge.errors import CnnforgeError, PluginError, UsageError, one_line
from cnnforge.plugin import AugmentationSpec, CallbackSpec, Spec
from cnnforge.plugin_host.registry import Registry
from cnnforge.tasks import Task
from cnnforge.training.events import EpochMetrics
from cnnforge.training.optimizers import LearningRate

SpecT = TypeVar("SpecT", bound=Spec)


class EpochCallbacks:
    """Calls all callbacks of a run after each epoch.

    Args:
        callbacks: Callbacks by name.
        rate: The learning rate, which a callback may set.
        model: The model that is trained.
        epochs: Total number of epochs of the run.
        folder: The run directory, or `None`.
        monitor: Name of the metric that selects the best epoch.
        workers: The workers. The callbacks of the first one are called.

    Attributes:
        rate: The learning rate; another phase of training has another one.
    """

    def __init__(
        self,
        callbacks: Mapping[str, Callback],
        rate: LearningRate,
        model: keras.Model,
        epochs: int,
        folder: Path | None,
        monitor: str,
        workers: Workers = ALONE,
    ) -> None:
        self._callbacks, self._monitor = callbacks, monitor
        self._workers = workers
        self.rate, self._model, self._epochs, self._folder = rate, model, epochs, folder

    def restore(self, states: Mapping[str, Any]) -> None:
        """Restore the state of each callback that has a saved state.

        Args:
            states: Saved states by the names of the callbacks.
        """
        for name, callback in self._callbacks.items():
            if name in states:
                _guarded("callback", name, partial(callback.restore, states[name]))

    def epoch_ended(self, metrics: EpochMetrics, best: bool) -> tuple[dict[str, Any], str]:
        """Call all callbacks after an epoch, and set the learning rate on all workers alike.

        Args:
            metrics: Metrics of the epoch.
            best: Whether the epoch is the best one so far.

        Returns:
            The states of the callbacks by name, and the reason to end training, or `""`.

        Raises:
            PluginError: A callback failed, or its state does not consist of plain values.
        """
        found = self._call(metrics, best) if self._workers.is_first else None
        states, stopped, rates = self._workers.from_first(found)
        for value in () if self._workers.is_first else rates:
            self.rate.next = value
        return states, stopped

    def _call(
        self, metrics: EpochMetrics, best: bool
    ) -> tuple[dict[str, Any], str, Sequence[float]]:
        """Return what `epoch_ended` returns, and the learning rates that callbacks have set."""
        rate, rates = self.rate, []

        def set_rate(value: float) -> None:
            rate.next = value
            rates.append(float(value))

        epoch = FinishedEpoch(
            metrics=metrics,
            epochs=self._epochs,
            best=best,
            monitor=self._monitor,
            model=self._model,
            folder=self._folder,
            read_learning_rate=lambda: rate.next,
            write_learning_rate=set_rate,
        )
        states = {}
        for name, callback in self._callbacks.items():
            _guarded("callback", name, partial(callback.epoch_ended, epoch))
            state = _guarded("callback", name, callback.state)
            try:
                states[name] = json.loads(json.dumps(dict(state)))
            except (TypeError, ValueError) as error:
                raise PluginError(
                    f"the state of the callback {name!r} cannot be saved: {error}; its plugin must "
                    "return a dictionary of numbers, strings, lists and dictionaries"
                ) from error
        return states, epoch.stopped, rates


def qualified(references: Sequence[str], registry: Registry[Any]) -> tuple[str, ...]:
    """Replace short names in references by qualified names, `PLUGIN/NAME`.

    Args:
        references: References `NAME` or `NAME:ARGUMENT`, with short or qualified names.
        registry: Registry in which the names are looked up, for instance that of the callbacks.

    Returns:
        The same references with qualified names.

    Raises:
        UsageError: A name is unknown or ambiguous, or a reference is given twice.
    """
    names = []
    for reference in references:
        name, colon, argument = reference.partition(":")
        names.append(registry[name].qualified_name + colon + argument)
        if names.count(names[-1]) > 1:
            raise UsageError(f"the {registry.kind} {reference!r} is given twice: leave one out")
    return tuple(names)


def make_callbacks(
    references: Sequence[str], registry: Registry[CallbackSpec]
) -> dict[str, Callback]:
    """Make callbacks from references `NAME` or `NAME:ARGUMENT`.

    Returns:
        The callbacks, with the references as keys.

    Raises:
        UsageError: A name is unknown, or an argument is not valid.
        PluginError: A plugin fails, or does not return a callback.
    """
    made = {name: _make(name, registry) for name in references}
    for name, callback in made.items():
        if not isinstance(callback, Callback):
            raise PluginError(
                f"the callback {name!r} is a {type(callback).__name__}: its plugin must return a "
                "cnnforge.callbacks.Callback"
            )
    return made


def make_augmentations(
    references: Sequence[str], registry: Registry[AugmentationSpec]
) -> tuple[tuple[str, Augmentation], ...]:
    """Make augmentations from references `NAME` or `NAME:ARGUMENT`.

    Returns:
        A pair for each reference, in the same order: the reference and the augmentation.

    Raises:
        UsageError: A name is unknown, or an argument is not valid.
        PluginError: A plugin fails, or returns neither a function nor a `Mixing` nor a `Composing`.
    """
    made = tuple((name, _make(name, registry)) for name in references)
    for name, augment in made:
        if not (callable(augment) or isinstance(augment, Mixing | Composing)):
            raise PluginError(
                f"the augmentation {name!r} is a {type(augment).__name__}: its plugin must return "
                "a function of images and draws, or an object with the methods partners and mix, "
                "or partners and compose"
            )
    return made


def check_mixing(augmentations: Sequence[tuple[str, Augmentation]], task: Task) -> None:
    """Check that a task can mix or compose targets, if an augmentation does so with images.

    Raises:
        UsageError: It cannot. The message names the augmentation.
    """
    for name, augment in augmentations:
        if isinstance(augment, Mixing) and type(task).mixed is Task.mixed:
            does, do = "mixes", "mix"
        elif isinstance(augment, Composing) and type(task).composed is Task.composed:
            does, do = "composes", "compose"
        else:
            continue
        raise UsageError(
            f"the augmentation {name!r} {does} images, and the task {type(task).__name__} cannot "
            f"{do} their targets: leave this augmentation out"
        )


def mirror_notes(augment: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note if digits or letters are flipped left to right.

    Args:
        augment: The augmentations, `NAME` or `NAME:ARGUMENT`.
        classes: Names of the classes. Only names of one character show that the images may be
            digits or letters.

    Returns:
        A tuple of one note, or an empty tuple.
    """
    if "flip" not in augment or not classes or any(len(name) > 1 for name in classes):
        return ()
    others = [f"--augment {each}" for each in augment if each != "flip"]
    return (
        "the names of the classes are single characters: if the images show digits or letters, do "
        f"not flip them left to right, but train with {' '.join(others) or '--augment none'}",
    )


def _make(reference: str, registry: Registry[SpecT]) -> Any:
    name, colon, argument = reference.partition(":")
    make = registry[name].load()
    try:
        return _guarded(registry.kind, name, lambda: make(argument if colon else None), ValueError)
    except ValueError as error:
        raise UsageError(f"the {registry.kind} {reference!r}: {error}") from error


def _guarded(kind: str, name: str, call: Callable[[], Any], *through: type[Exception]) -> Any:
    """Call code of a plugin, and convert its exceptions to a `PluginError` that contains `name`.

    A `CnnforgeError` is raised unchanged, and so is an exception of one of the types `through`.
    """
    try:
        return call()
    except (CnnforgeError, *through):
        raise
    except Exception as error:
        raise PluginError(f"the {kind} {name!r} failed: {one_line(error)}") from error
