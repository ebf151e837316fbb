"""Train and predict under the torch backend, which runs eagerly.

This module defines the same names as `cnnforge.backends.tensorflow`. Import them from
`cnnforge.backends`, which chooses the module of the active backend.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from cnnforge.backends.base import LOSS, ChunkResult, TrainableModel

if TYPE_CHECKING:
    from cnnforge.tasks.task import Task


def prepare(seed: int) -> None:
    """Seed Python, NumPy and torch, and make torch raise an error for nondeterministic ops.

    Call it before the model is built.

    Args:
        seed: Random seed, 0 or more and below 2**32.
    """
    # cuBLAS reads this variable at its first use. Without it, torch refuses matrix products on a
    # GPU in deterministic mode.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keras.utils.set_random_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Otherwise deterministic mode spends time on filling every uninitialized tensor with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False


def copies_of(variable: keras.Variable) -> Sequence[Any]:
    """Return nothing: under torch, a variable is on one device."""
    return ()


class BatchPredictor:
    """Computes the outputs of a model, batch by batch.

    Args:
        model: A model whose inputs are (N, H, W, C) float32 pixel values from 0 to 255.
        batch_size: Number of images in a batch.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size

    @torch.no_grad()
    def predict(self, images: np.ndarray) -> Any:
        """Compute the outputs, `batch_size` images at a time.

        Args:
            images: (N, H, W, C) uint8.

        Returns:
            (N, ...) arrays in the structure of the model's outputs.
        """
        if not len(images):
            one = self.predict(np.zeros((1, *images.shape[1:]), np.uint8))
            return keras.tree.map_structure(lambda it: it[:0], one)
        # The images are copied to the device as uint8, which has a quarter of the bytes of float32.
        parts = [
            self._model(part.to(torch.float32), training=False)
            for part in keras.ops.convert_to_tensor(images).split(self._batch_size)
        ]
        return keras.tree.map_structure(
            lambda *tensors: keras.ops.convert_to_numpy(torch.cat(tensors)), *parts
        )


class Trainer(BatchPredictor, TrainableModel):
    """Trains a model, batch by batch.

    Args:
        model: A model whose inputs are (N, H, W, C) float32 pixel values from 0 to 255. The inputs
            of a part of a model are the float32 features that the rest computes; the methods then
            take features in place of images.
        task: The task that the model learns; it computes the loss and the metrics.
        optimizer: An optimizer that is not built yet.
        batch_size: Number of images in a training step.
        whole: The model that `model` is a part of; `None` if it is not a part.
    """

    def __init__(
        self,
        model: keras.Model,
        task: Task,
        optimizer: keras.optimizers.Optimizer,
        batch_size: int,
        whole: keras.Model | None = None,
    ) -> None:
        BatchPredictor.__init__(self, model, batch_size)
        TrainableModel.__init__(self, model, optimizer, whole)
        self._task = task
        self._seed = torch.initial_seed()

    def train(
        self,
        images: np.ndarray,
        targets: Mapping[str, np.ndarray],
        sums: Mapping[str, float],
        count: int | None = None,
    ) -> ChunkResult:
        """Take one step per batch of `images`; the last batch may be smaller.

        Args:
            images: (N, H, W, C) uint8.
            targets: Arrays (N, ...) by name.
            sums: Sums of the loss and the metrics so far, by the task's names. A missing sum is 0.
            count: Number of images of all workers in these steps; `None`: there is one worker.

        Returns:
            The sums after these steps, and the index of the first batch whose loss is not finite.
        """
        total = {name: sums.get(name, 0.0) for name in self._task.sum_names}
        first = int(self._optimizer.iterations)
        parts = {name: one.split(self._batch_size) for name, one in _tensors(targets).items()}
        batches = keras.ops.convert_to_tensor(images).split(self._batch_size)
        for number, batch in enumerate(batches):
            part = {name: pieces[number] for name, pieces in parts.items()}
            with self._seeded(first + number):
                mean, found = self._step(batch.to(torch.float32), part)
            found[LOSS] = mean * len(batch)
            total = {name: value + found[name] for name, value in total.items()}
            if not math.isfinite(mean):
                return ChunkResult(total, number)
        return ChunkResult(total, None)

    @torch.no_grad()
    def forward(self, images: np.ndarray, *, training: bool) -> None:
        """Call the model on one batch eagerly.

        If a function has replaced the `call` of a layer, it gets tensors with values.

        Args:
            images: (N, H, W, C) uint8.
            training: Whether the layers compute as in training.
        """
        with self._seeded(int(self._optimizer.iterations)):
            self._model(keras.ops.convert_to_tensor(images).to(torch.float32), training=training)

    def gradients(
        self, images: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> list[np.ndarray | None]:
        """Return the gradients of the loss of one batch, and take no step.

        Args:
            images: (N, H, W, C) uint8.
            targets: Arrays (N, ...) by name.

        Returns:
            A gradient for each trainable variable, or `None` if the loss does not depend on it.
        """
        batch = keras.ops.convert_to_tensor(images).to(torch.float32)
        with self._seeded(int(self._optimizer.iterations)):
            found = self._differentiate(batch, _tensors(targets))[2]
        return [None if one is None else keras.ops.convert_to_numpy(one) for one in found]

    @contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        # Under torch, a Keras dropout layer without a seed draws from torch's global generator. No
        # variable holds the state of that generator, so a saved training state does not contain it.
        # A resumed run knows the seed and the step, so seed the generator from these at each step.
        words = np.random.SeedSequence([self._seed, step]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))
        try:
            yield
        finally:
            # The trainer of the next phase reads the seed of the run from the generator.
            torch.manual_seed(self._seed)

    def _differentiate(
        self, images: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, Any, Sequence[torch.Tensor | None]]:
        variables = self._model.trainable_variables
        outputs = self._model(images, training=True)
        loss = self._task.losses(targets, outputs).mean()
        for penalty in self._model.losses:
            loss = loss + penalty
        gradients = torch.autograd.grad(loss, [v.value for v in variables], allow_unused=True)
        return loss, outputs, gradients

    def _step(
        self, images: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> tuple[float, dict[str, float]]:
        loss, outputs, gradients = self._differentiate(images, targets)
        with torch.no_grad():
            self._optimizer.apply(gradients, self._model.trainable_variables)
            found = self._task.sums(targets, outputs)
            return float(loss.detach()), {name: float(value) for name, value in found.items()}


def _tensors(targets: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: keras.ops.convert_to_tensor(array) for name, array in targets.items()}


def pullback(
    layer: keras.layers.Layer, inputs: Any, *, training: bool | None = None
) -> tuple[Any, Callable[[Any], list[torch.Tensor | None]]]:
    """Compute the outputs of a layer, and make a function that computes its gradients.

    Args:
        layer: A built layer that has one input.
        inputs: The tensor that the layer is called with.
        training: The layer's argument `training`; `None` means the layer's default. If it is
            `True`, every call draws the same random numbers, and the state of torch's generators is
            restored afterwards.

    Returns:
        The outputs and a function. The argument of the function is the gradient with respect to the
        outputs. It returns the gradients with respect to the inputs and to each trainable variable,
        with `None` for a variable that the outputs do not depend on. It may be called several
        times.
    """
    inputs = inputs.detach().requires_grad_()
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    with torch.random.fork_rng(enabled=bool(training)):
        if training:
            torch.manual_seed(0)
        outputs = layer(inputs, training=training)

    def gradients(upstream: Any) -> list[torch.Tensor | None]:
        return list(
            torch.autograd.grad(outputs, sources, upstream, retain_graph=True, allow_unused=True)
        )

    return outputs.detach(), gradients


def repeated_passes(layer: keras.layers.Layer, grad_inputs: bool) -> dict[str, Callable[..., Any]]:
    """Make functions that repeat the passes of a layer.

    Args:
        layer: A built layer that has one input.
        grad_inputs: Whether the passes also compute the gradient of the inputs.

    Returns:
        Functions by name. `forward(count, inputs)` computes the outputs, as in a prediction.
        `full(count, inputs, upstream)` computes the outputs and the gradients, as in training.
        `backward(count, inputs, upstream)` computes the outputs once, and then only the gradients.
        A layer without gradients has no such function. Each function computes its pass `count`
        times, and returns when the last computation is done. `upstream` is the gradient with
        respect to the outputs.
    """
    on_gpu = torch.cuda.is_available()

    def trained(inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        sources = [variable.value for variable in layer.trainable_variables]
        if grad_inputs:
            inputs = inputs.detach().requires_grad_()
            sources.insert(0, inputs)
        return layer(inputs, training=True), sources

    def forward(count: int, inputs: torch.Tensor) -> None:
        with torch.no_grad():
            for _ in range(count):
                layer(inputs)

    def backward(count: int, inputs: torch.Tensor, upstream: torch.Tensor) -> None:
        outputs, sources = trained(inputs)
        for _ in range(count):
            torch.autograd.grad(outputs, sources, upstream, retain_graph=True, allow_unused=True)

    def full(count: int, inputs: torch.Tensor, upstream: torch.Tensor) -> None:
        for _ in range(count):
            outputs, sources = trained(inputs)
            if sources:
                torch.autograd.grad(outputs, sources, upstream, allow_unused=True)

    def finished(function: Callable[..., None]) -> Callable[..., Any]:
        def call(count: int, *arguments: Any) -> None:
            function(count, *arguments)
            if on_gpu:
                torch.cuda.synchronize()

        return call

    passes = {"forward": finished(forward), "full": finished(full)}
    if grad_inputs or layer.trainable_variables:
        passes["backward"] = finished(backward)
    return passes


def reference_is_unsafe(kind: type, config: Mapping[str, Any]) -> bool:
    """Return `False`: under torch, no gradient of a stock layer corrupts memory.

    Args:
        kind: Class of the stock layer.
        config: Configuration of the stock layer.
    """
    return False


def with_one_op(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """Return the class of the optimizer unchanged, because torch has no such op.

    Args:
        kind: Class of an optimizer.
    """
    return kind
