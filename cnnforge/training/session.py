"""A run from its options to its last file: data, model, loop, report. It prints nothing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import keras

from cnnforge._tensorflow import prepare
from cnnforge.configuration import TrainingOptions, check_types, parse_epochs
from cnnforge.conversion import Kernels, forge, implementations, lower
from cnnforge.data import DataOptions, Dataset, open_dataset, parse
from cnnforge.discovery import Plugins
from cnnforge.environment import environment, versions
from cnnforge.errors import CnnforgeError, PluginError, RunError, UsageError, one_line
from cnnforge.evaluation import Evaluation, evaluate
from cnnforge.plugin import ModelSpec
from cnnforge.prediction.predictor import Predictor, load_model
from cnnforge.prediction.rows import csv_table
from cnnforge.reporting.figures import confusion_matrix, training_curves
from cnnforge.runs import CONFIG, RunDirectory
from cnnforge.training.events import EpochEnded, EpochMetrics, Event, Listener
from cnnforge.training.loop import TrainingResult, train
from cnnforge.training.state import StateStore, TrainingState

# What may differ between the two halves of a resumed run.
_FREE = ("epochs", "output", "plugin", "init_from", "strict")
# The saved model is stock Keras, the trained one may have had other kernels: they agree up to
# rounding. More than this means that the weights are not those that were measured.
_LARGEST_DRIFT = 1e-2


@dataclass
class Session:
    """A training run that is ready to start or to go on.

    Attributes:
        options: Its options.
        run: Its directory.
        dataset: Its data.
        model: The model to train, with the kernels that were asked for.
        stock: The same model in stock Keras layers; it is what is saved.
        plugins: All plugins.
        state: What to go on from; `None` for a new run.
        warnings: What the user should be told before it starts, a sentence each.
    """

    options: TrainingOptions
    run: RunDirectory
    dataset: Dataset
    model: keras.Model
    stock: keras.Model
    plugins: Plugins
    state: TrainingState | None
    warnings: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.state is not None and self.state.epoch >= self.options.epochs

    def train(
        self,
        listeners: Sequence[Listener] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainingResult:
        """Train until the last epoch is done, or until asked to stop.

        Args:
            listeners: Called with every event, after this session has written its files.
            should_stop: Asked between chunks of batches.

        Returns:
            The last state.

        Raises:
            CnnforgeError: See `cnnforge.training.train`.
        """
        result = train(
            self.model,
            self.dataset,
            epochs=self.options.epochs,
            batch_size=self.options.batch_size,
            learning_rate=self.options.learning_rate,
            seed=self.options.seed,
            store=StateStore(self.run.states),
            resume_from=self.state,
            config=_identity(self.options, self.dataset),
            save_best=self._save_best,
            listeners=(_MetricsFile(self.run, self.state), *listeners),
            should_stop=should_stop,
        )
        self.state = result.state
        return result

    def report(self) -> Evaluation:
        """Evaluate the saved model on the validation samples, and write tables and figures.

        Returns:
            The evaluation.

        Raises:
            RunError: The saved model does not give what was measured during training, or a file
                could not be written.
        """
        if self.state is None or self.state.best is None:
            raise RunError(f"the run {self.run.path} has no finished epoch to report on")
        best, history = self.state.best, self.state.history
        predictor = Predictor.open(
            self.run, layers=self.plugins.layers, kernels=_kernels(self.options)
        )
        samples = self.dataset.validation
        probabilities = predictor.probabilities(samples)
        result = evaluate(probabilities, samples.labels, self.dataset.classes)
        if not abs(result.loss - best.loss) <= _LARGEST_DRIFT * (1 + best.loss):
            raise RunError(
                f"{self.run.model} has a validation loss of {result.loss:.6f}, but "
                f"{best.loss:.6f} was measured in epoch {best.epoch}: a layer does not give the "
                "same after it is saved; train with --kernels keras to find out which"
            )
        rows = predictor.rows(samples, probabilities)
        self.run.write_text("predictions.csv", csv_table(rows))
        classes = self.dataset.classes
        self.run.write_csv(
            "confusion_matrix.csv",
            ["true \\ predicted", *classes],
            ([name, *row] for name, row in zip(classes, result.confusion.tolist(), strict=True)),
        )
        with self.run.writing("confusion_matrix.png") as path:
            confusion_matrix(
                path,
                confusion=result.confusion,
                classes=classes,
                title=f"{self.run.name}: validation accuracy {result.accuracy:.1%}",
            )
        with self.run.writing("curves.png") as path:
            training_curves(
                path,
                loss=[row.loss for row in history],
                val_loss=[row.val_loss for row in history],
                accuracy=[row.accuracy for row in history],
                val_accuracy=[row.val_accuracy for row in history],
                best_epoch=best.epoch,
                title=self.run.name,
            )
        return result

    def _save_best(self) -> None:
        self.stock.set_weights(self.model.get_weights())
        try:
            with self.run.writing("model.keras") as path:
                self.stock.save(path)
        except CnnforgeError:
            raise
        except Exception as error:
            raise RunError(
                f"{self.run.model} could not be written: {one_line(error)}; the previous one is "
                "kept"
            ) from error


def start(options: TrainingOptions, plugins: Plugins) -> Session:
    """Prepare a new run: open the data, build the model, make the run directory.

    Args:
        options: The options.
        plugins: All plugins.

    Returns:
        The session. Its directory holds the configuration, and no model yet.

    Raises:
        UsageError: A name is unknown, or the model cannot be built for these images.
        DataError: The data cannot be read.
        RunError: The directory cannot be made.
    """
    options = replace(options, data=_absolute(options.data, plugins))
    spec = plugins.models[options.model]
    dataset = _open_data(options, plugins)
    model, stock = _build(options, spec, dataset, plugins)
    run = RunDirectory.create(Path(options.output), spec.name, options.data)
    session = Session(options, run, dataset, model, stock, plugins, None, _notes(dataset))
    _write_facts(session, spec)
    return session


def resume(
    path: Path,
    given: Mapping[str, Any],
    epochs: str | None,
    load: Callable[[Sequence[str]], Plugins],
) -> Session:
    """Prepare to go on with a run.

    Args:
        path: The run directory.
        given: The options that the user gave this time; they must be those of the run.
        epochs: How many epochs the run shall have: `"30"`, or `"+10"` for ten more than it was
            going to have; `None`: as many as before.
        load: Loads the plugins, given those that the run was started with.

    Returns:
        The session; `finished` when there is nothing left to do.

    Raises:
        UsageError: An option, the data or the code of the model is not what it was.
        RunError: The run is damaged.
    """
    run = RunDirectory.open(path, needs=())
    stored, table = run.read_config()
    options = TrainingOptions(**check_types(stored, str(run.path / CONFIG)))
    for name, value in given.items():
        if name not in _FREE:
            _same(run, name, getattr(options, name), value)
    total = parse_epochs(epochs, options.epochs) if epochs else options.epochs
    options = replace(options, epochs=total, plugin=(*options.plugin, *given.get("plugin", ())))
    options = replace(options, plugin=tuple(dict.fromkeys(options.plugin)))
    plugins = load(options.plugin)
    state, warnings = StateStore(run.states).load()
    spec = plugins.models[str(table.get("model", options.model))]
    dataset = _open_data(options, plugins)
    identity = _identity(options, dataset)
    for name, value in (state.config if state else {}).items():
        _same(run, name, value, identity.get(name))
    if not state:
        warnings.append(f"{run.path} has no training state: training starts from the beginning")
    initial = options if state is None else replace(options, init_from=None)
    model, stock = _build(initial, spec, dataset, plugins)
    session = Session(
        options, run, dataset, model, stock, plugins, state, (*warnings, *_notes(dataset))
    )
    if not session.finished:
        _write_facts(session, spec)
    return session


class _MetricsFile:
    """A listener that writes `metrics.csv`."""

    def __init__(self, run: RunDirectory, state: TrainingState | None) -> None:
        self._run = run
        self._rows = list(state.history) if state else []

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self._rows.append(event.metrics)
            names = [field.name for field in dataclasses.fields(EpochMetrics)]
            rows = [[f"{getattr(row, name):.7g}" for name in names] for row in self._rows]
            self._run.write_csv("metrics.csv", names, rows)


def _absolute(reference: str, plugins: Plugins) -> str:
    """Name the data so that it is found from every working directory."""
    name, argument = parse(reference, plugins.datasets)
    if argument is None:
        return name
    path = os.path.expanduser(argument)
    return f"{name}:{os.path.abspath(path) if os.path.exists(path) else argument}"


def _open_data(options: TrainingOptions, plugins: Plugins) -> Dataset:
    data_options = DataOptions(
        image_size=options.height_and_width,
        color=options.color,  # pyright: ignore[reportArgumentType]
        validation_fraction=options.validation_fraction,
        seed=options.seed,
        strict=options.strict,
    )
    return open_dataset(options.data, plugins.datasets, data_options)


def _build(
    options: TrainingOptions, spec: ModelSpec, dataset: Dataset, plugins: Plugins
) -> tuple[keras.Model, keras.Model]:
    prepare(options.seed)
    shape, count = dataset.image_shape, len(dataset.classes)
    size = "x".join(map(str, shape))
    try:
        model = spec.load()(shape, count)
    except ValueError as error:
        raise UsageError(
            f"the model {spec.name!r} cannot be built for images of {size}: "
            f"{' '.join(str(error).split())}"
        ) from error
    except CnnforgeError:
        raise
    except Exception as error:
        raise PluginError(f"the model {spec.qualified_name!r} failed: {one_line(error)}") from error
    if not isinstance(model, keras.Model):
        raise PluginError(
            f"the model {spec.qualified_name!r} is a {type(model).__name__}: its plugin must "
            "return a keras.Model"
        )
    if model.input_shape != (None, *shape) or model.output_shape != (None, count):
        raise PluginError(
            f"the model {spec.qualified_name!r} maps {model.input_shape} to {model.output_shape}, "
            f"expected (None, {', '.join(map(str, shape))}) to (None, {count})"
        )
    if options.init_from is not None:
        _take_weights(model, Path(options.init_from), plugins)
    forged = forge(model, _kernels(options), layers=plugins.layers)
    mixed = any(it.provider for it in implementations(forged, layers=plugins.layers))
    return forged, lower(forged, layers=plugins.layers) if mixed else forged


def _kernels(options: TrainingOptions) -> Kernels:
    return cast("Kernels", options.kernels)


def _take_weights(model: keras.Model, source: Path, plugins: Plugins) -> None:
    if source.is_dir():
        source = RunDirectory.open(source).model
    if not source.is_file():
        raise UsageError(f"--init-from: there is no file {source}")
    weights = load_model(source, plugins.layers).get_weights()
    wanted = model.get_weights()
    if len(weights) != len(wanted):
        raise UsageError(
            f"--init-from: {source} has {len(weights)} weights, the model has {len(wanted)}: it "
            "is another model"
        )
    for variable, old, new in zip(model.weights, wanted, weights, strict=True):
        if old.shape != new.shape:
            raise UsageError(
                f"--init-from: {variable.path} has the shape {new.shape} in {source}, the model "
                f"needs {old.shape}: another image size, or another number of classes"
            )
    model.set_weights(weights)


def _identity(options: TrainingOptions, dataset: Dataset) -> dict[str, str | int | float | bool]:
    """What must not change between an interrupted run and the resumed one."""
    values = {k: v for k, v in options.as_dict().items() if k not in _FREE and v is not None}
    return {**values, "data fingerprint": dataset.fingerprint}


def _same(run: RunDirectory, name: str, before: object, now: object) -> None:
    if name == "data":
        # The run holds the absolute form of what the user writes; the fingerprint decides.
        before, now = (str(it).rpartition(":")[2] for it in (before, now))
        now = before if before == os.path.abspath(now) else now
    if before != now:
        raise UsageError(
            f"the run {run.path} has {name} = {before}, not {now}: a resumed run keeps its "
            f"configuration; for a new run from its weights use --init-from {run.path}"
        )


def _notes(dataset: Dataset) -> tuple[str, ...]:
    if not dataset.skipped:
        return dataset.notes
    count = len(dataset.skipped)
    files = "1 file was" if count == 1 else f"{count} files were"
    return (*dataset.notes, f"{files} skipped; skipped.csv in the run says which and why")


def _write_facts(session: Session, spec: ModelSpec) -> None:
    run, dataset = session.run, session.dataset
    table = {
        "cnnforge": versions(["cnnforge"]).get("cnnforge", "unknown"),
        "model": spec.qualified_name,
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.image_shape),
    }
    run.write_classes(dataset.classes)
    if dataset.skipped:
        run.write_csv("skipped.csv", ["file", "reason"], dataset.skipped)
    chosen = implementations(session.model, layers=session.plugins.layers)
    run.write_json("kernels.json", [dataclasses.asdict(it) for it in chosen])
    used = [it for it in session.plugins.records if it.status == "loaded"]
    facts = environment(
        seed=session.options.seed,
        data_fingerprint=dataset.fingerprint,
        model=spec.qualified_name,
        plugins=[
            {
                "name": record.name,
                "source": record.source,
                "distribution": record.distribution,
                "version": record.version,
            }
            for record in used
        ],
    )
    run.write_json("environment.json", facts)
    # Last: a directory without it is no run.
    run.write_config(session.options.as_dict(), table)
