"""Estimate the memory that training a model needs, before anything is allocated."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np

from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.plugin import ModelSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.tasks import Task
from cnnforge.training import optimizers
from cnnforge.training.building import build_model
from cnnforge.utils.available_memory import in_words, is_out_of_memory
from cnnforge.utils.keras_graph import output_values

Shape = tuple[int, int, int]

_BYTES = 4  # float32
# A larger run directory is worth a note if the images are larger than the model's default allows.
_LARGE_RUN = 200e6
_MAX_HALVINGS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The size of a model and a rough estimate of the memory that its training needs.

    The estimate counts the weights twice (a copy with stock layers is saved), their gradients, the
    variables of the optimizer, and one copy of the outputs of all layers for a batch. It also
    counts the copies of the weights and the optimizer that saving a state needs. It does not count
    the libraries, the images, the inside of layers that contain other layers, and temporary values
    of the framework. All values count as float32.

    Attributes:
        model: Name of the model.
        image_shape: (H, W, C) of the images.
        batch_size: Number of images per training step.
        parameters: Number of values in the weights.
        trainable: Number of values in the trainable weights.
        slots: Number of variables of the optimizer for each trainable weight.
        outputs: Number of values that the layers compute for an image.
    """

    model: str
    image_shape: Shape
    batch_size: int
    parameters: int
    trainable: int
    slots: int
    outputs: int

    @property
    def state(self) -> int:
        """Size of the weights and the variables of the optimizer, in bytes."""
        return _BYTES * (self.parameters + self.slots * self.trainable)

    @property
    def activations(self) -> int:
        """Size of the outputs of all layers for a batch, in bytes."""
        return _BYTES * self.outputs * self.batch_size

    @property
    def training(self) -> int:
        """Rough size of the memory that training needs, in bytes."""
        step = self.state + _BYTES * self.trainable + self.activations
        # Saving a state makes four copies: arrays, the archive in a buffer, the archive as bytes,
        # and the archive with its first line.
        return _BYTES * self.parameters + max(step, 5 * self.state)

    @property
    def min_training(self) -> int:
        """Memory that training needs in any case, in bytes.

        Some layers write their outputs over their inputs, so only half of the outputs count.
        """
        return max(self.state + _BYTES * self.trainable + self.activations // 2, 4 * self.state)

    @property
    def run_directory(self) -> int:
        """Size of the saved model and of the two training states in the run directory, in bytes."""
        return _BYTES * self.parameters + 2 * self.state

    def describe(self) -> str:
        """Return the size of the model and the memory to train it, in one line for the user."""
        return (
            f"{self.model} for {_by(self.image_shape)} images: {_count(self.parameters)} "
            f"parameters, about {in_words(self.training)} of memory to train"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values, ready for JSON; sizes are in bytes."""
        return {
            "parameters": self.parameters,
            "batch_size": self.batch_size,
            "training_memory": self.training,
            "run_directory": self.run_directory,
        }


def estimate(
    reference: str,
    models: Registry[ModelSpec],
    task: Task,
    options: OptimizerOptions,
    batch_size: int,
    image_shape: Shape,
) -> Estimate | None:
    """Estimate the size of a model and of its training, without allocating the weights.

    The model is built without values. The state of Keras and of the random number generators of
    Python and NumPy stays as it was.

    Args:
        reference: Name of the model, `NAME` or `NAME:ARGUMENT`.
        models: Registry of the models that plugins declare.
        task: The task of the dataset.
        options: Options of the optimizer.
        batch_size: Number of images per training step.
        image_shape: (H, W, C) of the images.

    Returns:
        The estimate; `None` if the model cannot be built in this way.
    """
    policy = keras.config.dtype_policy()

    def build() -> Estimate | None:
        keras.config.set_dtype_policy(policy)
        try:
            slots = _slots(options)
            with keras.StatelessScope(initialize_variables=False):
                model = build_model(reference, models, task, image_shape)
                return Estimate(
                    model=models[reference.partition(":")[0]].name,
                    image_shape=image_shape,
                    batch_size=batch_size,
                    parameters=_values(model.weights),
                    trainable=_values(model.trainable_weights),
                    slots=slots,
                    outputs=output_values(model),
                )
        except Exception:
            # The model is built again with values. If it is wrong, that raises the error for the
            # user. Other models, such as one that loads weights, only have no estimate.
            return None

    states = random.getstate(), np.random.get_state()
    try:
        # Keras keeps its state, such as counters of names and the list of variables without values,
        # for each thread. So what this thread leaves there ends with the thread.
        with ThreadPoolExecutor(1) as thread, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return thread.submit(build).result()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def check_memory(
    found: Estimate,
    available: int | None,
    spec: ModelSpec,
    at_shape: Callable[[Shape], Estimate | None],
) -> tuple[str, ...]:
    """Compare an estimate with the memory of this machine.

    Args:
        found: The estimate.
        available: Number of bytes that this process may allocate; `None` if unknown.
        spec: Spec of the model.
        at_shape: Function that returns the estimate for images of another shape.

    Returns:
        Notes for the user, one sentence each.

    Raises:
        UsageError: Training needs more memory in any case.
    """
    needs = f"{in_words(found.training)} of memory, and {in_words(available or 0)} are available"
    if available is not None and found.min_training > available:
        changes = _changes(found, available, spec, at_shape)
        raise UsageError(
            f"the model {found.model!r} has {_count(found.parameters)} parameters for images of "
            f"{_by(found.image_shape)}, and training needs about {needs}: "
            f"{changes or 'use a smaller model'}"
        )
    if available is not None and found.training > available:
        changes = _changes(found, available, spec, at_shape)
        return (
            f"training may run out of memory, because it needs about {needs}"
            f"{changes and f': {changes}'}",
        )
    if found.run_directory > _LARGE_RUN:
        smaller = _smaller(found, spec, at_shape, lambda other: other.run_directory < _LARGE_RUN)
        if smaller:
            return (
                f"the run directory takes about {in_words(found.run_directory)}, since the model "
                f"has {_count(found.parameters)} parameters for images of "
                f"{_by(found.image_shape)}: --image-size {_by(smaller)} makes it smaller",
            )
    return ()


def max_size_that_fits(
    found: Estimate,
    available: int | None,
    spec: ModelSpec,
    at_shape: Callable[[Shape], Estimate | None],
) -> int | None:
    """Return the max height and width of images with which training fits into the memory.

    Args:
        found: The estimate for the default size of the images.
        available: Number of bytes that this process may allocate; `None` if unknown.
        spec: Spec of the model.
        at_shape: Function that returns the estimate for images of another shape.

    Returns:
        The number of pixels; `None` if the default size fits, no size fits, or the model accepts
        only certain sizes.
    """
    if available is None or found.training <= available or spec.sizes:
        return None
    size = _smaller(found, spec, at_shape, lambda other: other.training < available / 2)
    return max(size) if size else None


@contextmanager
def out_of_memory_explained(
    size: Estimate | None = None,
    advice: str = "start a new run with a smaller --image-size or --batch-size",
) -> Iterator[None]:
    """Explain an error that is raised in the block because memory runs out.

    Args:
        size: Estimate for the model that is trained; `None` if it is unknown.
        advice: Words for the user: what to do.

    Raises:
        CnnforgeError: Memory ran out in the block.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        about = f" ({size.describe()})" if size is not None else ""
        raise CnnforgeError(f"memory ran out{about}: {advice}") from error


def _changes(
    found: Estimate,
    available: int,
    spec: ModelSpec,
    at_shape: Callable[[Shape], Estimate | None],
) -> str:
    """Return what the user can do about too little memory, or "" if nothing is known."""
    left = available - (found.training - found.activations)
    images = left // max(found.activations // found.batch_size, 1)
    choices = []
    if 1 <= images < found.batch_size:
        choices.append(f"--batch-size {2 ** (images.bit_length() - 1)}")
    smaller = _smaller(found, spec, at_shape, lambda other: other.training < available / 2)
    if smaller:
        choices.insert(0, f"--image-size {_by(smaller)}")
    return f"give {' or '.join(choices)}" if choices else ""


def _smaller(
    found: Estimate,
    spec: ModelSpec,
    at_shape: Callable[[Shape], Estimate | None],
    fits: Callable[[Estimate], bool],
) -> tuple[int, int] | None:
    """Return the largest smaller image size that fits, (height, width); `None` if no size fits."""
    height, width, channels = found.image_shape
    if spec.sizes:
        sizes = [size for size in spec.sizes if prod(size) < height * width]
        sizes.sort(key=prod, reverse=True)
    else:
        scale = min(spec.max_default_size / max(height, width), 0.5)
        scales = [scale / 2**step for step in range(_MAX_HALVINGS)]
        sizes = [(round(height * scale), round(width * scale)) for scale in scales]
    for height, width in sizes:
        if min(height, width) < 1:
            break
        other = at_shape((height, width, channels))
        if other is not None and fits(other):
            return height, width
    return None


def _slots(options: OptimizerOptions) -> int:
    """Return the number of variables of the optimizer for each trainable weight."""
    shape = (4, 4)
    optimizer, _ = optimizers.build(options, batches=1, epochs=1_000_000)
    optimizer.build([keras.Variable(np.zeros(shape, np.float32))])
    return sum(tuple(variable.shape) == shape for variable in optimizer.variables)


def _values(variables: list[keras.Variable]) -> int:
    return sum(prod(variable.shape) for variable in variables)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(number: int) -> str:
    for name, value in (("billion", 1e9), ("million", 1e6)):
        if number >= value:
            return f"{number / value:.1f} {name}"
    return f"{number:,}"
