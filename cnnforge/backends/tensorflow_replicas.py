"""Divide training steps among several devices under the TensorFlow backend.

The loss of a device is the sum over its images divided by the number of images of the whole batch,
so the sum of the gradients of all devices is the gradient of the batch. One sum over the devices
is made in each step. It has the gradients, the loss, the metrics, and the changes of what the
layers keep besides their weights, such as the statistics of batch normalization. Afterwards all
devices have the same bits.

On several devices of one process, TensorFlow keeps a copy of each variable on each device
(`MirroredStrategy`). Each of several processes has variables of its own for its one device, and
the strategy (`MultiWorkerMirroredStrategy`) computes the sums only. So no process waits for
another one when it reads a variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from cnnforge.backends.base import LOSS, ChunkResult
from cnnforge.backends.tensorflow import Tensors, Trainer
from cnnforge.utils.parts import part, part_to_read

if TYPE_CHECKING:
    from cnnforge.tasks.task import Task

# Added to the seed of a device for each device before it, so that their dropout masks differ. The
# multiples of this odd number are far apart.
_SEED_STEP = 0x9E3779B1


class StrategyReplicas:
    """The devices among which a strategy of TensorFlow divides training steps.

    Args:
        strategy: The strategy. With several processes, each has one device.
        rank: Index of this process.
        processes: Number of processes.

    Attributes:
        count: Number of devices, of all processes.
        mirrored: Whether a model needs a copy of each variable on each device, made in `scope`.
    """

    def __init__(self, strategy: tf.distribute.Strategy, rank: int = 0, processes: int = 1) -> None:
        self.strategy, self.rank, self.processes = strategy, rank, processes
        self.count = int(strategy.num_replicas_in_sync)
        self.mirrored = processes == 1
        self._reduce: dict[str, Any] = {}

    def scope(self) -> AbstractContextManager[Any]:
        """Return a context in which variables get a copy on each device of this process."""
        return self.strategy.scope() if self.mirrored else nullcontext()

    def trainer(
        self,
        model: keras.Model,
        task: Task,
        optimizer: keras.optimizers.Optimizer,
        batch_size: int,
        whole: keras.Model | None = None,
    ) -> ReplicaTrainer:
        """Return a trainer for these devices."""
        return ReplicaTrainer(model, task, optimizer, batch_size, whole, self)

    def reduce(self, array: np.ndarray) -> np.ndarray:
        """Sum an array over the processes.

        Args:
            array: (N,) int32, int64, float32 or float64; N is the same in each process.
        """
        kind = array.dtype.name
        if kind not in self._reduce:
            self._reduce[kind] = tf.function(
                # A copy, because a sum needs values that are computed on the device.
                lambda value: self.strategy.run(lambda it: _sum(tf.identity(it)), args=(value,)),
                input_signature=(tf.TensorSpec((None,), array.dtype),),
                autograph=False,
            )
        return self._reduce[kind](array).numpy()

    def local(self, value: Any) -> Any:
        """Return the value of the first device of this process."""
        return self.strategy.experimental_local_results(value)[0]


def _sum(values: Any) -> Any:
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


class ReplicaTrainer(Trainer):
    """Trains a model on several devices, several batches in one graph call.

    Args:
        model: See `Trainer`.
        task: See `Trainer`.
        optimizer: See `Trainer`.
        batch_size: Number of images in a training step, of all devices.
        whole: See `Trainer`.
        replicas: The devices.
    """

    def __init__(
        self,
        model: keras.Model,
        task: Task,
        optimizer: keras.optimizers.Optimizer,
        batch_size: int,
        whole: keras.Model | None,
        replicas: StrategyReplicas,
    ) -> None:
        super().__init__(model, task, optimizer, batch_size, whole)
        self._replicas = replicas
        weights = {id(variable) for variable in model.weights}
        # The other variables are the states of random generators.
        self._seeds = [each for each in model.variables if id(each) not in weights]
        self._kept = [
            each for each in model.non_trainable_weights if each.dtype.startswith("float")
        ]
        # Whether the loss depends on each trainable variable.
        self._depends: list[bool] = []

    def train(
        self,
        images: np.ndarray,
        targets: Mapping[str, np.ndarray],
        sums: Mapping[str, float],
        count: int | None = None,
    ) -> ChunkResult:
        """Take one step per batch; the last batch may be smaller.

        Args:
            images: (N, H, W, C) uint8: the images that this process has read of each batch, one
                batch after another.
            targets: Arrays (N, ...) by name.
            sums: Sums of the loss and the metrics so far, by the task's names. A missing sum is 0.
            count: Number of images of all processes in these steps; `None`: there is one process.

        Returns:
            The sums after these steps, and the index of the first batch whose loss is not finite.
            They are the same in all processes.
        """
        if self._train is None:
            self._train = self._traced(images, targets)
        before = {name: np.float64(sums.get(name, 0.0)) for name in self._task.sum_names}
        counts, rows = self._rows(len(images) if count is None else count)
        after, failed = self._train(images, dict(targets), before, counts, rows)
        bad = int(failed)
        return ChunkResult(
            {k: float(total) for k, total in after.items()}, None if bad < 0 else bad
        )

    def _rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of each step on each device of this process.

        Args:
            count: Number of images of all processes in all steps.

        Returns:
            Two arrays: the number of images of each of S steps, (S,) int32, and (S, D, 3) int32 for
            D devices: the first of their images, the one after their last, and 1; the number is 0
            if the device has no part in the step, and computes with an image of another device.
        """
        size, replicas = self._batch_size, self._replicas
        counts = [min(size, count - at) for at in range(0, count, size)]
        devices = replicas.count // replicas.processes
        rows, begun = [], 0
        for each in counts:
            first, end = part_to_read(each, replicas.rank, replicas.processes)
            steps = []
            for device in range(devices):
                index = replicas.rank * devices + device
                start, stop = part(each, index, replicas.count)
                if stop > start:
                    steps.append((begun + start - first, begun + stop - first, 1))
                else:
                    steps.append((begun, begun + 1, 0))
            rows.append(steps)
            begun += end - first
        return np.array(counts, np.int32), np.array(rows, np.int32)

    def _traced(self, images: np.ndarray, targets: Mapping[str, np.ndarray]) -> Any:
        devices = self._replicas.count // self._replicas.processes
        signature = (
            self._spec(images),
            {name: tf.TensorSpec((None, *t.shape[1:]), t.dtype) for name, t in targets.items()},
            {name: tf.TensorSpec((), tf.float64) for name in self._task.sum_names},
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None, devices, 3), tf.int32),
        )
        return tf.function(self._train_steps, input_signature=signature, autograph=False)

    def _train_steps(
        self,
        images: tf.Tensor,
        targets: Tensors,
        sums: Tensors,
        counts: tf.Tensor,
        rows: tf.Tensor,
    ) -> tuple[Tensors, tf.Tensor]:
        strategy = self._replicas.strategy
        steps = tf.shape(counts)[0]

        def go_on(number: tf.Tensor, sums: Tensors, failed: tf.Tensor) -> tf.Tensor:
            return (number < steps) & (failed < 0)

        def step(
            number: tf.Tensor, sums: Tensors, failed: tf.Tensor
        ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
            arguments = (images, targets, counts[number], rows[number])
            gradients, found = strategy.run(self._gradients_of_part, args=arguments)
            if self._replicas.mirrored:
                strategy.run(self._apply, args=(gradients,))
            else:
                self._apply(gradients)
            found = {
                name: tf.cast(self._replicas.local(value), tf.float64)
                for name, value in found.items()
            }
            mean = found[LOSS]
            found[LOSS] = mean * tf.cast(counts[number], tf.float64)
            failed = tf.where(tf.math.is_finite(mean), failed, number)
            return number + 1, {name: total + found[name] for name, total in sums.items()}, failed

        strategy.run(self._move_seeds, args=(1,))
        start = (tf.constant(0), sums, tf.constant(-1))
        result = tf.while_loop(go_on, step, start, parallel_iterations=1)[1:]
        strategy.run(self._move_seeds, args=(-1,))
        return result

    def _move_seeds(self, direction: int) -> None:
        """Give this device seeds of its own, or the common ones again."""
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        for seed in self._seeds:
            step = tf.cast(index, seed.dtype) * tf.constant(_SEED_STEP, seed.dtype)
            # The numbers are unsigned, so the sum wraps around, and the difference too.
            step = step * tf.constant([1, 0], seed.dtype)
            seed.assign(seed.value + step if direction > 0 else seed.value - step)

    def _gradients_of_part(
        self, images: tf.Tensor, targets: Tensors, count: tf.Tensor, rows: tf.Tensor
    ) -> tuple[list[tf.Tensor], Tensors]:
        """Compute the gradients of the loss of the batch. Each device has a part of the images.

        Returns:
            The gradients, without those that are `None`, and the mean loss and the sums of the
            metrics by name; all of them are of the whole batch.
        """
        context = tf.distribute.get_replica_context()
        devices = self._replicas.count // self._replicas.processes
        row = rows[context.replica_id_in_sync_group - self._replicas.rank * devices]
        batch = images[row[0] : row[1]]
        part = {name: target[row[0] : row[1]] for name, target in targets.items()}
        has_part = tf.cast(row[2], tf.float32)
        number = tf.cast(count, tf.float32)
        before = [tf.identity(variable.value) for variable in self._kept]
        with tf.GradientTape() as tape:
            outputs = self._model(tf.cast(batch, tf.float32), training=True)
            losses = tf.cast(self._task.losses(part, outputs), tf.float32)
            loss = tf.reduce_sum(losses) * has_part / number
            if self._model.losses:
                loss += tf.add_n(self._model.losses) / self._replicas.count
        gradients = tape.gradient(loss, self._model.trainable_variables)
        self._depends = [each is not None for each in gradients]
        dense = [tf.convert_to_tensor(each) for each in gradients if each is not None]
        found = self._task.sums(part, outputs)
        sums = [tf.cast(value, tf.float32) * has_part for value in found.values()]
        with_part = tf.minimum(number, float(self._replicas.count))
        changes = [
            (variable.value - kept) * tf.cast(has_part / with_part, kept.dtype)
            for variable, kept in zip(self._kept, before, strict=True)
        ]
        dense, scalars, changes = _sum((dense, tf.stack([loss, *sums]), changes))
        for variable, kept, change in zip(self._kept, before, changes, strict=True):
            variable.assign(kept + change)
        return dense, dict(zip((LOSS, *found), tf.unstack(scalars, len(found) + 1), strict=True))

    def _outputs(self, batch: tf.Tensor) -> Any:
        """Predict a batch: the devices of this process have a part of it each."""
        if not self._replicas.mirrored:
            return super()._outputs(batch)
        strategy, devices = self._replicas.strategy, self._replicas.count
        count = tf.shape(batch)[0]

        def part() -> Any:
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            start, stop = count * index // devices, count * (index + 1) // devices
            # A device without a part computes with one image, and its result is left out.
            first = tf.minimum(start, count - 1)
            outputs = self._model(batch[first : tf.maximum(stop, first + 1)], training=False)
            return keras.tree.map_structure(lambda it: it[: stop - start], outputs)

        def joined(values: Any) -> tf.Tensor:
            return tf.concat(strategy.experimental_local_results(values), 0)

        return keras.tree.map_structure(joined, strategy.run(part))

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        if self._replicas.mirrored:
            # Keras clips the gradients and then sums them over the devices. They are summed
            # already, because clipping needs the sum. So only the first device has them.
            gradients = [tf.where(index == 0, each, tf.zeros_like(each)) for each in gradients]
        found = iter(gradients)
        aligned = [next(found) if depends else None for depends in self._depends]
        self._optimizer.apply(aligned, self._model.trainable_variables)
