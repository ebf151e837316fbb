"""Write the files that describe a run, before its first epoch; compare a resumed run with them."""

from __future__ import annotations

import dataclasses

from cnnforge.conversion import LayerImplementation
from cnnforge.data import Dataset, parse, printable, summarize
from cnnforge.errors import RunError, UsageError, one_line
from cnnforge.prediction.kept_split import KeptSplit
from cnnforge.runs import RunDirectory, requirements
from cnnforge.training.saved_layers import own_layers, saved_paths
from cnnforge.training.session import Session
from cnnforge.utils.environment import environment, versions
from cnnforge.utils.names import as_argument, from_its_weights
from cnnforge.utils.structured_text import MALFORMED, read_json

KERNELS = "kernels.json"
DATA = "data.json"
INITIAL_WEIGHTS = "initial_weights.json"


def write_run_metadata(session: Session, reference: str) -> None:
    """Write the files of a run that describe its options, environment, data and kernels.

    Args:
        session: A session that is about to train.
        reference: Qualified name of the model, with its argument: `PLUGIN/NAME[:ARGUMENT]`.

    Raises:
        RunError: A file could not be written.
    """
    run, dataset, plugins = session.run, session.dataset, session.plugins
    options, task = session.options, plugins.tasks[dataset.task]
    monitor = session.task.monitored(options.monitor)
    table = {
        "cnnforge": versions(["cnnforge"]).get("cnnforge", "unknown"),
        "model": reference,
        # `--repeat` without a model continues only runs whose model was chosen, too.
        "model_chosen": session.model_chosen,
        "task": task.qualified_name,
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.image_shape),
        "callbacks": list(session.callbacks),
        "augmentations": [name for name, _ in session.augmentations],
        # `cnnforge runs` shows the metric, and does not import the task.
        "monitor": monitor.name,
        "monitor_best": monitor.best,
        "monitor_percent": monitor.percent,
    }
    session.task.write(run)
    run.write_json(DATA, {**summarize(dataset).as_dict(), "notes": list(session.warnings)})
    if dataset.splits is not None:
        KeptSplit.of(dataset.splits, dataset.dropped).write(run)
    if dataset.skipped:
        rows = [(printable(path), reason) for path, reason in dataset.skipped]
        run.write_csv("skipped.csv", ["file", "reason"], rows)
    run.write_json(KERNELS, [dataclasses.asdict(layer) for layer in session.implementations])
    run.write_json("kernel_check.json", [check.to_json() for check in session.checks])
    if session.initial_weights is not None:
        run.write_json(INITIAL_WEIGHTS, session.initial_weights.as_dict())
    metadata = environment(
        seed=options.seed,
        data_fingerprint=dataset.fingerprint,
        model=reference,
        size=None if session.size is None else session.size.as_dict(),
        plugins=[
            {
                "name": record.name,
                "source": record.source,
                "distribution": record.distribution,
                "version": record.version,
            }
            for record in plugins.records
            if record.status == "loaded"
        ],
    )
    run.write_json("environment.json", metadata)
    data = plugins.datasets[parse(options.data, plugins.datasets)[0]]
    used = [
        ("model", reference),
        ("task", task.qualified_name),
        ("dataset", data.qualified_name),
        *(("callback", name) for name in session.callbacks),
        *(("augmentation", name) for name, _ in session.augmentations),
    ]
    layers = own_layers(session.stock)
    declared = {path.partition(":")[0]: spec.plugin for path, spec in saved_paths(plugins.layers)}
    requirements.write(run, requirements.requirements(plugins.records, used, layers, declared))
    # Write config.toml last. A directory with this file counts as a run, so the other files must
    # exist by then.
    run.write_config(options.as_dict(), table)


def read_decisions(run: RunDirectory) -> list[LayerImplementation]:
    """Read which implementation, a Numba kernel or Keras, a run uses for each layer of its model.

    Args:
        run: A run with the files of `write_run_metadata`.

    Raises:
        RunError: `kernels.json` is missing or damaged.
    """
    path = run.path / KERNELS
    try:
        return [LayerImplementation(**row) for row in read_json(path)]
    except (OSError, *MALFORMED) as error:
        raise RunError(
            f"{path} cannot be read ({one_line(error)}), so the kernels of this run are unknown; "
            f"{from_its_weights(run.path)}"
        ) from error


def check_option(
    run: RunDirectory, name: str, before: object, now: object, *, joins: bool = False
) -> None:
    """Check that an option has the value of the run.

    Args:
        run: The run.
        name: Name of the option.
        before: Its value in the run.
        now: Its value in this process.
        joins: Whether the first worker has begun the run in this training.

    Raises:
        UsageError: The value is another one.
    """
    if before != now and joins:
        raise UsageError(
            f"the first worker has {name} = {before}, not {now}: start all workers with the same "
            "options"
        )
    if before != now:
        raise UsageError(
            f"the run {run.path} has {name} = {before}, not {now}: a resumed run keeps its "
            f"configuration; a new run takes its weights with --init-from {as_argument(run.path)}"
        )


def check_data(run: RunDirectory, dataset: Dataset, before: object, *, joins: bool) -> None:
    """Check that the data of a run are those of its beginning.

    Args:
        run: The run.
        dataset: The data of this process.
        before: The fingerprint of the data of the run; `None` if it is not known.
        joins: Whether the first worker has begun the run in this training.

    Raises:
        UsageError: They are not. The message names some of the images that differ.
    """
    if before in (dataset.fingerprint, None):
        return
    kept = KeptSplit.read(run)
    what = "" if joins else " (if the data have moved, name their new place with --data)"
    if kept is not None and dataset.splits is not None:
        what = f": {kept.differences(KeptSplit.of(dataset.splits, dataset.dropped))}"
    if joins:
        raise UsageError(
            f"the data {dataset.name} are not those of the first worker{what}; start all workers "
            "with the same data"
        )
    raise UsageError(
        f"the data {dataset.name} are not those of the run {run.path}{what}; a resumed run needs "
        "the same data; for a new run from its weights use 'cnnforge train --init-from "
        f"{as_argument(run.path)}'"
    )
