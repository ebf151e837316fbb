"""Opening a run for the commands that use its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from cnnforge.conversion import Kernels
    from cnnforge.plugin_host.discovery import Plugins
    from cnnforge.prediction import Predictor, RunData


@dataclass(frozen=True)
class Trained:
    """A run's model and what is known of it.

    Attributes:
        predictor: The model.
        data: What it was trained on.
        plugins: All plugins, those that the run was started with included.
    """

    predictor: Predictor
    data: RunData
    plugins: Plugins


def open_trained(
    path: Path,
    kernels: str,
    explicit: Sequence[str] | None,
    load_plugins: Callable[[Sequence[str]], Plugins],
) -> Trained:
    """Open a run's model.

    Args:
        path: The run directory.
        kernels: `"auto"`, `"numba"` or `"keras"`.
        explicit: The values of `--plugin`.
        load_plugins: Loads the plugins.

    Returns:
        The model. A plugin file that the run was started with is loaded if it is still there: a
        model of stock layers needs none.

    Raises:
        UsageError: It is no run directory, or `kernels` is none of the three.
        RunError: A file is missing or damaged, or a plugin that the model needs is not there; or it
            is there in another version, and the model does not give what it gave.
    """
    from cnnforge.cli import _render
    from cnnforge.configuration import TrainingOptions, check_types
    from cnnforge.plugin import DEFAULT_TASK
    from cnnforge.runs import CONFIG, RunDirectory, requirements

    run = RunDirectory.open(path)
    stored, table = run.read_config()
    options = TrainingOptions(**check_types(stored, str(path / CONFIG)))
    # For its check of the value.
    _ = TrainingOptions(kernels=kernels)
    there = [it for it in options.plugin if not it.endswith(".py") or Path(it).is_file()]
    plugins = load_plugins(list(dict.fromkeys([*there, *(explicit or ())])))

    # Before the seconds that an import of Keras takes.
    others = requirements.check(run, plugins.records, model_only=True)

    from cnnforge.cli._import_keras import import_keras

    import_keras()
    from cnnforge.prediction import Predictor, RunData

    data = RunData(
        reference=options.data,
        validation_fraction=options.validation_fraction,
        seed=options.split_seed,
        fingerprint=str(table.get("fingerprint", "")),
        task=str(table.get("task", DEFAULT_TASK)),
    )
    changed = "; ".join(f"{requirements.describe_change(it)}; {it.remedy}" for it in others)
    predictor = Predictor.open(
        run,
        layers=plugins.layers,
        tasks=plugins.tasks,
        kernels=cast("Kernels", kernels),
        changed=changed,
    )
    if others:
        compared = (
            "no predictions were kept with this model to compare"
            if predictor.drift is None
            else "the predictions that were kept with the model come out the same"
        )
        clauses = "; ".join(map(requirements.describe_change, others))
        _render.message(f"warning: {clauses}; {compared}")
    return Trained(predictor, data, plugins)
