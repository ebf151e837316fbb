"""Start a model from pretrained weights: which ones, how they are trained, and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras

from cnnforge.configuration import TrainingOptions
from cnnforge.errors import UsageError
from cnnforge.plugin import ModelSpec
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.plugin_host.registry import Registry
from cnnforge.tasks import Task
from cnnforge.training.initial_weights import InitialWeights, take_weights
from cnnforge.training.phases import FineTuning, split
from cnnforge.utils.keras_graph import output_layers

IMAGENET, NONE = "imagenet", "none"
_BACKBONE_RATE = 0.1
# Part of the epochs in which the backbone is frozen. They cost almost no time, since the features
# are kept, so there are more of them than in the recipe `fine_tune` of fastai, which has one.
_FROZEN_PART = 4


def with_weights(
    options: TrainingOptions, reference: str, models: Registry[ModelSpec]
) -> tuple[TrainingOptions, tuple[str, ...]]:
    """Choose the weights, and how they are trained, if the options leave it open.

    Args:
        options: Options of the run.
        reference: Qualified name of the model, with its argument.
        models: Registry of the models that plugins declare.

    Returns:
        Two values: the options, with `weights`, and with `freeze_epochs` and `backbone_rate` if the
        weights are pretrained; and notes for the user.

    Raises:
        UsageError: The model has no such weights, or there are no weights that could be frozen.
    """
    name, _, argument = reference.partition(":")
    spec, notes, chosen = models[name], (), options.weights
    found = spec.load_weights()
    if found is not None and not found.suit(argument):
        found = None
    if chosen == IMAGENET:
        if found is None:
            others = _with_weights(models, spec.task)
            raise UsageError(
                f"the model {spec.name!r} has no ImageNet weights: use one of {', '.join(others)}, "
                "or --weights FILE with a run or a file of this model"
            )
        if found.install and not found.installed():
            raise UsageError(
                f"the ImageNet weights of {spec.name} are not installed: {found.install} installs "
                "them"
            )
    elif chosen is None:
        chosen = NONE
        if found is not None and found.by_default and options.init_from is None:
            if found.installed():
                chosen = IMAGENET
            else:
                notes = (
                    f"{spec.name} starts from random weights: {found.install} installs those that "
                    f"were trained on {found.data}",
                )
    options = replace(options, weights=chosen)
    if chosen != NONE:
        frozen, rate = options.freeze_epochs, options.backbone_rate
        return replace(
            options,
            freeze_epochs=max(1, options.epochs // _FROZEN_PART) if frozen is None else frozen,
            backbone_rate=_BACKBONE_RATE if rate is None else rate,
        ), notes
    if options.init_from is None and (options.freeze_epochs or options.backbone_rate):
        name = "freeze_epochs" if options.freeze_epochs else "backbone_rate"
        raise UsageError(
            f"{name} is {getattr(options, name)}, but all weights of {spec.name} are random: give "
            "--weights imagenet, --weights FILE or --init-from RUN, or leave it out"
        )
    return options, notes


def _with_weights(models: Registry[ModelSpec], task: str) -> list[str]:
    """Return the names of a task's models with ImageNet weights, and the argument they need."""
    names = []
    for spec in models.values():
        found, name = spec.load_weights(), models.shortest_name(spec)
        if found is not None and spec.task == task:
            names += [f"{name}:{each}" for each in found.arguments or ()] or [name]
    return names


def fine_tuning_of(options: TrainingOptions) -> FineTuning:
    """Return how the options train the backbone and the head."""
    rate = options.backbone_rate
    return FineTuning(
        freeze_epochs=options.freeze_epochs or 0, backbone_rate=1.0 if rate is None else rate
    )


def load_weights(
    model: keras.Model, options: TrainingOptions, reference: str, task: Task, plugins: Plugins
) -> InitialWeights | None:
    """Set the weights of a model that do not start at random.

    Args:
        model: A model of stock Keras layers.
        options: Options of the run, see `with_weights`.
        reference: Qualified name of the model, with its argument.
        task: The task of the model.
        plugins: All plugins.

    Returns:
        Lists of the weights that came from a run or a file, and of the others; `None` if the
        weights came from neither.

    Raises:
        UsageError: The weights cannot be had, or none of them fits.
    """
    if options.init_from is not None:
        return take_weights(model, Path(options.init_from), task, plugins)
    if options.weights in (None, NONE):
        return None
    if options.weights != IMAGENET:
        return take_weights(model, Path(options.weights), task, plugins, option="--weights")
    name, colon, argument = reference.partition(":")
    found = plugins.models[name].load_weights()
    if found is not None:
        found.assign(model, argument if colon else None)
    return None


def describe(
    model: keras.Model, options: TrainingOptions, taken: InitialWeights | None, task: Task
) -> Sequence[str]:
    """Describe what is frozen and what is trained, in lines for the user.

    Args:
        model: The model.
        options: Options of the run, see `with_weights`.
        taken: Lists of the weights that came from a run or a file; `None` for ImageNet weights, and
            for a run that is resumed.
        task: The task of the model.

    Returns:
        One line, and another one if the images are gray; empty if nothing is pretrained.

    Raises:
        UsageError: The model cannot be divided into backbone and head.
    """
    tuning = fine_tuning_of(options)
    if options.weights in (None, NONE) and tuning == FineTuning():
        return ()
    backbone, _ = split(model)
    count = sum(any(len(each.shape) > 1 for each in layer.weights) for layer in backbone.layers)
    is_imagenet = options.weights == IMAGENET
    file = options.init_from if options.weights in (None, NONE) else options.weights
    source = "ImageNet" if is_imagenet else file
    rate = f"{options.learning_rate * tuning.backbone_rate:.2g}"
    frozen = tuning.freeze_epochs
    layers = f"{count} layers"
    if not frozen:
        trained = f"{layers} trained at {rate}"
    elif frozen >= options.epochs:
        trained = f"{layers} frozen"
    else:
        epochs = "1 epoch" if frozen == 1 else f"{frozen} epochs"
        trained = f"{layers} frozen for {epochs}, then trained at {rate}"
    outputs = {layer.name for layer in output_layers(model)}
    unknown = () if taken is None else taken.new
    is_new = is_imagenet or any(name.split("/")[-2] in outputs for name in unknown)
    classes = getattr(task, "classes", None)
    size = f"{len(classes)} classes" if classes else f"{task.output_size} outputs"
    lines = [
        f"backbone {model.name} ({source}): {trained}; {'new ' if is_new else ''}head of {size}, "
        f"trained at {options.learning_rate:.2g}"
    ]
    if is_imagenet and model.input_shape[-1] == 1:
        lines.append("the images are gray: the model repeats them to three channels")
    return lines
