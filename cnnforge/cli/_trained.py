"""Open the directory of a training run, for the commands that use the trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from cnnforge.conversion import Kernels
    from cnnforge.plugin_host.discovery import Plugins
    from cnnforge.prediction import Predictor, RunData
    from cnnforge.prediction.inputs import Inputs
    from cnnforge.runs import RunDirectory
    from cnnforge.runs.requirements import Requirement


@dataclass(frozen=True)
class Trained:
    """The model of a run, with its data and plugins.

    Attributes:
        predictor: The model, ready to predict.
        data: Description of the data that the model was trained on.
        plugins: All loaded plugins, including those that the run names.
    """

    predictor: Predictor
    data: RunData
    plugins: Plugins


def open_trained(
    path: Path,
    kernels: str,
    explicit: Sequence[str] | None,
    load_plugins: Callable[[Sequence[str]], Plugins],
    data: str | None = None,
) -> Trained:
    """Open the model of a run.

    If the run names a plugin file that does not exist, the file is skipped: the saved model may
    consist of stock Keras layers and need no plugin.

    Args:
        path: The run directory.
        kernels: `"auto"`, `"numba"` or `"keras"`, see `cnnforge.prediction.open_predictor`.
        explicit: The values of `--plugin`.
        load_plugins: Function that loads plugins from the values of `--plugin`.
        data: Reference of a dataset that the command needs; `None` for none.

    Returns:
        The model, its data and the plugins.

    Raises:
        UsageError: `path` is not a run directory, `kernels` is invalid, or there is no dataset
            `data`.
        RunError: A file is missing or damaged, the model needs a plugin that is missing, or the
            predictions of the model have changed with another version of a plugin.
    """
    from cnnforge.cli import _render
    from cnnforge.configuration import TrainingOptions
    from cnnforge.prediction.opening import changes_of
    from cnnforge.runs import requirements

    # Called only because it raises an error if `kernels` is invalid.
    _ = TrainingOptions(kernels=kernels)
    run, trained_on, plugins, others = open_run(path, explicit, load_plugins, data)
    from cnnforge.prediction import open_predictor

    predictor = open_predictor(
        run,
        plugins,
        kernels=cast("Kernels", kernels),
        changed=changes_of(others),
        import_keras=_import_keras,
    )
    if others:
        compared = (
            "no predictions were saved with this model to compare with"
            if predictor.drift is None
            else "the model still gives the predictions that were saved with it"
        )
        clauses = "; ".join(map(requirements.describe_change, others))
        _render.message(f"warning: {clauses}; {compared}")
    return Trained(predictor, trained_on, plugins)


def open_run(
    path: Path,
    explicit: Sequence[str] | None,
    load_plugins: Callable[[Sequence[str]], Plugins],
    data: str | None = None,
) -> tuple[RunDirectory, RunData, Plugins, Sequence[Requirement]]:
    """Open a run without its model.

    Args:
        path: See `open_trained`.
        explicit: See `open_trained`.
        load_plugins: See `open_trained`.
        data: See `open_trained`.

    Returns:
        The run, its data, all loaded plugins, and the plugins that have other versions than when
        the model was saved.

    Raises:
        UsageError: See `open_trained`.
        RunError: See `open_trained`.
    """
    from cnnforge.configuration import TrainingOptions, check_types
    from cnnforge.plugin import DEFAULT_TASK
    from cnnforge.prediction.opening import plugin_names
    from cnnforge.runs import CONFIG, RunDirectory, requirements

    run = RunDirectory.open(path)
    stored, table = run.read_config()
    options = TrainingOptions(**check_types(stored, str(path / CONFIG)))
    plugins = load_plugins(plugin_names(path, options.plugin, explicit or ()))

    # Checked before the model is opened, because Keras may be imported for that, which takes
    # seconds: wrong data and a missing plugin are reported at once.
    if data is not None:
        from cnnforge.data.references import find_dataset

        find_dataset(data, plugins.datasets)
    others = requirements.check(run, plugins.records, model_only=True)

    from cnnforge.cli._native_code import before_native_code

    before_native_code()
    from cnnforge.prediction import KeptSplit, RunData

    trained_on = RunData(
        reference=options.data,
        validation_fraction=options.validation_fraction,
        seed=options.split_seed,
        fingerprint=str(table.get("fingerprint", "")),
        task=str(table.get("task", DEFAULT_TASK)),
        split=KeptSplit.read(run),
    )
    return run, trained_on, plugins, others


def _import_keras() -> None:
    from cnnforge.cli._import_keras import import_keras

    import_keras()


def show_found(inputs: Sequence[Inputs]) -> None:
    """Print what was found in the data: one line for each input, and its notes, on stderr."""
    from cnnforge.cli import _render

    for each in inputs:
        if len(each):
            _render.message(each.summary.line)
        for note in _notes(each):
            _render.message(f"note: {note}")


def found_as_dict(each: Inputs) -> dict[str, Any]:
    """Return what was found in an input, with its notes, as plain values for JSON."""
    return {**each.summary.as_dict(), "notes": list(_notes(each))}


def _notes(each: Inputs) -> tuple[str, ...]:
    from cnnforge.prediction import SampleInputs

    if not isinstance(each, SampleInputs):
        return each.notes
    return (*each.notes, *each.dataset.notes, *each.summary.notes)
