"""The hooks that a plugin may implement. Their docstrings are the reference manual.

The core calls each hook once for each plugin and registers the specs that the hook returns. If a
hook of a plugin fails, none of the plugin's specs are registered.
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
        A `LayerSpec` for each layer. Its target is a subclass of `keras.Layer`. If `reference`
        names a stock layer, the class has the same constructor arguments and weights, and
        `cnnforge.conversion.forge` replaces that stock layer by it.
    """
    raise NotImplementedError


@hookspec
def cnnforge_datasets() -> Iterable[DatasetSpec]:
    """Declare datasets.

    Returns:
        A `DatasetSpec` for each dataset. Its target is a callable `load(argument, options)` that
        returns a `cnnforge.data.Dataset`; `argument` is the text after the colon in a reference
        such as `images:FOLDER`, or `None`.
    """
    raise NotImplementedError


@hookspec
def cnnforge_models() -> Iterable[ModelSpec]:
    """Declare models.

    Returns:
        A `ModelSpec` for each model. Its target is a callable `build(input_shape, outputs)` that
        returns a stock `keras.Model`. The model reads raw pixel values 0..255 of shape (batch,
        height, width, channels). `outputs` is a number that the model's task says: of a
        classification, whose models end in a softmax, the number of classes. A target with a
        parameter `argument` is given the text after the colon in `NAME:ARGUMENT`.
    """
    raise NotImplementedError


@hookspec
def cnnforge_tasks() -> Iterable[TaskSpec]:
    """Declare tasks: what models learn. A classification is built in.

    Returns:
        A `TaskSpec` for each task. Its target is a subclass of `cnnforge.tasks.Task`, which says
        the targets, the losses, the metrics, the evaluation and the predictions. Models and
        datasets name their task.
    """
    raise NotImplementedError


@hookspec
def cnnforge_callbacks() -> Iterable[CallbackSpec]:
    """Declare callbacks of training: `cnnforge train --callback NAME[:ARGUMENT]`.

    Returns:
        A `CallbackSpec` for each callback. Its target is a callable `make(argument)` that returns a
        `cnnforge.callbacks.Callback`; `argument` is the text after the colon, or `None`. It
        raises `ValueError` for a wrong argument. A callback is called after every epoch, and its
        `state()` is saved with the run, so that a resumed run goes on exactly.
    """
    raise NotImplementedError


@hookspec
def cnnforge_augmentations() -> Iterable[AugmentationSpec]:
    """Declare augmentations: `cnnforge train --augment NAME[:ARGUMENT]`.

    Returns:
        An `AugmentationSpec` for each augmentation. Its target is a callable `make(argument)` that
        returns a function `augment(images, draws)`: images, (N, H, W, C) uint8, to new images of
        the same shape. All random numbers come from `draws` (`cnnforge.data.Draws`). They depend
        only on the seed, the epoch and the sample, so that a resumed run sees the same images.
    """
    raise NotImplementedError
