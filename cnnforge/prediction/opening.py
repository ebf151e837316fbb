"""Open the trained model of a run, by its inference plan or through Keras."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cnnforge.errors import CnnforgeError, RunError, one_line
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction.plans import (
    FoundPlan,
    find_plan,
    make_plan,
    plan_outputs,
    reference_for_plan,
)
from cnnforge.prediction.predictor import Predictor
from cnnforge.prediction.reference_predictions import MAX_DRIFT, Outputs, reference_drift
from cnnforge.runs import RunDirectory
from cnnforge.runs.named_plugins import plugins_of_run
from cnnforge.runs.requirements import Requirement, describe_change
from cnnforge.tasks import Task, open_task

if TYPE_CHECKING:
    from cnnforge.conversion import Kernels

_log = logging.getLogger(__name__)


def open_predictor(
    run: RunDirectory,
    plugins: Plugins,
    *,
    kernels: Kernels = "auto",
    changed: str = "",
    import_keras: Callable[[], object] | None = None,
) -> Predictor:
    """Open the model of a run. The training data are not needed.

    Args:
        run: Run with `model.keras` and the files of its task.
        plugins: All plugins.
        kernels: `"auto"` uses the inference plan of the run. If the run has none that fits, Keras
            opens the model, and the plan is made and kept. If there cannot be a plan, the faster
            implementation of each layer is used. `"numba"` and `"keras"` open the model through
            Keras, with plugin layers or with stock layers.
        changed: Text for the error message that says what has changed since the model was saved,
            such as the version of a plugin; empty if nothing has. If it is not empty, the outputs
            of the model are compared with its reference predictions.
        import_keras: Function that imports Keras; it is called only if Keras is needed.

    Returns:
        The predictor.

    Raises:
        UsageError: No plugin declares the task.
        RunError: The files cannot be read, the model does not fit the task, or the outputs of the
            model differ from its reference predictions.
        CnnforgeError: The run has no plan that fits, and Keras cannot be imported.
    """
    task = open_task(run, plugins.tasks)
    found = find_plan(run, task, plugins) if kernels == "auto" else FoundPlan()
    if found.problem:
        _log.info("the plan of the run is made again: %s", found.problem)
    if plan := found.plan:
        drift = _checked(run, lambda images: plan_outputs(plan, images), changed)
        predictor = Predictor(plan, task)
    else:
        (import_keras or _import_keras)()
        predictor, drift = _by_keras(run, task, plugins, kernels, changed, found)
    predictor.drift = drift
    return predictor


def plugin_names(run: Path, used: Sequence[str], explicit: Iterable[str] = ()) -> tuple[str, ...]:
    """List the plugins to load for the model of a run, as names for `--plugin`.

    Args:
        run: The run directory.
        used: Plugins that the run names. A file that does not exist is left out: the saved model
            may consist of stock Keras layers and need no plugin.
        explicit: Further plugins, which the user names. They are remembered.

    Raises:
        UsageError: The user has never named a plugin of the run, see
            `cnnforge.runs.named_plugins.plugins_of_run`.
    """
    found = [name for name in used if not name.endswith(".py") or Path(name).is_file()]
    return plugins_of_run(run, found, explicit)


def changes_of(others: Sequence[Requirement]) -> str:
    """Return the argument `changed` of `open_predictor` for plugins that have other versions."""
    return "; ".join(f"{describe_change(other)}; {other.remedy}" for other in others)


def _import_keras() -> None:
    try:
        import_module("keras")
    except Exception as error:
        raise CnnforgeError(
            f"the run has no inference plan that fits here, and Keras cannot be imported "
            f"({one_line(error)}): install Keras, or make the plan with 'cnnforge predict RUN "
            "IMAGE' where Keras is installed"
        ) from error


def _by_keras(
    run: RunDirectory,
    task: Task,
    plugins: Plugins,
    kernels: Kernels,
    changed: str,
    found: FoundPlan,
) -> tuple[Predictor, float | None]:
    """Open the model through Keras. Return the predictor, and the drift of the Keras model."""
    from cnnforge.prediction.keras_model import (
        forged_predictor,
        keras_predictor,
        load_model,
        outputs_of,
    )

    model = load_model(run.model, plugins.layers)
    drift = _checked(run, outputs_of(model), changed)
    if kernels == "auto" and not found.refused:
        # Raises an error for a model that does not fit the task, before a plan is made of it.
        keras_predictor(model, task)
        made = make_plan(run, model, reference_for_plan(run, model), task, plugins)
        if made.plan:
            return Predictor(made.plan, task), drift
    return forged_predictor(model, task, kernels, plugins.layers), drift


def _checked(run: RunDirectory, outputs: Outputs, changed: str) -> float | None:
    """Return the drift of a model if something has changed, or raise a `RunError` if it is large.

    `None` means that nothing was compared.
    """
    if not changed:
        return None
    drift = reference_drift(run, outputs)
    if drift is not None and not drift <= MAX_DRIFT:
        raise RunError(
            f"{run.model} no longer gives the predictions that were kept with it (an output "
            f"differs by {drift:.2g}, {MAX_DRIFT:g} is allowed): {changed}"
        )
    return drift
