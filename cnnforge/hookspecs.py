"""The hooks that a plugin may implement; their docstrings are the reference manual.

Each is called once per plugin, right after the plugin is registered, and returns data: the core
registers it. A plugin that fails in one of them contributes nothing, in any of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from cnnforge.plugin import (
    AugmentationSpec,
    CallbackSpec,
    DatasetSpec,
    LayerSpec,
    ModelSpec,
    TaskSpec,
)

hookspec = pluggy.HookspecMarker("cnnforge")


@hookspec
def cnnforge_layers() -> Iterable[LayerSpec]:
    """Declare Keras layer classes.

    Returns:
        One `LayerSpec` per layer. Its target is a subclass of `keras.Layer`. Where `reference`
        names a stock layer, the class takes that layer's constructor arguments, has its weights,
        and `cnnforge.conversion.forge` puts it in that layer's place.
    """
    raise NotImplementedError


@hookspec
def cnnforge_datasets() -> Iterable[DatasetSpec]:
    """Declare datasets.

    Returns:
        One `DatasetSpec` per dataset. Its target is a callable `load(argument, options)` that
        returns a `cnnforge.data.Dataset`; `argument` is the text after the colon in a reference
        such as `images:FOLDER`, or `None`.
    """
    raise NotImplementedError


@hookspec
def cnnforge_models() -> Iterable[ModelSpec]:
    """Declare models.

    Returns:
        One `ModelSpec` per model. Its target is a callable `build(input_shape, outputs)` that
        returns a stock `keras.Model` reading raw pixel values 0..255 of shape
        (batch, height, width, channels). `outputs` is a number that the model's task says: of a
        classification, whose models end in a softmax, the number of classes. A target with a
        parameter `argument` is given the text after the colon in `NAME:ARGUMENT`, or `None`.
    """
    raise NotImplementedError


@hookspec
def cnnforge_tasks() -> Iterable[TaskSpec]:
    """Declare tasks: what models learn, beside the classification that is built in.

    Returns:
        One `TaskSpec` per task. Its target is a subclass of `cnnforge.tasks.Task`, which says the
        targets, the losses, the metrics, the evaluation and the predictions. Models and datasets
        name it in their `task`.
    """
    raise NotImplementedError


@hookspec
def cnnforge_callbacks() -> Iterable[CallbackSpec]:
    """Declare callbacks of training: `cnnforge train --callback NAME[:ARGUMENT]`.

    Returns:
        One `CallbackSpec` per callback. Its target is a callable `make(argument)` that returns a
        `cnnforge.callbacks.Callback`; `argument` is the text after the colon, or `None`, and a
        `ValueError` says that it has no meaning. A callback is called after every epoch, and its
        `state()` is saved with the run: a resumed run goes on as if it had not stopped.
    """
    raise NotImplementedError


@hookspec
def cnnforge_augmentations() -> Iterable[AugmentationSpec]:
    """Declare augmentations: `cnnforge train --augment NAME[:ARGUMENT]`.

    Returns:
        One `AugmentationSpec` per augmentation. Its target is a callable `make(argument)` that
        returns a function `augment(images, draws)`: images, (N, H, W, C) uint8, to new images of
        the same shape, or to a pair of these and the (N, 2, 3) float32 transforms by which the
        pixels moved. All chance comes from `draws` (`cnnforge.data.Draws`), whose numbers depend
        on the seed, the epoch and the sample only: a resumed run sees the same images.
    """
    raise NotImplementedError
