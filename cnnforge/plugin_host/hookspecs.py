"""Define the hooks that a plugin may implement. Their docstrings are the reference manual.

cnnforge calls each hook of each plugin once, and registers the specs that the hook returns. If one
hook of a plugin raises an error, none of the plugin's specs are registered.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from cnnforge.plugin import (
    AugmentationSpec,
    CallbackSpec,
    DatasetSpec,
    EngineSpec,
    LayerSpec,
    ModelSpec,
    TaskSpec,
)

hookspec = pluggy.HookspecMarker("cnnforge")


@hookspec
def cnnforge_layers() -> Iterable[LayerSpec]:
    """Declare Keras layer classes.

    Returns:
        A `LayerSpec` for each layer. Its target is a subclass of `keras.Layer`. If its `reference`
        names a stock Keras layer, the class must have the same constructor arguments and weights.
        `cnnforge.conversion.forge` can then replace the stock layer by this one.
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
        height, width, channels). `outputs` is the number of outputs that the model's task requires.
        For a classification it is the number of classes, and the model ends in a softmax. If the
        callable has a parameter `argument`, it gets the text after the colon in `NAME:ARGUMENT`.
    """
    raise NotImplementedError


@hookspec
def cnnforge_tasks() -> Iterable[TaskSpec]:
    """Declare tasks. A task defines what a model learns; classification is built in.

    Returns:
        A `TaskSpec` for each task. Its target is a subclass of `cnnforge.tasks.Task`, which defines
        the targets, the losses, the metrics, the evaluation and the predictions. The specs of
        models and datasets name their task.
    """
    raise NotImplementedError


@hookspec
def cnnforge_callbacks() -> Iterable[CallbackSpec]:
    """Declare training callbacks for `cnnforge train --callback NAME[:ARGUMENT]`.

    Returns:
        A `CallbackSpec` for each callback. Its target is a callable `make(argument)` that returns a
        `cnnforge.callbacks.Callback`; `argument` is the text after the colon, or `None`. `make`
        must raise `ValueError` for a wrong argument. The callback is called after every epoch. The
        values that its method `state()` returns are saved with the run. When the run is resumed,
        they are passed to its method `restore()`.
    """
    raise NotImplementedError


@hookspec
def cnnforge_augmentations() -> Iterable[AugmentationSpec]:
    """Declare augmentations for `cnnforge train --augment NAME[:ARGUMENT]`.

    Returns:
        An `AugmentationSpec` for each augmentation. Its target is a callable `make(argument)` that
        returns a function `augment(images, draws)`. This function gets images, (N, H, W, C) uint8,
        and returns new images of the same shape. It must take all random numbers from `draws`, a
        `cnnforge.data.Draws`. These numbers depend only on the seed, the epoch and the sample, so a
        resumed run trains on the same images as an uninterrupted one. `make` may also return a
        `cnnforge.data.Mixing`, which mixes images with other training images, or a
        `cnnforge.data.Composing`, which composes several.
    """
    raise NotImplementedError


@hookspec
def cnnforge_engines() -> Iterable[EngineSpec]:
    """Declare inference engines, with which a trained model predicts without Keras.

    Returns:
        An `EngineSpec` for each engine. Its target is a function `open_plan(path)`, and its `build`
        a function `build(model, path)` that writes a Keras model to the file that `open_plan`
        opens. When training ends, the first engine that can express the model writes it to the run;
        engines are tried in the order of their qualified names.
    """
    raise NotImplementedError
