"""Build the model that the user names, for the image shape and the task of a dataset."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from cnnforge.errors import CnnforgeError, PluginError, UsageError, one_line
from cnnforge.plugin import ModelSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.tasks import Task
from cnnforge.utils.available_memory import is_out_of_memory


def build_model(
    reference: str,
    models: Registry[ModelSpec],
    task: Task,
    image_shape: tuple[int, int, int],
    data: str = "the data",
) -> keras.Model:
    """Build a model for images of one shape.

    Args:
        reference: Name of the model, `NAME` or `NAME:ARGUMENT`.
        models: Registry of the models that plugins declare.
        task: The task of the dataset.
        image_shape: (H, W, C) of the images.
        data: Name of the dataset, for the error message.

    Returns:
        The model. Its initial weights depend on the random seed of Keras, so call
        `cnnforge.training.prepare(seed)` before.

    Raises:
        UsageError: The model is unknown, or does not accept the image size or the argument.
        PluginError: The plugin fails, or returns something other than a suitable model.
    """
    name, colon, argument = reference.partition(":")
    spec, shape = models[name], image_shape
    if spec.sizes and shape[:2] not in spec.sizes:
        sizes = [f"{height}x{width}" for height, width in spec.sizes]
        raise UsageError(
            f"the model {spec.name!r} accepts images of {' or '.join(sizes)}, and those of "
            f"{data} are {shape[0]}x{shape[1]}: give --image-size {sizes[0]}"
        )
    build = spec.load()
    keywords: dict[str, Any] = {}
    if colon:
        if "argument" not in inspect.signature(build).parameters:
            raise UsageError(
                f"the model {spec.name!r} takes no argument, got {argument!r}: write {spec.name}"
            )
        keywords["argument"] = argument
    size = "x".join(map(str, shape))
    try:
        model = build(shape, task.output_size, **keywords)
    except ValueError as error:
        raise UsageError(
            f"the model {spec.name!r} cannot be built for images of {size}: "
            f"{' '.join(str(error).split())}"
        ) from error
    except CnnforgeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise PluginError(f"the model {spec.qualified_name!r} failed: {one_line(error)}") from error
    if not isinstance(model, keras.Model):
        raise PluginError(
            f"the model {spec.qualified_name!r} is a {type(model).__name__}: its plugin must "
            "return a keras.Model"
        )
    if model.input_shape != (None, *shape):
        raise PluginError(
            f"the model {spec.qualified_name!r} takes inputs of shape {model.input_shape}, "
            f"expected (None, {', '.join(map(str, shape))})"
        )
    try:
        task.check_model(model)
    except ValueError as error:
        raise PluginError(f"the model {spec.qualified_name!r} has {error}") from error
    return model
