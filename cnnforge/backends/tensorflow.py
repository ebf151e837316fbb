"""Train and predict under the TensorFlow backend, as TensorFlow graphs.

Import these names from `cnnforge.backends`, which chooses the module of the active backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from cnnforge.backends.base import LOSS, ChunkResult, TrainableModel

if TYPE_CHECKING:
    from cnnforge.tasks.task import Task

Tensors = dict[str, tf.Tensor]


def prepare(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and make TensorFlow's ops deterministic.

    Call it before the model is built. Without deterministic ops, two runs with the same seed
    differ. Deterministic ops cost no measurable time: an epoch of 4,000 digits took 0.153 s with
    them and 0.155 s without them.

    Args:
        seed: Random seed, 0 or more and below 2**32.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def copies_of(variable: keras.Variable) -> Sequence[Any]:
    """Return the copies of a variable on several devices; none if there is one device."""
    value = variable.value
    return value.values if isinstance(value, tf.distribute.DistributedValues) else ()


class BatchPredictor:
    """Computes the outputs of a model, several batches in one graph call.

    Args:
        model: A model whose inputs are (N, H, W, C) float32 pixel values from 0 to 255.
        batch_size: Number of images in a batch.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size
        self._predict: Any = None

    def predict(self, images: np.ndarray) -> Any:
        """Compute the outputs, `batch_size` images at a time.

        Args:
            images: (N, H, W, C) uint8.

        Returns:
            (N, ...) arrays in the structure of the model's outputs.
        """
        if self._predict is None:
            signature = (self._spec(images),)
            # Autograph would spend time on converting Keras' code, which needs no conversion.
            self._predict = tf.function(
                self._predict_chunk, input_signature=signature, autograph=False
            )
        return keras.tree.map_structure(lambda output: output.numpy(), self._predict(images))

    def _spec(self, images: np.ndarray) -> tf.TensorSpec:
        return tf.TensorSpec((None, *self._model.input_shape[1:]), images.dtype)

    def _predict_chunk(self, images: tf.Tensor) -> Any:
        count = tf.shape(images)[0]
        batches = -(-count // self._batch_size)
        collected = tuple(
            tf.TensorArray(out.dtype, size=batches, infer_shape=False, element_shape=out.shape)
            for out in self._model.outputs
        )
        structure: list[Any] = []

        def step(
            number: tf.Tensor, done: tuple[tf.TensorArray, ...]
        ) -> tuple[tf.Tensor, tuple[tf.TensorArray, ...]]:
            start = number * self._batch_size
            batch = tf.cast(images[start : start + self._batch_size], tf.float32)
            outputs = self._outputs(batch)
            structure[:] = [keras.tree.map_structure(lambda _: 0, outputs)]
            flat = keras.tree.flatten(outputs)
            return number + 1, tuple(
                array.write(number, out) for array, out in zip(done, flat, strict=True)
            )

        done = tf.while_loop(
            lambda number, _: number < batches,
            step,
            (tf.constant(0), collected),
            parallel_iterations=1,
        )[1]
        return keras.tree.pack_sequence_as(structure[0], [array.concat() for array in done])

    def _outputs(self, batch: tf.Tensor) -> Any:
        return self._model(batch, training=False)


class Trainer(BatchPredictor, TrainableModel):
    """Trains a model, several batches in one graph call.

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
        self._train: Any = None

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
        if self._train is None:
            self._train = self._traced(images, targets)
        before = {name: np.float64(sums.get(name, 0.0)) for name in self._task.sum_names}
        after, failed = self._train(images, dict(targets), before)
        bad = int(failed)
        return ChunkResult(
            {k: float(total) for k, total in after.items()}, None if bad < 0 else bad
        )

    def forward(self, images: np.ndarray, *, training: bool) -> None:
        """Call the model on one batch eagerly.

        If a function has replaced the `call` of a layer, it gets tensors with values, and not the
        symbolic tensors of a graph.

        Args:
            images: (N, H, W, C) uint8.
            training: Whether the layers compute as in training.
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
            A gradient for each trainable variable, or `None` if the loss does not depend on it.
        """
        tensors = {name: tf.convert_to_tensor(array) for name, array in targets.items()}
        found = self._differentiate(tf.convert_to_tensor(images), tensors)[2]
        return [None if one is None else tf.convert_to_tensor(one).numpy() for one in found]

    def _traced(self, images: np.ndarray, targets: Mapping[str, np.ndarray]) -> Any:
        signature = (
            self._spec(images),
            {name: tf.TensorSpec((None, *t.shape[1:]), t.dtype) for name, t in targets.items()},
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
            batch = {name: target[start:stop] for name, target in targets.items()}
            mean, found = self._step(images[start:stop], batch)
            size = tf.cast(tf.minimum(stop, count) - start, tf.float64)
            found = {name: tf.cast(value, tf.float64) for name, value in found.items()}
            found[LOSS] = tf.cast(mean, tf.float64) * size
            failed = tf.where(tf.math.is_finite(mean), failed, start // self._batch_size)
            return stop, {name: total + found[name] for name, total in sums.items()}, failed

        start = (tf.constant(0), sums, tf.constant(-1))
        # Each step needs the weights of the step before it, so no two steps may run in parallel.
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
    """Compute the outputs of a layer, and make a function that computes its gradients.

    Args:
        layer: A built layer that has one input.
        inputs: The tensor that the layer is called with.
        training: The layer's argument `training`; `None` means the layer's default.

    Returns:
        The outputs and a function. The argument of the function is the gradient with respect to the
        outputs. It returns the gradients with respect to the inputs and to each trainable variable,
        with `None` for a variable that the outputs do not depend on. It may be called several
        times.
    """
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    tape: Any = tf.GradientTape(persistent=True)
    with tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)

    def gradients(upstream: tf.Tensor) -> list[tf.Tensor | None]:
        found = tape.gradient(outputs, sources, output_gradients=upstream)
        # The gradient of an embedding is sparse, and `convert_to_tensor` makes it dense.
        return [None if one is None else tf.convert_to_tensor(one) for one in found]

    return outputs, gradients


def repeated_passes(layer: keras.layers.Layer, grad_inputs: bool) -> dict[str, Callable[..., Any]]:
    """Make functions that repeat the passes of a layer inside one graph call.

    Args:
        layer: A built layer that has one input.
        grad_inputs: Whether the passes also compute the gradient of the inputs.

    Returns:
        Functions by name. `forward(count, inputs)` computes the outputs, as in a prediction.
        `full(count, inputs, upstream)` computes the outputs and the gradients, as in training.
        `backward(count, inputs, upstream)` computes the outputs once, and then only the gradients.
        A layer without gradients has no such function. Each function computes its pass `count`
        times in one graph call, and returns when the last computation is done. `upstream` is the
        gradient with respect to the outputs.
    """
    on_gpu = bool(tf.config.list_physical_devices("GPU"))

    def sources(inputs: tf.Tensor) -> list[Any]:
        weights = [variable.value for variable in layer.trainable_variables]
        return [inputs, *weights] if grad_inputs else weights

    def forward(inputs: tf.Tensor) -> Callable[[], list[Any]]:
        return lambda: [layer(inputs)]

    def full(inputs: tf.Tensor, upstream: tf.Tensor) -> Callable[[], list[Any]]:
        def compute() -> list[Any]:
            outputs, gradients = trained(inputs, upstream)
            return [outputs, *gradients()]

        return compute

    def backward(inputs: tf.Tensor, upstream: tf.Tensor) -> Callable[[], list[Any]]:
        # Outside of the loop that repeats the gradients, which read what this has computed.
        return trained(inputs, upstream)[1]

    def trained(inputs: tf.Tensor, upstream: tf.Tensor) -> tuple[Any, Callable[[], list[Any]]]:
        """Compute the outputs, and return a function that computes the gradients."""
        watched = sources(inputs)
        with tf.GradientTape() as tape:
            tape.watch(watched)
            outputs = layer(inputs, training=True)

        def gradients() -> list[Any]:
            found = tape.gradient(outputs, watched, output_gradients=upstream) if watched else []
            return [gradient for gradient in found if gradient is not None]

        return outputs, gradients

    def repeated(prepare: Callable[..., Callable[[], list[Any]]]) -> Callable[..., Any]:
        def run(count: Any, *arguments: Any) -> Any:
            compute = prepare(*arguments)

            def step(number: Any, total: Any) -> tuple[Any, Any]:
                # TensorFlow does not compute a result that nothing reads. So add one element of
                # each result to the total. If there are no images, the slice is empty.
                results = [tf.reshape(result, [-1])[:1] for result in compute()]
                used = [tf.reduce_sum(tf.cast(result, tf.float32)) for result in results]
                return number + 1, total + tf.add_n(used)

            start = (tf.constant(0), tf.constant(0.0))
            return tf.while_loop(lambda number, _: number < count, step, start, None, 1)[1]

        # Autograph would spend time on converting Keras' code, which needs no conversion.
        graph: Any = tf.function(run, autograph=False)
        # The traced graph for each combination of shapes. `tf.function` could keep these graphs,
        # but it would warn about repeated tracing, because a benchmark traces many functions.
        traced: dict[Any, Any] = {}

        def call(count: int, *arguments: Any) -> Any:
            # A tensor, because TensorFlow traces another graph for each value of a Python number.
            number = tf.constant(count)
            shapes = tuple(tuple(argument.shape) for argument in arguments)
            if shapes not in traced:
                traced[shapes] = graph.get_concrete_function(number, *arguments)
            result = traced[shapes](number, *arguments)
            if on_gpu:
                tf.test.experimental.sync_devices()
            return result

        return call

    passes = {"forward": repeated(forward), "full": repeated(full)}
    if grad_inputs or layer.trainable_variables:
        passes["backward"] = repeated(backward)
    return passes


def reference_is_unsafe(kind: type, config: Mapping[str, Any]) -> bool:
    """Tell whether the gradient of a stock layer may corrupt the memory of this process.

    In TensorFlow 2.21, oneDNN's gradient on the CPU corrupts memory for strided convolutions with a
    1x1 window and certain numbers of channels.

    Args:
        kind: Class of the stock layer.
        config: Configuration of the stock layer.
    """
    return (
        issubclass(kind, keras.layers.Conv2D)
        and math.prod(_pair(config.get("kernel_size", 0))) == 1
        and math.prod(_pair(config.get("strides", 1))) > 1
    )


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
