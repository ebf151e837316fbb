"""Prepare a run before training: open the data, build the model, make or open the run directory.

`start` prepares a new run, `resume` a run that was interrupted or should get more epochs.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from cnnforge.backends import prepare
from cnnforge.configuration import TrainingOptions, check_types, epochs_of_resumed
from cnnforge.conversion import LayerImplementation, decide, forge, lower
from cnnforge.conversion.certificate import LayerCheck, certify
from cnnforge.conversion.oracle_certificate import ORACLE
from cnnforge.data import DataOptions, Dataset, cached, drop_duplicates, open_dataset, summarize
from cnnforge.data.references import absolute_reference, find_dataset
from cnnforge.distributed.workers import ALONE, Workers
from cnnforge.errors import CnnforgeError, DataError, UsageError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.runs import CONFIG, RunDirectory, named_plugins, requirements
from cnnforge.tasks import Task, load_task, task_for
from cnnforge.training.building import build_model
from cnnforge.training.choice import ModelChoice
from cnnforge.training.components import (
    check_mixing,
    make_augmentations,
    make_callbacks,
    mirror_notes,
    qualified,
)
from cnnforge.training.initial_weights import InitialWeights
from cnnforge.training.memory import (
    Estimate,
    check_memory,
    estimate,
    max_size_that_fits,
    out_of_memory_explained,
)
from cnnforge.training.pretrained import describe, load_weights, with_weights
from cnnforge.training.run_metadata import (
    check_data,
    check_option,
    read_decisions,
    write_run_metadata,
)
from cnnforge.training.saved_layers import (
    check_can_be_opened,
    own_layers,
    saved_layers_note,
)
from cnnforge.training.session import (
    DEVICES,
    FINGERPRINT,
    FREE,
    Session,
    identity_of,
    kernels_of,
    stored_identity,
)
from cnnforge.training.state import StateStore
from cnnforge.utils.atomic_files import remove_leftovers
from cnnforge.utils.available_memory import available_memory
from cnnforge.utils.keras_graph import all_layers


def _silent(line: str) -> None:
    """Show nothing."""


def start(
    options: TrainingOptions,
    plugins: Plugins,
    tell: Callable[[str], None] = _silent,
    workers: Workers = ALONE,
) -> Session:
    """Prepare a new run: open the data, build the model, make the run directory.

    Args:
        options: Options of the run.
        plugins: All plugins.
        tell: Function that shows a line to the user. It is called with a summary of the data as
            soon as they are open, before the model is built, which takes seconds.
        workers: The workers. Only the first one calls this function; the others call `resume`.

    Returns:
        The session. The run directory contains the configuration, but no model yet.

    Raises:
        UsageError: A name is unknown, or the model cannot be built for these images.
        DataError: The data cannot be read.
        RunError: The directory cannot be made.
    """
    named_plugins.remember(options.plugin)
    options = replace(options, data=absolute_reference(options.data, plugins.datasets))
    choice = ModelChoice(options, plugins)
    callbacks = make_callbacks(qualified(options.callback, plugins.callbacks), plugins.callbacks)
    augmentations = make_augmentations(
        qualified(options.augment, plugins.augmentations), plugins.augmentations
    )
    dataset = _open_data(options, plugins, max_size=choice.max_size)
    tell(summarize(dataset).line)
    reference = choice.reference(dataset)
    if line := choice.describe(dataset):
        tell(line)
    model_chosen = options.model is None
    if model_chosen:
        spec = plugins.models[reference.partition(":")[0]]
        options = replace(options, model=plugins.models.shortest_name(spec))
    options, weights_notes = with_weights(options, reference, plugins.models)
    task = task_for(dataset, plugins.tasks, options.task_options)
    check_mixing(augmentations, task)
    # Only checks the name of the metric. Building the model takes seconds, so check the name first.
    _ = task.monitored(options.monitor)
    at_shape = _estimator(options, reference, task, dataset, plugins)
    size, bound = at_shape(dataset.image_shape), ()
    # If the user has chosen a larger batch than the default, this is the cause.
    chosen = options.height_and_width or options.batch_size > TrainingOptions.batch_size
    if size is not None and not chosen:
        spec = plugins.models[reference.partition(":")[0]]
        limit = max_size_that_fits(size, available_memory(), spec, at_shape)
        if limit is not None:
            bound = (f"the images are smaller than by default, because {size.describe()}",)
            dataset, size = _open_data(options, plugins, max_size=limit), None
            tell(summarize(dataset).line)
    built = _build(options, reference, task, dataset, plugins, size=size)
    fine_tuning = describe(built.model, options, built.initial_weights, task)
    checks = _certified(built.model, plugins, options.plugin)
    mirrored = mirror_notes(options.augment, dataset.classes)
    notes = (*_notes(dataset), *mirrored, *bound, *weights_notes, *built.notes)
    model, stock = built.model, built.stock
    run = RunDirectory.create(Path(options.output), reference.partition(":")[0], options.data)
    with run.discarded_on_error():
        session = Session(options, run, task, dataset, model, stock, plugins, None, notes, checks)
        session.fine_tuning, session.model_chosen = fine_tuning, model_chosen
        session.workers = workers
        session.callbacks, session.augmentations = callbacks, augmentations
        session.implementations = built.decided
        session.size, session.initial_weights = built.size, built.initial_weights
        write_run_metadata(session, reference)
    return session


def resume(
    path: Path,
    given: Mapping[str, Any],
    epochs: str | None,
    load: Callable[[Sequence[str]], Plugins],
    tell: Callable[[str], None] = _silent,
    workers: Workers = ALONE,
    *,
    joins: bool = False,
) -> Session:
    """Prepare to resume a run, or to take part in a run that the first worker has begun.

    Args:
        path: The run directory.
        given: Options that the user gave for the resumed run, by name. All but those of `FREE`
            must have the same values as in the run, and so must `epochs` if this process joins a
            run. `data` is the place of the data, which may have moved; their content must be the
            same.
        epochs: New total number of epochs, `"30"`, or `"+10"` for ten more than before; `None` for
            the same number as before.
        load: Function that loads all plugins. Its argument lists the plugins to load in addition to
            the installed ones: first the plugins of the run, then those in `given`.
        tell: Function that shows a line to the user, as for `start`.
        workers: The workers. Only the first one writes files.
        joins: Whether the first worker has begun the run in this training, for error messages.

    Returns:
        The session. Its attribute `finished` is true if all epochs are already done.

    Raises:
        UsageError: An option, the data or the code of the model has changed, the first worker has
            another run or number of epochs, a newer cnnforge wrote the run, or it names a plugin
            that the user has never named.
        RunError: The run is damaged.
    """
    run = RunDirectory.open(path, needs=())
    stored, table = run.read_config()
    options = TrainingOptions(**check_types(stored, str(run.path / CONFIG)))
    for name, value in given.items():
        if name not in FREE:
            check_option(run, name, getattr(options, name), value, joins=joins)
    old_total = options.epochs
    total = epochs_of_resumed(options, epochs, run.path)
    if not joins:
        name = run.path.resolve().name
        check_option(run, "resume", workers.from_first(name), name, joins=True)
    # The first worker writes its number of epochs into the run later, after all have read the old
    # one.
    own = given.get("epochs") if joins else total
    total = workers.from_first(total)
    check_option(run, "epochs", total, own or total, joins=True)
    plugin = named_plugins.plugins_of_run(run.path, options.plugin, given.get("plugin", ()))
    options = replace(options, epochs=total, plugin=plugin)
    plugins = load(options.plugin)
    others = requirements.check(run, plugins.records, model_only=False)
    for folder in (run.path, run.states) if workers.is_first else ():
        remove_leftovers(folder)
    state, warnings = StateStore(run.states).load()
    reference = str(table.get("model", options.model or "lenet"))
    # Use the qualified names in the run's table, not the short names in `options`. Another plugin
    # may now declare the same short name, and the short name would then be ambiguous.
    callbacks = make_callbacks(table.get("callbacks", ()), plugins.callbacks)
    augmentations = make_augmentations(table.get("augmentations", ()), plugins.augmentations)
    if "data" in given:
        options = replace(options, data=absolute_reference(given["data"], plugins.datasets))
    for name in ("cache", "log", "tensorboard", "thumbnails"):
        options = replace(options, **{name: given.get(name, getattr(options, name))})
    try:
        dataset = _open_data(options, plugins, table.get("image_shape"))
    except UsageError as error:
        raise type(error)(
            f"{error}; if the data have moved, name their new place with --data"
        ) from error
    tell(summarize(dataset).line)
    task = task_for(dataset, plugins.tasks, options.task_options)
    fingerprint = table.get("fingerprint")
    if state:
        # config.toml may have been edited: compare its options with those of the training state.
        before, now = stored_identity(state), identity_of(options, dataset)
        fingerprint = before.pop(FINGERPRINT, fingerprint)
        for name in {**before, **now}.keys() - {FINGERPRINT}:
            check_option(run, name, before.get(name), now.get(name))
    # Compare the data after the options, since some options change the split of the data.
    check_data(run, dataset, fingerprint, joins=joins)
    if state and state.stopped and total > old_total:
        # A callback ended training early, but the user now asks for more epochs than before. Forget
        # the reason of the callback, so that training continues.
        state = replace(state, stopped="")
    if not state:
        warnings.append(f"{run.path} has no training state: training starts from the beginning")
    # The training state has all weights.
    initial = options if state is None else replace(options, init_from=None, weights=None)
    # Use the same kernels as the run did so far, and do not choose again: new measurements could
    # choose another implementation of a layer. It would round differently, and change the results.
    built = _build(initial, reference, task, dataset, plugins, read_decisions(run))
    if state and state.config.get(DEVICES, 1) != workers.devices:
        warnings.append(
            f"the run was trained on {state.config.get(DEVICES, 1)} devices so far, and goes on "
            f"with {workers.devices}: results differ by rounding"
        )
    changes = [
        f"{requirements.describe_change(other)}: training may give other results"
        for other in others
    ]
    notes = (*warnings, *changes, *_notes(dataset), *built.notes)
    model, stock = built.model, built.stock
    session = Session(options, run, task, dataset, model, stock, plugins, state, notes)
    session.model_chosen, session.workers = bool(table.get("model_chosen")), workers
    session.callbacks, session.augmentations = callbacks, augmentations
    session.implementations = built.decided
    session.size, session.initial_weights = built.size, built.initial_weights
    if not session.finished:
        session.fine_tuning = describe(model, options, built.initial_weights, task)
        session.checks = _certified(built.model, plugins, options.plugin)
        if workers.is_first:
            write_run_metadata(session, reference)
    return session


def _open_data(
    options: TrainingOptions,
    plugins: Plugins,
    image_shape: Sequence[int] | None = None,
    max_size: int | Callable[[tuple[int, int]], int] | None = None,
) -> Dataset:
    """Open the data for training.

    Args:
        options: Options of the run.
        plugins: All plugins.
        image_shape: (H, W, C) of the images of a run that is resumed. Another version of cnnforge
            may choose another default size.
        max_size: Max height and width if the user did not choose the size, or a function that
            returns it for the median size; `None`: no limit.
    """
    stored_size = None if image_shape is None else (image_shape[0], image_shape[1])
    spec = find_dataset(options.data, plugins.datasets)[0]
    data_options = DataOptions(
        image_size=options.height_and_width or stored_size,
        color=options.color,  # pyright: ignore[reportArgumentType]
        validation_fraction=options.validation_fraction,
        seed=options.split_seed,
        strict=options.strict,
        max_size=max_size,
        placing=load_task(plugins.tasks[spec.task]).placing,
    )
    dataset = open_dataset(options.data, plugins.datasets, data_options, plugins.tasks)
    if not (dataset.labelled and len(dataset.validation)):
        lacks = "validation images" if dataset.labelled else "labels"
        raise DataError(f"{dataset.name} has no {lacks}, which training needs: use other data")
    if options.drop_duplicates:
        dataset = drop_duplicates(dataset)
    return cached(dataset) if options.cache else dataset


@dataclass(frozen=True)
class _Built:
    """The models of a run.

    Attributes:
        model: The model to train.
        stock: The same model with stock Keras layers only.
        decided: Implementation of each layer.
        size: Estimate of the memory for training; `None` if it is unknown.
        initial_weights: Lists of the weights that came from a run or a file, and of the others;
            `None` for random weights.
        notes: Messages for the user, one sentence each.
    """

    model: keras.Model
    stock: keras.Model
    decided: Sequence[LayerImplementation]
    size: Estimate | None
    initial_weights: InitialWeights | None
    notes: tuple[str, ...]


def _build(
    options: TrainingOptions,
    reference: str,
    task: Task,
    dataset: Dataset,
    plugins: Plugins,
    decided: Sequence[LayerImplementation] | None = None,
    size: Estimate | None = None,
) -> _Built:
    shape, batch_size = dataset.image_shape, min(options.batch_size, len(dataset.train))
    at_shape = _estimator(options, reference, task, dataset, plugins)
    size, notes = size or at_shape(shape), ()
    if size is not None:
        spec = plugins.models[reference.partition(":")[0]]
        notes = check_memory(size, available_memory(), spec, at_shape)
    layers = plugins.layers
    with out_of_memory_explained(size):
        prepare(options.seed)
        model = build_model(reference, plugins.models, task, shape, dataset.name)
        initial = load_weights(model, options, reference, task, plugins)
        if initial is not None:
            notes = (*notes, initial.describe())
        if decided is None:
            decided = decide(model, kernels_of(options), layers=layers, batch_size=batch_size)
        forged = forge(model, decided, layers=layers)
        stock = lower(forged, layers=layers) if own_layers(forged) else forged
    check_can_be_opened(all_layers(stock))
    notes = (*notes, *saved_layers_note(own_layers(stock), plugins))
    return _Built(forged, stock, decided, size, initial, notes)


def _estimator(
    options: TrainingOptions, reference: str, task: Task, dataset: Dataset, plugins: Plugins
) -> Callable[[tuple[int, int, int]], Estimate | None]:
    """Return a function that estimates the memory for images of a shape."""
    batch_size = min(options.batch_size, len(dataset.train))
    return partial(estimate, reference, plugins.models, task, options, batch_size)


def _notes(dataset: Dataset) -> tuple[str, ...]:
    notes = (*dataset.notes, *summarize(dataset).notes)
    if not dataset.skipped:
        return notes
    count = len(dataset.skipped)
    files = "1 file was" if count == 1 else f"{count} files were"
    return (*notes, f"{files} skipped; skipped.csv in the run lists them with reasons")


def _certified(
    model: keras.Model, plugins: Plugins, named: Sequence[str]
) -> tuple[LayerCheck, ...]:
    """Compare each plugin layer of a model with its stock Keras layer, for the shapes in the model.

    Args:
        model: The model.
        plugins: All plugins.
        named: The plugins of `--plugin`, for the command that a message names.

    Raises:
        CnnforgeError: The results of a layer differ from those of the stock layer.
    """
    checks = tuple(certify(model, layers=plugins.layers))
    for check in checks:
        if not check.passed:
            way_out = "train with --kernels keras, and see `cnnforge doctor`"
            # Keras has no layer to compute instead.
            if check.kind == ORACLE:
                given = [f"--plugin {shlex.quote(it)}" for it in named]
                way_out = f"see '{' '.join(['cnnforge plugins check', check.provider, *given])}'"
            raise CnnforgeError(
                f"the kernel of layer {check.layer!r} ({check.provider}) fails its check at "
                f"{check.input_shape}: {check.fault}; {way_out}"
            )
    return checks
