"""Callbacks and augmentations: from what the user names to what the loop calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras

from cnnforge.callbacks import Callback, FinishedEpoch
from cnnforge.data import Augment
from cnnforge.errors import CnnforgeError, PluginError, UsageError, one_line
from cnnforge.plugin import AugmentationSpec, CallbackSpec, Spec
from cnnforge.plugin_host.registry import Registry
from cnnforge.training.events import EpochMetrics
from cnnforge.training.optimizers import LearningRate

SpecT = TypeVar("SpecT", bound=Spec)


class EpochCallbacks:
    """The callbacks of a run.

    Args:
        callbacks: By name.
        rate: The learning rate, which a callback may set.
        model: The model that is trained.
        epochs: How many epochs the run has.
        folder: The run directory.
        monitor: Name of the metric that decides which epoch is the best one.
    """

    def __init__(
        self,
        callbacks: Mapping[str, Callback],
        rate: LearningRate,
        model: keras.Model,
        epochs: int,
        folder: Path | None,
        monitor: str,
    ) -> None:
        self._callbacks, self._monitor = callbacks, monitor
        self._rate, self._model, self._epochs, self._folder = rate, model, epochs, folder

    def restore(self, states: Mapping[str, Any]) -> None:
        """Hand to each callback what it wanted to remember."""
        for name, callback in self._callbacks.items():
            if name in states:
                _guarded("callback", name, lambda it=callback, of=name: it.restore(states[of]))

    def epoch_ended(self, metrics: EpochMetrics, best: bool) -> tuple[dict[str, Any], str]:
        """Call the callbacks.

        Args:
            metrics: Those of the epoch.
            best: Whether it is the best one so far.

        Returns:
            What each wants to remember, by name, and why training is to end, or "".

        Raises:
            PluginError: One failed, or what it wants to remember is more than plain values.
        """
        rate = self._rate
        epoch = FinishedEpoch(
            metrics=metrics,
            epochs=self._epochs,
            best=best,
            monitor=self._monitor,
            model=self._model,
            folder=self._folder,
            read_learning_rate=lambda: rate.next,
            write_learning_rate=lambda value: setattr(rate, "next", value),
        )
        remembered = {}
        for name, callback in self._callbacks.items():
            _guarded("callback", name, lambda it=callback: it.epoch_ended(epoch))
            state = _guarded("callback", name, callback.state)
            try:
                remembered[name] = json.loads(json.dumps(dict(state)))
            except (TypeError, ValueError) as error:
                raise PluginError(
                    f"the state of the callback {name!r} cannot be saved: {error}; its plugin must "
                    "return a dictionary of numbers, texts, lists and dictionaries"
                ) from error
        return remembered, epoch.stopped


def qualified(references: Sequence[str], registry: Registry[Any]) -> tuple[str, ...]:
    """Name callbacks or augmentations in full.

    Args:
        references: `NAME` or `NAME:ARGUMENT`, with short or qualified names.
        registry: Where they are looked up.

    Returns:
        The same with qualified names.

    Raises:
        UsageError: A name is unknown or ambiguous, or something is given twice.
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
    """Make the callbacks that a run names, by `NAME` or `NAME:ARGUMENT` as it does.

    Raises:
        UsageError: A name is unknown, or an argument has no meaning.
        PluginError: A plugin fails, or makes something else.
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
) -> tuple[tuple[str, Augment], ...]:
    """Make the augmentations that a run names, with their names, in their order.

    Raises:
        UsageError: A name is unknown, or an argument has no meaning.
        PluginError: A plugin fails, or makes something else.
    """
    made = tuple((name, _make(name, registry)) for name in references)
    for name, augment in made:
        if not callable(augment):
            raise PluginError(
                f"the augmentation {name!r} is a {type(augment).__name__}: its plugin must return "
                "a function of images and draws"
            )
    return made


def _make(reference: str, registry: Registry[SpecT]) -> Any:
    name, colon, argument = reference.partition(":")
    make = registry[name].load()
    try:
        return _guarded(registry.kind, name, lambda: make(argument if colon else None), ValueError)
    except ValueError as error:
        raise UsageError(f"the {registry.kind} {reference!r}: {error}") from error


def _guarded(kind: str, name: str, call: Callable[[], Any], *through: type[Exception]) -> Any:
    """Call what a plugin brings; what it raises becomes a `PluginError` that names it."""
    try:
        return call()
    except (CnnforgeError, *through):
        raise
    except Exception as error:
        raise PluginError(f"the {kind} {name!r} failed: {one_line(error)}") from error
