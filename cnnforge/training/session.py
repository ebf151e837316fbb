"""Train the model of a run, and then write a report with tables and figures.

This module prints nothing. Listeners get the events of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import keras
import numpy as np

from cnnforge.callbacks import Callback
from cnnforge.configuration import TrainingOptions
from cnnforge.conversion import Kernels, LayerImplementation
from cnnforge.conversion.certificate import LayerCheck
from cnnforge.conversion.copying import rebuilt
from cnnforge.data import Augmentation, Dataset
from cnnforge.distributed.workers import ALONE, Workers
from cnnforge.errors import CnnforgeError, RunError, one_line
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction.keras_model import forged_predictor, load_model, outputs_of
from cnnforge.prediction.plans import PLAN, make_plan
from cnnforge.prediction.reference_predictions import (
    COUNT,
    FILE_NAME,
    ReferencePredictions,
    write_reference_predictions,
)
from cnnforge.reporting.event_log import EventLog
from cnnforge.reporting.figures import training_curves
from cnnforge.reporting.tensorboard import EventFile
from cnnforge.reports.run_page import REPORT, write_report
from cnnforge.reports.thumbnails import keep_thumbnails
from cnnforge.runs import EVALUATION, METRICS, RunDirectory
from cnnforge.tasks import LOSS, Evaluation, Row, Task, open_task
from cnnforge.training.events import EpochEnded, EpochMetrics, Event, Listener
from cnnforge.training.initial_weights import InitialWeights
from cnnforge.training.loop import train
from cnnforge.training.memory import Estimate, out_of_memory_explained
from cnnforge.training.pretrained import fine_tuning_of
from cnnforge.training.saved_layers import own_layers
from cnnforge.training.state import StateStore, TrainingResult, TrainingState
from cnnforge.utils.available_memory import is_out_of_memory
from cnnforge.utils.names import resume_command

# Options that the user may change when resuming a run. All others must stay the same.
# The place of the data may change, their content may not: the fingerprint is compared.
DEVICES = "devices"
FREE = (
    DEVICES,
    "data",
    "epochs",
    "output",
    "plugin",
    "init_from",
    "weights",
    "strict",
    "tensorboard",
    "cache",
    "thumbnails",
    "log",
)
# Max difference between the validation loss of the trained model and that of the saved model,
# relative to 1 + loss. The two models may run on different kernels, which round differently. A
# difference above this limit means that the saved weights are wrong, and is an error.
_MAX_DRIFT = 1e-2
TENSORBOARD = "tensorboard"
"""Name of the folder in a run with the files for TensorBoard."""
# Key of the fingerprint of the data among the values that must not change.
FINGERPRINT = "data fingerprint"


@dataclass
class Session:
    """A training run that is ready to start or to be resumed.

    Attributes:
        options: Options of the run.
        run: Directory of the run.
        task: The task.
        dataset: The dataset.
        model: The model to train, with the chosen kernels.
        stock: The same model with stock Keras layers only. This one is saved.
        plugins: All plugins.
        state: State to resume from; `None` for a new run.
        warnings: Messages for the user before training, one sentence each.
        checks: Results of comparing each plugin layer of the model with its stock Keras layer.
        callbacks: Callbacks by name.
        augmentations: Name and function of each augmentation of the training images.
        implementations: For each layer of the model, whether it runs on a Numba kernel or in Keras,
            and why.
        size: Estimate of the memory that training needs; `None` if it is unknown.
        initial_weights: Lists of the weights that came from `--init-from` and of the others; `None`
            if the weights are random, or those of the training state.
        test: Evaluation of the saved model on the test samples; `report` sets it if the dataset has
            test samples.
        model_chosen: Whether cnnforge has chosen the model, because the user named none.
        workers: The processes that train together, and their devices.
        fine_tuning: Lines for the user about what is frozen and what is trained; empty if the
            weights are not pretrained.
    """

    options: TrainingOptions
    run: RunDirectory
    task: Task
    dataset: Dataset
    model: keras.Model
    stock: keras.Model
    plugins: Plugins
    state: TrainingState | None
    warnings: tuple[str, ...]
    checks: tuple[LayerCheck, ...] = ()
    callbacks: Mapping[str, Callback] = field(default_factory=dict)
    augmentations: tuple[tuple[str, Augmentation], ...] = ()
    implementations: Sequence[LayerImplementation] = ()
    size: Estimate | None = None
    initial_weights: InitialWeights | None = None
    test: Evaluation | None = None
    fine_tuning: Sequence[str] = ()
    model_chosen: bool = False
    workers: Workers = ALONE

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or a callback has ended training."""
        state = self.state
        return state is not None and (state.epoch >= self.options.epochs or bool(state.stopped))

    def train(
        self,
        listeners: Sequence[Listener] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainingResult:
        """Train until the last epoch is done or `should_stop` returns true.

        Args:
            listeners: Functions that are called with every event. At the end of an epoch,
                `metrics.csv` is written before they are called.
            should_stop: Function that is called after every few batches. If it returns true, the
                state is saved and training ends.

        Returns:
            The training state at the end, and whether training was interrupted.

        Raises:
            CnnforgeError: Memory ran out, or see `cnnforge.training.train`.
        """
        files = self._files() if self.workers.is_first else ()
        replicas = self.workers.replicas
        if replicas is not None and replicas.mirrored:
            with replicas.scope():
                self.model = rebuilt(self.model, lambda layer: None)
        with out_of_memory_explained(self.size):
            result = train(
                self.model,
                self.task,
                self.dataset,
                epochs=self.options.epochs,
                batch_size=self.options.batch_size,
                optimizer=self.options,
                seed=self.options.seed,
                monitor=self.options.monitor,
                store=StateStore(self.run.states),
                resume_from=self.state,
                config={
                    **identity_of(self.options, self.dataset),
                    DEVICES: self.workers.devices,
                },
                save_best=self._save_best,
                listeners=(*files, *listeners),
                should_stop=should_stop,
                callbacks=self.callbacks,
                augmentations=self.augmentations,
                folder=self.run.path,
                fine_tuning=fine_tuning_of(self.options),
                workers=self.workers,
            )
        self.state = result.state
        return result

    def _files(self) -> list[Listener]:
        """Return listeners that write files."""
        files: list[Listener] = [_MetricsFile(self.run, self.state)]
        if self.options.tensorboard:
            history = self.state.history if self.state else ()
            files.append(_TensorBoard(self.run, history))
        if (log := self.options.log_file) is not None:
            files.append(EventLog(log, self.run.path))
        return files

    def report(self) -> Evaluation:
        """Evaluate the saved model on the validation samples. Write files with tables and figures.

        A warning is logged for each file that could not be written.
        If the dataset has test samples, the model is evaluated on them, too, for `test`.

        Returns:
            The evaluation on the validation samples.

        Raises:
            RunError: The validation loss of the saved model differs from the loss that was measured
                when it was saved.
            CnnforgeError: Memory ran out.
        """
        advice = (
            "the model is saved, but tables or figures are missing; close other programs, and "
            f"write them with {resume_command(self.run.path)}"
        )
        with out_of_memory_explained(advice=advice):
            return self._report()

    def _report(self) -> Evaluation:
        if self.state is None or self.state.best is None:
            raise RunError(f"the run {self.run.path} has no finished epoch to report on")
        best, history = self.state.best, self.state.history
        task, samples = open_task(self.run, self.plugins.tasks), self.dataset.validation
        saved = load_model(self.run.model, self.plugins.layers)
        kernels = kernels_of(self.options)
        predictor = forged_predictor(saved, task, kernels, self.plugins.layers)
        evaluator = task.evaluator(self.dataset, samples, np.arange(len(samples)))
        rows: list[Row] = []
        for indices, outputs in predictor.predict(samples):
            evaluator.add(outputs)
            rows += predictor.rows(self.dataset, samples, indices, outputs)
        result = evaluator.result()
        loss, measured = result.metrics[LOSS.name], best.values[LOSS.name]
        if not abs(loss - measured) <= _MAX_DRIFT * (1 + abs(measured)):
            raise RunError(
                f"{self.run.model} has a validation loss of {loss:.6f}, but {measured:.6f} was "
                f"measured in epoch {best.epoch}: a layer changes when it is saved and loaded; "
                "train with --kernels keras to find out which"
            )
        if task.calibrate(result):
            task.write(self.run)
            rows = list(predictor.predict_samples(self.dataset, samples))
        # If an earlier process was killed just after it had saved the last state, metrics.csv lacks
        # its last row. Write the file again.
        _write_metrics(self.run, history)
        with self.run.optional("predictions.csv"):
            self.run.write_text("predictions.csv", task.csv_table(rows))
        keys = ("name", "title", "best", "percent")
        metrics = [{key: getattr(metric, key) for key in keys} for metric in task.metrics]
        monitor = task.monitored(self.options.monitor).name
        report = {
            "task": self.plugins.tasks[self.dataset.task].qualified_name,
            "best_epoch": best.epoch,
            "epochs": len(history),
            "total_epochs": self.options.epochs,
            "finished": self.finished,
            "monitor": monitor,
            "metrics": metrics,
            "validation": result.as_dict(),
        }
        if self.dataset.test is not None:
            self.test = predictor.evaluate(self.dataset, self.dataset.test)
            report["test"] = self.test.as_dict()
        with self.run.optional(EVALUATION):
            self.run.write_json(EVALUATION, report)
        with self.run.optional("the report of the task"):
            task.report(self.run, result)
        with self.run.optional("the models for other programs"):
            task.export(self.run, saved)
        with self.run.optional("curves.png"), self.run.writing("curves.png") as path:
            training_curves(
                path,
                history=[row.as_dict() for row in history],
                metrics=metrics,
                monitor=monitor,
                best_epoch=best.epoch,
                title=self.run.name,
            )
        self._prepare_predictions(saved, task)
        with self.run.optional(REPORT):
            if self.options.thumbnails:
                keep_thumbnails(self.run, samples, task.notable(rows))
            write_report(self.run, task)
        return result

    def _prepare_predictions(self, saved: keras.Model, task: Task) -> None:
        """Keep reference predictions of the saved model, and its inference plan, in the run."""
        with self.run.optional(f"{FILE_NAME} or {PLAN}"):
            reference = self._reference_predictions(saved)
            write_reference_predictions(self.run, reference)
            make_plan(self.run, saved, reference, task, self.plugins)

    def _reference_predictions(self, model: keras.Model) -> ReferencePredictions:
        samples = self.dataset.validation
        images = samples.fetch(np.arange(min(COUNT, len(samples))))
        return ReferencePredictions(images, outputs_of(model)(images))

    def _save_best(self) -> None:
        self.stock.set_weights(self.model.get_weights())
        try:
            with self.run.writing("model.keras") as path:
                self.stock.save(path)
            if own_layers(self.stock):
                # A layer of a plugin may change, so these are written also if training is stopped.
                write_reference_predictions(self.run, self._reference_predictions(self.stock))
        except CnnforgeError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise RunError(
                f"{self.run.model} could not be written: {one_line(error)}; the previous one is "
                "kept"
            ) from error


def identity_of(options: TrainingOptions, dataset: Dataset) -> dict[str, str | int | float | bool]:
    """Return the values that must be the same when a run is resumed, by name.

    They are the options outside `FREE` that are not `None`, the fingerprint of the data, and the
    Keras backend.
    """
    # Another backend draws other random numbers and rounds differently, so the resumed run would
    # give other results.
    backend = keras.backend.backend()
    return {**_fixed(options), FINGERPRINT: dataset.fingerprint, "Keras backend": backend}


def stored_identity(state: TrainingState) -> dict[str, str | int | float | bool]:
    """Return the values that `identity_of` returned when a training state was saved.

    If the state does not contain an option, the run used the default of the option. Either the
    value was `None`, or the version of cnnforge that saved the state did not have the option.
    """
    seed = state.config.get("seed", 0)
    if type(seed) is not int:
        raise RunError(
            f"the training state has the seed {seed!r}, expected a whole number: delete its "
            "file to resume from the state before it"
        )
    defaults = TrainingOptions(seed=seed)
    stored = {name: value for name, value in state.config.items() if name not in FREE}
    return {**_fixed(defaults), **stored}


def _fixed(options: TrainingOptions) -> dict[str, str | int | float | bool]:
    values = {k: v for k, v in options.as_dict().items() if k not in FREE and v is not None}
    return {k: ", ".join(v) if isinstance(v, list) else v for k, v in values.items()}


def kernels_of(options: TrainingOptions) -> Kernels:
    """Return the option `kernels`, with the type that `cnnforge.conversion.forge` expects."""
    return cast("Kernels", options.kernels)


class _MetricsFile:
    """A listener of training events that writes `metrics.csv` after every epoch."""

    def __init__(self, run: RunDirectory, state: TrainingState | None) -> None:
        self._run = run
        self._rows = list(state.history) if state else []

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self._rows.append(event.metrics)
            _write_metrics(self._run, self._rows)


class _TensorBoard:
    """A listener of training events that writes the metrics of every epoch for TensorBoard.

    The file of an earlier process is replaced, so that no epoch is missing or there twice.
    """

    def __init__(self, run: RunDirectory, history: Sequence[EpochMetrics]) -> None:
        folder = run.path / TENSORBOARD
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._file = EventFile(folder)
        for metrics in history:
            self._write(metrics)

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self._write(event.metrics)

    def _write(self, metrics: EpochMetrics) -> None:
        values = metrics.as_dict()
        del values["epoch"]
        self._file.write(metrics.epoch, values)


def _write_metrics(run: RunDirectory, history: Sequence[EpochMetrics]) -> None:
    with run.optional(METRICS):
        rows = [row.as_dict() for row in history]
        # Take the columns from the last row, which has all of them. If cnnforge 0.1 began the run,
        # its first rows lack some columns.
        names = list(rows[-1]) if rows else []
        table = [[f"{row[name]:.7g}" if name in row else "" for name in names] for row in rows]
        run.write_csv(METRICS, names, table)
