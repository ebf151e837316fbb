"""The hooks that a plugin may implement; their docstrings are the reference manual.

Each is called once per plugin, right after the plugin is registered, and returns data: the core
registers it. A plugin that fails in one of them contributes nothing, in any of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec

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
        One `ModelSpec` per model. Its target is a callable `build(input_shape, classes)` that
        returns a stock `keras.Model` reading raw pixel values 0..255 of shape
        (batch, height, width, channels) and ending in a softmax over the classes.
    """
    raise NotImplementedError
