"""Divide a network into its steps, and run them one by one on every backend of Keras."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from cnnforge.backends import pullback
from cnnforge.errors import UsageError
from cnnforge.utils.keras_graph import FunctionalModel, layer_calls

# Max number of pixel values in a batch: maps need much more memory than pictures.
_MAX_VALUES = 2**21
_MAX_BATCH = 256


@dataclass(frozen=True)
class Step:
    """One step of a network: a layer without its activation, an activation, or an operation.

    Attributes:
        name: Name of the layer.
        layer: The layer or the operation; for an activation that a layer contained, the layer.
        activation: Name of the activation, if the step is one that a layer contained.
        inputs: Indices of the steps whose outputs are the inputs. The picture has the index 0.
        shape: Shape of the output without the batch dimension.
        call: Function of the list of all values so far; it returns the value of this step.
        output: Place of the value among the outputs of the network; `None` if it is not an output.
    """

    name: str
    layer: Any
    activation: str | None
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    call: Callable[[Sequence[Any]], Any]
    output: int | None = None


def divide(model: keras.Model, *, several: bool = False) -> list[Step]:
    """Divide a network of stock layers into steps; the first one is the picture.

    The activations of its layers become steps of their own. For that, `activation` of the layers
    is set to linear, so the caller must not use the model for anything else.

    Args:
        model: A built model of the class Sequential or Functional, with one input.
        several: Whether the model may have several outputs.

    Raises:
        UsageError: The model is another kind of model, or has several inputs, or has several
            outputs and must not.
    """
    if not isinstance(model, keras.Sequential | FunctionalModel):
        raise UsageError(
            f"the network is a {type(model).__name__}, expected a Sequential or Functional model: "
            "its layers cannot be shown one by one"
        )
    if len(model.inputs) != 1 or (len(model.outputs) != 1 and not several):
        raise UsageError(
            f"the network has {len(model.inputs)} inputs and {len(model.outputs)} outputs, "
            "expected one picture and one output: choose a run of another model"
        )
    (picture,) = model.inputs
    steps = [Step("picture", None, None, (), _shape(picture), lambda values: values[0])]
    for number, place in enumerate(_add(model, {id(picture): 0}, steps, {})):
        steps[place] = replace(steps[place], output=number)
    return steps


def output_steps(steps: Sequence[Step]) -> list[int]:
    """Return the indices of the steps whose values are the outputs of the network, in order."""
    places = {it.output: at for at, it in enumerate(steps) if it.output is not None}
    return [places[number] for number in sorted(places)]


def _add(
    model: keras.Model,
    known: dict[int, int],
    steps: list[Step],
    split: dict[int, tuple[str, Any]],
) -> list[int]:
    """Append the steps of a model. Return the indices of its outputs."""
    calls, structure = layer_calls(model)
    for call in calls:
        places = tuple(known[id(tensor)] for tensor in call.inputs)
        layer = call.layer
        if isinstance(layer, keras.Sequential | FunctionalModel):
            inside = {id(t): at for t, at in zip(layer.inputs, places, strict=True)}
            found = _add(layer, inside, steps, split)
            known |= {id(t): at for t, at in zip(call.outputs, found, strict=True)}
            continue
        if len(call.outputs) != 1:
            raise UsageError(
                f"the layer {layer.name!r} has {len(call.outputs)} outputs, and a page shows "
                "layers with one output: choose a run of another model"
            )
        shape = _shape(call.outputs[0])
        run = _runner(layer, call.arguments, call.keywords, dict(known))
        steps.append(Step(layer.name, layer, None, places, shape, run))
        if name := _contained_activation(layer):
            split[id(layer)] = name, layer.activation
            layer.activation = keras.activations.linear
        # A layer that is called again has lost its activation at its first call.
        if id(layer) in split:
            name, function = split[id(layer)]
            before = len(steps) - 1
            run = _activation_runner(function, before)
            steps.append(Step(layer.name, layer, name, (before,), shape, run))
        known[id(call.outputs[0])] = len(steps) - 1
    return [known[id(output)] for output in keras.tree.flatten(structure)]


def _contained_activation(layer: Any) -> str | None:
    """Return the name of the activation inside of a layer that also does something else."""
    kinds = (
        keras.layers.Dense,
        keras.layers.Conv2D,
        keras.layers.DepthwiseConv2D,
        keras.layers.SeparableConv2D,
    )
    if not isinstance(layer, kinds) or layer.activation is keras.activations.linear:
        return None
    return str(getattr(layer.activation, "__name__", "activation"))


def _runner(
    layer: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], known: dict[int, int]
) -> Callable[[Sequence[Any]], Any]:
    def call(values: Sequence[Any]) -> Any:
        def value(item: Any) -> Any:
            return values[known[id(item)]] if isinstance(item, keras.KerasTensor) else item

        args, kwargs = keras.tree.map_structure(value, (arguments, dict(keywords)))
        kwargs.pop("training", None)
        return layer(*args, **kwargs)

    return call


def _activation_runner(function: Any, before: int) -> Callable[[Sequence[Any]], Any]:
    return lambda values: function(values[before])


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) if size else 1 for size in tensor.shape[1:])


class Replay(keras.layers.Layer):
    """A layer that runs steps, and can give the gradients with respect to values in between.

    Args:
        steps: Steps of a network. Weights of its layers get no gradients.
        watched: Indices of steps. Each of them gets a weight of zeros that is added to its value.
            The gradient of this weight is the gradient of the value, on every backend of Keras.
        output: Index of the step whose value is returned; the last one by default.
    """

    def __init__(
        self, steps: Sequence[Step], watched: Sequence[int] = (), output: int | None = None
    ) -> None:
        super().__init__(dtype="float32")
        layers = {id(it.layer): it.layer for it in steps if isinstance(it.layer, keras.Layer)}
        for layer in layers.values():
            layer.trainable = False
        self.inside = list(layers.values())
        self._steps = tuple(steps)
        self._output = len(steps) - 1 if output is None else output
        self.shifts = {
            str(at): self.add_weight(
                shape=(1, *steps[at].shape), initializer="zeros", name=f"shift_{at}"
            )
            for at in watched
        }
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the value of the step `output`."""
        return self.values(inputs)[self._output]

    def values(self, inputs: Any) -> list[Any]:
        """Return the values of all steps up to `output`."""
        found: list[Any] = [inputs]
        for at, step in enumerate(self._steps[1 : self._output + 1], 1):
            value = step.call(found)
            shift = self.shifts.get(str(at))
            found.append(value if shift is None else value + shift)
        return found


def run(replay: Replay, images: np.ndarray) -> np.ndarray:
    """Compute the output of a replay for images, in small batches.

    Args:
        replay: The steps.
        images: (N, H, W, C) pixel values 0..255.

    Returns:
        (N, ...) float32.
    """
    size = batch_size(images.shape[1:])
    parts = [
        array(replay(tensor(images[at : at + size]), training=False))
        for at in range(0, len(images), size)
    ]
    return np.concatenate(parts)


def batch_size(shape: tuple[int, ...]) -> int:
    """Return how many pictures of a shape (H, W, C) to compute together."""
    return max(4, min(_MAX_BATCH, _MAX_VALUES // max(1, math.prod(shape))))


def all_values(steps: Sequence[Step], image: np.ndarray) -> list[np.ndarray]:
    """Return the value of each step for one image, without the batch dimension."""
    return [array(each)[0] for each in _Values(steps)(tensor(image[None]), training=False)]


class _Values(Replay):
    def call(self, inputs: Any) -> Any:
        return self.values(inputs)


def gradients(
    replay: Replay, images: np.ndarray, classes: Sequence[int]
) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Compute scores of classes and their gradients.

    Args:
        replay: Steps that return (N, K) scores.
        images: (N, H, W, C) pixel values.
        classes: Indices of classes.

    Returns:
        The scores (N, K), and for each class the gradients of its score with respect to the images
        and to each watched step, in the order of `watched`.
    """
    scores, back = pullback(replay, tensor(images), training=False)
    found = []
    for index in classes:
        upstream = np.zeros(scores.shape, np.float32)
        upstream[:, index] = 1
        found.append(
            [
                np.zeros(0, np.float32) if each is None else array(each)
                for each in back(tensor(upstream))
            ]
        )
    return array(scores), found


def tensor(values: np.ndarray) -> Any:
    """Convert an array to a float32 tensor of the backend."""
    return keras.ops.convert_to_tensor(np.ascontiguousarray(values, np.float32))


def array(value: Any) -> np.ndarray:
    """Convert a tensor to a float32 array."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(value)), dtype=np.float32)
