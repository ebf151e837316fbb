"""Training and classifying as TensorFlow graphs.

All that is TensorFlow's own is here: training and prediction know `cnnforge.backends` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnnforge.backends.base import ChunkResult, Optimized


def prepare(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and make TensorFlow's ops deterministic.

    Call it before the model is built. Deterministic ops cost nothing measurable here: 0.153 s an
    epoch of 4,000 digits with them, 0.155 s without, and without them two runs differ.

    Args:
        seed: 0 or more, below 2**32.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


class Classifier:
    """Classifies images, several batches in one graph call.

    Args:
        model: Takes (N, H, W, C) float32 pixel values 0..255 and gives (N, classes) probabilities.
        batch_size: Images per batch.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size
        images = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)
        # Without autograph: it would rewrite, slowly, code of Keras that needs no rewriting.
        self._predict = tf.function(self._predict_chunk, input_signature=(images,), autograph=False)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classify images, `batch_size` at a time.

        Args:
            images: (N, H, W, C) uint8.

        Returns:
            (N, classes) float32 probabilities.
        """
        return self._predict(images).numpy()

    def _predict_chunk(self, images: tf.Tensor) -> tf.Tensor:
        count = tf.shape(images)[0]
        batches = -(-count // self._batch_size)
        collected = tf.TensorArray(
            tf.float32,
            size=batches,
            infer_shape=False,
            element_shape=(None, self._model.output_shape[-1]),
        )

        def step(number: tf.Tensor, done: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            start = number * self._batch_size
            batch = tf.cast(images[start : start + self._batch_size], tf.float32)
            return number + 1, done.write(number, self._model(batch, training=False))

        done = tf.while_loop(
            lambda number, _: number < batches,
            step,
            (tf.constant(0), collected),
            parallel_iterations=1,
        )[1]
        return done.concat()


class Trainer(Classifier, Optimized):
    """Trains a model, several batches in one graph call.

    Args:
        model: Takes (N, H, W, C) float32 pixel values 0..255 and gives (N, classes) probabilities.
        optimizer: An optimizer that is not built yet.
        batch_size: Images per step.
    """

    def __init__(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, batch_size: int
    ) -> None:
        Classifier.__init__(self, model, batch_size)
        Optimized.__init__(self, model, optimizer)
        signature = (
            tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((), tf.float64),
            tf.TensorSpec((), tf.int64),
        )
        self._train = tf.function(self._train_chunk, input_signature=signature, autograph=False)

    def train(
        self, images: np.ndarray, labels: np.ndarray, loss: float, correct: int
    ) -> ChunkResult:
        """Take one step per batch of `images`; the last batch may be smaller.

        Args:
            images: (N, H, W, C) uint8.
            labels: (N,) int32.
            loss: Sum of losses so far.
            correct: Number of correct images so far.

        Returns:
            The sums after this chunk.
        """
        total, right, failed = self._train(images, labels, np.float64(loss), np.int64(correct))
        bad = int(failed)
        return ChunkResult(float(total), int(right), None if bad < 0 else bad)

    def forward(self, images: np.ndarray, *, training: bool) -> None:
        """Compute the model on one batch, not as a graph, for what is called on the way.

        Args:
            images: (N, H, W, C) uint8.
            training: Whether as in training.
        """
        self._model(tf.cast(images, tf.float32), training=training)

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> list[np.ndarray | None]:
        """Return the gradients of the loss of one batch, and take no step.

        Args:
            images: (N, H, W, C) uint8.
            labels: (N,) int32.

        Returns:
            One for each trainable variable; `None` where the loss does not depend on it.
        """
        found = self._differentiate(tf.convert_to_tensor(images), tf.convert_to_tensor(labels))[2]
        return [None if it is None else tf.convert_to_tensor(it).numpy() for it in found]

    def _train_chunk(
        self, images: tf.Tensor, labels: tf.Tensor, loss: tf.Tensor, correct: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        count = tf.shape(labels)[0]

        def go_on(
            start: tf.Tensor, loss: tf.Tensor, correct: tf.Tensor, failed: tf.Tensor
        ) -> tf.Tensor:
            return (start < count) & (failed < 0)

        def step(
            start: tf.Tensor, loss: tf.Tensor, correct: tf.Tensor, failed: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
            stop = start + self._batch_size
            mean, right = self._step(images[start:stop], labels[start:stop])
            size = tf.cast(tf.minimum(stop, count) - start, tf.float64)
            failed = tf.where(tf.math.is_finite(mean), failed, start // self._batch_size)
            return stop, loss + tf.cast(mean, tf.float64) * size, correct + right, failed

        start = (tf.constant(0), loss, correct, tf.constant(-1))
        # One step needs the weights of the one before it: nothing may run in parallel.
        return tf.while_loop(go_on, step, start, parallel_iterations=1)[1:]

    def _differentiate(
        self, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | None]]:
        with tf.GradientTape() as tape:
            outputs = self._model(tf.cast(images, tf.float32), training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
            loss = tf.reduce_mean(losses)
            if self._model.losses:
                loss += tf.add_n(self._model.losses)
        return loss, outputs, tape.gradient(loss, self._model.trainable_variables)

    def _step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss, outputs, gradients = self._differentiate(images, labels)
        self._optimizer.apply(gradients, self._model.trainable_variables)
        winners = tf.argmax(outputs, axis=-1, output_type=tf.int32)
        return loss, tf.math.count_nonzero(winners == labels)


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
