"""The API for plugin authors: the specs that a plugin returns, and the hook decorator.

A plugin is a module (or an object) with functions, called hooks, that return specs. A spec declares
one thing, such as a layer, and contains its import path, `"package.module:Attribute"`. cnnforge
imports this object, the target of the spec, when it is first used. This module and the module with
the hooks therefore need not import Keras, TensorFlow or Numba.

Example:
    ```python
    from cnnforge.plugin import LayerSpec, hookimpl

    CNNFORGE_PLUGIN_API = 1

    @hookimpl
    def cnnforge_layers():
        return [
            LayerSpec(
                name="conv2d",
                target="acme_layers.conv2d:Conv2D",
                summary="2D convolution by FFT",
                reference="keras.layers:Conv2D",
            )
        ]
    ```
"""

from cnnforge.plugin.base import DEFAULT_TASK as DEFAULT_TASK
from cnnforge.plugin.base import PLUGIN_API, Spec, hookimpl
from cnnforge.plugin.layers import LayerSpec
from cnnforge.plugin.parts import (
    AugmentationSpec,
    CallbackSpec,
    DatasetSpec,
    EngineSpec,
    ModelSpec,
    TaskSpec,
)
from cnnforge.pretrained import PretrainedWeights
from cnnforge.work import Work

__all__ = [
    "PLUGIN_API",
    "AugmentationSpec",
    "CallbackSpec",
    "DatasetSpec",
    "EngineSpec",
    "LayerSpec",
    "ModelSpec",
    "PretrainedWeights",
    "Spec",
    "TaskSpec",
    "Work",
    "hookimpl",
]
