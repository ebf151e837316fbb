"""Training and predicting as TensorFlow graphs.

All that is TensorFlow's own is here: training and prediction know `cnnforge.backends` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from cnnforge.backends.base import LOSS, ChunkResult, Optimized

if TYPE_CHECKING:
    from cnnforge.tasks.task import Task

Tensors = dict[str, tf.Tensor]


def prepare(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and make TensorFlow's ops deterministic.

    Call it before the model is built. Deterministic ops cost nothing measurable here: 0.153 s an
    epoch of 4,000 digits with them, 0.155 s without, and without them two runs differ.

    Args:
        seed: 0 or more, below 2**32.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


class BatchPredictor:
    """Computes the outputs of a model, several batches in one graph call.

    Args:
        model: Takes (N, H, W, C) float32 pixel values 0..255.
        batch_size: Images per batch.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size
        images = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)
        # Without autograph: it would rewrite, slowly, code of Keras that needs no rewriting.
        self._predict = tf.function(self._predict_chunk, input_signature=(images,), autograph=False)

    def predict(self, images: np.ndarray) -> Any:
        """Compute the outputs, `batch_size` images at a time.

        Args:
            images: (N, H, W, C) uint8.

        Returns:
            (N, ...) arrays in the structure of the model's outputs.
        """
        return keras.tree.map_structure(lambda it: it.numpy(), self._predict(images))

    def _predict_chunk(self, images: tf.Tensor) -> Any:
        count = tf.shape(images)[0]
        batches = -(-count // self._batch_size)
        collected = tuple(
            tf.TensorArray(it.dtype, size=batches, infer_shape=False, element_shape=it.shape)
            for it in self._model.outputs
        )
        structure: list[Any] = []

        def step(
            number: tf.Tensor, done: tuple[tf.TensorArray, ...]
        ) -> tuple[tf.Tensor, tuple[tf.TensorArray, ...]]:
            start = number * self._batch_size
            batch = tf.cast(images[start : start + self._batch_size], tf.float32)
            outputs = self._model(batch, training=False)
            structure[:] = [keras.tree.map_structure(lambda _: 0, outputs)]
            flat = keras.tree.flatten(outputs)
            return number + 1, tuple(
                array.write(number, it) for array, it in zip(done, flat, strict=True)
            )

        done = tf.while_loop(
            lambda number, _: number < batches,
            step,
            (tf.constant(0), collected),
            parallel_iterations=1,
        )[1]
        return keras.tree.pack_sequence_as(structure[0], [array.concat() for array in done])


class Trainer(BatchPredictor, Optimized):
    """Trains a model, several batches in one graph call.

    Args:
        model: Takes (N, H, W, C) float32 pixel values 0..255.
        task: What it learns.
        optimizer: An optimizer that is not built yet.
        batch_size: Images per step.
    """

    def __init__(
        self,
        model: keras.Model,
        task: Task,
        optimizer: keras.optimizers.Optimizer,
        batch_size: int,
    ) -> None:
        BatchPredictor.__init__(self, model, batch_size)
        Optimized.__init__(self, model, optimizer)
        self._task = task
        self._train: Any = None

    def train(
        self, images: np.ndarray, targets: Mapping[str, np.ndarray], sums: Mapping[str, float]
    ) -> ChunkResult:
        """Take one step per batch of `images`; the last batch may be smaller.

        Args:
            images: (N, H, W, C) uint8.
            targets: Arrays (N, ...) by name.
            sums: Sums so far, by the task's names; one that is missing is 0.

        Returns:
            The sums after this chunk.
        """
        if self._train is None:
            self._train = self._traced(targets)
        before = {name: np.float64(sums.get(name, 0.0)) for name in self._task.sum_names}
        after, failed = self._train(images, dict(targets), before)
        bad = int(failed)
        return ChunkResult({k: float(it) for k, it in after.items()}, None if bad < 0 else bad)

    def forward(self, images: np.ndarray, *, training: bool) -> None:
        """Compute the model on one batch, not as a graph, for what is called on the way.

        Args:
            images: (N, H, W, C) uint8.
            training: Whether as in training.
        """
        self._model(tf.cast(images, tf.float32), training=training)

    def gradients(
        self, images: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> list[np.ndarray | None]:
        """Return the gradients of the loss of one batch, and take no step.

        Args:
            images: (N, H, W, C) uint8.
            targets: Arrays (N, ...) by name.

        Returns:
            One for each trainable variable; `None` where the loss does not depend on it.
        """
        tensors = {name: tf.convert_to_tensor(it) for name, it in targets.items()}
        found = self._differentiate(tf.convert_to_tensor(images), tensors)[2]
        return [None if it is None else tf.convert_to_tensor(it).numpy() for it in found]

    def _traced(self, targets: Mapping[str, np.ndarray]) -> Any:
        signature = (
            tf.TensorSpec((None, *self._model.input_shape[1:]), tf.uint8),
            {name: tf.TensorSpec((None, *it.shape[1:]), it.dtype) for name, it in targets.items()},
            {name: tf.TensorSpec((), tf.float64) for name in self._task.sum_names},
        )
        return tf.function(self._train_chunk, input_signature=signature, autograph=False)

    def _train_chunk(
        self, images: tf.Tensor, targets: Tensors, sums: Tensors
    ) -> tuple[Tensors, tf.Tensor]:
        count = tf.shape(images)[0]

        def go_on(start: tf.Tensor, sums: Tensors, failed: tf.Tensor) -> tf.Tensor:
            return (start < count) & (failed < 0)

        def step(
            start: tf.Tensor, sums: Tensors, failed: tf.Tensor
        ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
            stop = start + self._batch_size
            batch = {name: it[start:stop] for name, it in targets.items()}
            mean, found = self._step(images[start:stop], batch)
            size = tf.cast(tf.minimum(stop, count) - start, tf.float64)
            found = {name: tf.cast(it, tf.float64) for name, it in found.items()}
            found[LOSS] = tf.cast(mean, tf.float64) * size
            failed = tf.where(tf.math.is_finite(mean), failed, start // self._batch_size)
            return stop, {name: it + found[name] for name, it in sums.items()}, failed

        start = (tf.constant(0), sums, tf.constant(-1))
        # One step needs the weights of the one before it: nothing may run in parallel.
        return tf.while_loop(go_on, step, start, parallel_iterations=1)[1:]

    def _differentiate(
        self, images: tf.Tensor, targets: Tensors
    ) -> tuple[tf.Tensor, Any, list[tf.Tensor | None]]:
        with tf.GradientTape() as tape:
            outputs = self._model(tf.cast(images, tf.float32), training=True)
            loss = tf.reduce_mean(self._task.losses(targets, outputs))
            if self._model.losses:
                loss += tf.add_n(self._model.losses)
        return loss, outputs, tape.gradient(loss, self._model.trainable_variables)

    def _step(self, images: tf.Tensor, targets: Tensors) -> tuple[tf.Tensor, Tensors]:
        loss, outputs, gradients = self._differentiate(images, targets)
        self._optimizer.apply(gradients, self._model.trainable_variables)
        return loss, dict(self._task.sums(targets, outputs))


def pullback(
    layer: keras.layers.Layer, inputs: tf.Tensor, *, training: bool | None = None
) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor | None]]]:
    """Compute a layer and prepare to compute its gradients.

    Args:
        layer: A built layer of one input.
        inputs: A tensor.
        training: Whether the layer computes as in training; by default as it likes best.

    Returns:
        The outputs, and a function from a tensor like them, the gradient with respect to them, to
        the gradients with respect to the inputs and to each trainable variable. It may be called
        several times. `None`: the outputs do not depend on it.
    """
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    tape: Any = tf.GradientTape(persistent=True)
    with tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)

    def gradients(upstream: tf.Tensor) -> list[tf.Tensor | None]:
        found = tape.gradient(outputs, sources, output_gradients=upstream)
        # An embedding's gradient names the rows that it has.
        return [None if it is None else tf.convert_to_tensor(it) for it in found]

    return outputs, gradients
