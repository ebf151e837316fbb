"""The training loop over epochs and batches.

This module decides the order of the samples, saves the state, and sends events to listeners.
`cnnforge.backends.Trainer` runs the training steps in the framework behind Keras. This module
prints nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np

from cnnforge.callbacks import Callback
from cnnforge.data import Augmentation, AugmentedSamples, Dataset, samples_of_epoch
from cnnforge.data.prefetch import Chunk, StepsPerCall, chunks, images_only
from cnnforge.distributed.workers import ALONE, Workers
from cnnforge.errors import RunError
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks import LOSS, Evaluation, Metric, Task, is_better
from cnnforge.training.components import EpochCallbacks
from cnnforge.training.events import (
    BatchesDone,
    EpochBegun,
    EpochEnded,
    EpochMetrics,
    Event,
    Interrupted,
    Listener,
)
from cnnforge.training.failures import fail, first_in_training, first_in_validation
from cnnforge.training.order import order
from cnnforge.training.phases import NO_FINE_TUNING, FineTuning, Phases
from cnnforge.training.state import Best, StateStore, Sums, TrainingResult, TrainingState

_SAVE_SECONDS = 300.0
_ADAM = OptimizerOptions()


class _Stopped(Exception):
    pass


def train(
    model: keras.Model,
    task: Task,
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int = 64,
    optimizer: OptimizerOptions = _ADAM,
    seed: int = 0,
    monitor: str | None = None,
    store: StateStore | None = None,
    resume_from: TrainingState | None = None,
    config: Mapping[str, str | int | float | bool] | None = None,
    save_best: Callable[[], None] = lambda: None,
    listeners: Sequence[Listener] = (),
    should_stop: Callable[[], bool] = lambda: False,
    callbacks: Mapping[str, Callback] | None = None,
    augmentations: Sequence[tuple[str, Augmentation]] = (),
    folder: Path | None = None,
    fine_tuning: FineTuning = NO_FINE_TUNING,
    workers: Workers = ALONE,
) -> TrainingResult:
    """Train `model` until `epochs` epochs are done.

    If `prepare(seed)` is called before the model is built, the same arguments give the same
    weights, bit for bit. Interruptions do not change the result.

    Args:
        model: Model that takes (N, H, W, C) float32 pixel values 0..255 and returns the outputs
            that the task needs. It is trained in place.
        task: The task.
        dataset: Dataset with training and validation samples.
        epochs: Total number of epochs, including those before `resume_from`.
        batch_size: Number of images per step; the last step of an epoch may have fewer.
        optimizer: Options of the optimizer.
        seed: Random seed of the order of the samples and of the augmentations.
        monitor: Validation metric that selects the best epoch; `None`: the default of the task. If
            two epochs have the same value, the one with the lower loss is better.
        store: Store to which the state is saved: at the start, after every epoch, every five
            minutes, and when the loop is asked to stop. `None`: the state is not saved.
        resume_from: State to resume from; `None` for a new run.
        config: Values that are saved with the state. `cnnforge.training.resume` raises an error if
            they differ from the options with which the run is resumed.
        save_best: Function that saves the model. It is called after each epoch that is the best one
            so far, before the state is saved.
        listeners: Functions that are called with every event.
        should_stop: Function that is called after every few batches. If it returns true, the state
            is saved and the loop ends.
        callbacks: Callbacks by name. They are called after every epoch, and their states are saved
            with the state of the run.
        augmentations: Name and function of each augmentation of the training samples.
        folder: The run directory, for callbacks and temporary files; or `None`.
        fine_tuning: Number of frozen epochs and rate of the backbone, for pretrained weights.
        workers: The processes that train together, which all call this function. Only the first one
            saves, and calls listeners and callbacks.

    Returns:
        The training state at the end, and whether training was interrupted.

    Raises:
        UnknownNameError: The task has no metric `monitor`.
        UsageError: The warmup is not shorter than the training.
        NotFiniteError: The loss or a weight is not finite. The message names epoch, batch and
            layer. Such a value is never saved, so the run can be resumed from its last state.
        CnnforgeError: `resume_from` belongs to another model.
        RunError: A file could not be written.
        PluginError: A callback or an augmentation failed.
    """
    metric = task.monitored(monitor)
    phases = Phases(
        model,
        task,
        optimizer,
        batch_size=batch_size,
        batches=-(-len(dataset.train) // batch_size),
        epochs=epochs,
        fine_tuning=fine_tuning,
        folder=folder,
        replicas=workers.replicas,
    )
    begun = resume_from.epoch if resume_from is not None else 0
    run = _Run(phases, begun, task, dataset, epochs, batch_size, seed, workers)
    run.metric, run.augmentations = metric, tuple(augmentations)
    run.asked_to_stop = should_stop
    if workers.is_first:
        run.store, run.save_best, run.listeners = store, save_best, tuple(listeners)
    run.callbacks = EpochCallbacks(
        callbacks or {}, run.phase.rate, model, epochs, folder, metric.name, workers
    )
    if resume_from is not None:
        run.phase.trainer.restore(resume_from.arrays)
        run.last = resume_from
        run.state = replace(resume_from, arrays=(), config=dict(config or resume_from.config))
        run.callbacks.restore(resume_from.callbacks)
    else:
        run.state = TrainingState(arrays=(), config=dict(config or {}))
    run.begin_alike()
    if resume_from is None:
        run.save()
    interrupted = False
    try:
        while not run.done:
            run.epoch()
    except _Stopped:
        interrupted = True
    return TrainingResult(run.current(), interrupted)


class _Run:
    """The state and the steps of one call of `train`.

    The field `arrays` of `state` is empty: the trainer has the variables, see `current`.
    """

    def __init__(
        self,
        phases: Phases,
        begun: int,
        task: Task,
        dataset: Dataset,
        epochs: int,
        batch_size: int,
        seed: int,
        workers: Workers,
    ) -> None:
        self.workers = workers
        self.phases, self.phase, self.task = phases, phases.at(begun), task
        self.metric: Metric = task.monitored()
        self.dataset, self.epochs = dataset, epochs
        self.batch_size, self.seed = batch_size, seed
        self.batches = -(-len(dataset.train) // batch_size)
        self.measure_again()
        self.saved_at = time.monotonic()
        self.state = TrainingState(arrays=())
        # The last saved state, with its arrays. If a value is not finite, the search for its layer
        # starts from this state and replays the batches after it.
        self.last = self.state
        self.store: StateStore | None = None
        self.save_best: Callable[[], None] = lambda: None
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.listeners: tuple[Listener, ...] = ()
        self.augmentations: tuple[tuple[str, Augmentation], ...] = ()
        self.callbacks: EpochCallbacks

    @property
    def done(self) -> bool:
        return self.state.epoch >= self.epochs or bool(self.state.stopped)

    def measure_again(self) -> None:
        """Choose the number of steps per call again, since another model is trained."""
        # All workers must make the same number of calls.
        fixed = self.workers.are_several
        self.train_size, self.validation_size = (
            StepsPerCall(self.dataset.image_shape, self.batch_size, fixed=fixed) for _ in range(2)
        )

    def begin_alike(self) -> None:
        """Give all workers the weights of the first one."""
        if not self.workers.are_several:
            return
        if not self.workers.same(self.state.epoch * (self.batches + 1) + self.state.batch):
            raise RunError(
                "the workers have read different states of the run: --output must name one folder "
                "that all machines see"
            )
        arrays = self.phase.trainer.arrays()
        self.phase.trainer.restore(self.workers.arrays_from_first(arrays))

    def epoch(self) -> None:
        # Each worker computes all features, in its own time.
        between = (lambda: None) if self.workers.are_several else self.stop_or_save
        kept = self.phase.keep_features(self.dataset, not self.augmentations, between)
        if kept is not None:
            self.tell(kept)
        state = self.state
        self.tell(EpochBegun(state.epoch + 1, self.epochs, state.batch, self.batches))
        self.train_epoch()
        begun = time.perf_counter()
        with self.phase.trainer.averaged():
            evaluation = self.validate()
        self.finish_epoch(evaluation, time.perf_counter() - begun)
        if self.workers.agree(self.asked_to_stop())[0] and not self.done:
            self.tell(Interrupted(self.state.epoch + 1, 0))
            raise _Stopped

    def train_epoch(self) -> None:
        samples = self.dataset.train
        begun = time.perf_counter()
        for chunk in self.chunks(self.state, self.train_size):
            called = time.perf_counter()
            sums = self.state.sums
            result = self.phase.trainer.train(chunk.images, chunk.targets, sums.values, chunk.total)
            now = time.perf_counter()
            if result.failed is not None:
                batch = chunk.first + result.failed
                self.fail(f"the loss in {self.place(batch)}", self.find_in_training(batch))
            self.train_size.record(chunk.batches, now - called)
            waited = sums.waiting + called - begun
            sums = Sums(result.sums, sums.seconds + now - begun, waited)
            self.state = replace(self.state, batch=chunk.first + chunk.batches, sums=sums)
            seen = min(self.state.batch * self.batch_size, len(samples))
            self.tell(
                BatchesDone(
                    epoch=self.state.epoch + 1,
                    batch=self.state.batch,
                    batches=self.batches,
                    values=self.task.training_metrics(sums.values, seen),
                    images_per_second=chunk.total / (now - begun),
                )
            )
            begun = now
            self.stop_or_save()

    def chunks(self, state: TrainingState, size: StepsPerCall) -> Iterator[Chunk]:
        """Read the batches that remain in the epoch of a state. A chunk has several batches."""
        kept = self.phase.train
        samples = kept or samples_of_epoch(self.dataset.train, state.epoch)
        visit = order(self.seed, state.epoch, len(samples))
        if self.augmentations:
            samples = AugmentedSamples(samples, self.augmentations, self.seed, state.epoch)

        def read(indices: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
            return self.task.read(samples, indices)

        def own(indices: np.ndarray) -> np.ndarray:
            return self.workers.own_of_batches(indices, self.batch_size)

        found = chunks(read, visit, self.batch_size, size, state.batch, own)
        if kept is not None or self.phase.backbone is None:
            return found
        return self.phase.backbone.replaced(found)

    def validate(self) -> Evaluation:
        samples = self.dataset.validation
        visit = np.arange(len(samples))
        evaluator = self.task.evaluator(self.dataset, samples, visit)
        for chunk in self.validation_chunks(self.validation_size):
            called = time.perf_counter()
            outputs = self.phase.trainer.predict(chunk.images)
            gather = partial(self.workers.gather, count=chunk.total)
            evaluator.add(keras.tree.map_structure(gather, outputs))
            self.validation_size.record(chunk.batches, time.perf_counter() - called)
            self.stop_or_save()
        return evaluator.result()

    def validation_chunks(self, size: StepsPerCall) -> Iterator[Chunk]:
        samples = self.phase.validation or self.dataset.validation
        visit = np.arange(len(samples))
        return chunks(images_only(samples), visit, self.batch_size, size, own=self.workers.own)

    def finish_epoch(self, evaluation: Evaluation, seconds: float) -> None:
        found = dict(evaluation.metrics)
        if not math.isfinite(found[LOSS.name]):
            # If a weight is not finite, the loss is not finite either. Check the weights first, so
            # that the error names the weight.
            self.check(self.current(), self.state.epoch + 1, self.batches)
            where = f"the validation loss after {self.place(self.batches - 1)}"
            self.fail(where, self.find_in_validation())
        state, count = self.state, len(self.dataset.train)
        validated = {f"val_{name}": value for name, value in found.items()}
        metrics = EpochMetrics(
            epoch=state.epoch + 1,
            values={**self.task.training_metrics(state.sums.values, count), **validated},
            learning_rate=self.phase.rate.last,
            seconds=state.sums.seconds + seconds,
            images_per_second=count / state.sums.seconds,
            waiting=state.sums.waiting / state.sums.seconds,
        )
        best = state.best
        improved = is_better(self.metric, found, best.values if best else None)
        if improved:
            best = Best(metrics.epoch, found)
        # Call the callbacks before making the new training state. The training state contains the
        # states of the callbacks, and the learning rate, which a callback may change.
        callback_states, stopped = self.callbacks.epoch_ended(metrics, improved)
        self.state = replace(
            state,
            epoch=state.epoch + 1,
            batch=0,
            sums=Sums(),
            best=best,
            history=(*state.history, metrics),
            callbacks=callback_states,
            stopped=stopped,
        )
        # Save the model before the state. If the run is killed between the two, the resumed run
        # repeats this epoch and writes the same model again. In the opposite order, the resumed run
        # would lack the model of this epoch.
        current = self.current()
        self.check(current, metrics.epoch, self.batches)
        if improved:
            with self.phase.trainer.averaged():
                self.save_best()
        if self.phases.begins_at(self.state.epoch):
            self.phase = self.phases.at(self.state.epoch)
            self.callbacks.rate = self.phase.rate
            self.measure_again()
            current = self.current()
        self.save(current)
        self.tell(EpochEnded(metrics, self.epochs, improved))

    def stop_or_save(self) -> None:
        due = time.monotonic() - self.saved_at > _SAVE_SECONDS
        stop, save = self.workers.agree(self.asked_to_stop(), due)
        if stop or save:
            self.save()
        if stop:
            self.tell(Interrupted(self.state.epoch + 1, self.state.batch))
            raise _Stopped

    def save(self, state: TrainingState | None = None) -> None:
        if state is None:
            state = self.current()
            self.check(state, state.epoch + 1, state.batch)
        if self.store is not None:
            self.store.save(state)
        self.last, self.saved_at = state, time.monotonic()

    def check(self, state: TrainingState, epoch: int, batch: int) -> None:
        if not all(np.isfinite(array).all() for array in state.arrays):
            where = f"a weight after epoch {epoch}, batch {batch} of {self.batches}"
            self.fail(where, self.find_in_training(batch - 1))

    def current(self) -> TrainingState:
        return replace(self.state, arrays=self.phase.trainer.arrays())

    def place(self, batch: int) -> str:
        return f"epoch {self.state.epoch + 1}, batch {batch + 1} of {self.batches}"

    def find_in_training(self, batch: int) -> str | None:
        if self.workers.replicas is not None:
            return None
        size = StepsPerCall(self.dataset.image_shape, self.batch_size)
        size.batches = 1
        chunks = self.chunks(self.last, size)
        return first_in_training(self.phase, self.last, chunks, batch, self.asked_to_stop)

    def find_in_validation(self) -> str | None:
        if self.workers.replicas is not None:
            return None
        size = StepsPerCall(self.dataset.image_shape, self.batch_size)
        return first_in_validation(self.phase, self.validation_chunks(size))

    def fail(self, what: str, first: str | None) -> NoReturn:
        fail(what, first, saved=self.store is not None and self.store.has_states)

    def tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)
