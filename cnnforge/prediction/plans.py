"""Keep the inference plan of a run: the trained model in a file that needs no Keras.

An inference engine, which a plugin declares, writes the plan to `plan.npz`. The file `plan.json`
tells which `model.keras` and which version of the engine it belongs to, or which layer prevents a
plan. A plan that does not fit is made again by the next prediction.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnforge.errors import CnnforgeError, RunError, message_of, one_line
from cnnforge.model_files.arrays import check_arrays
from cnnforge.plugin import EngineSpec
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction.predictor import OpenedModel
from cnnforge.prediction.reference_predictions import (
    COUNT,
    ReferencePredictions,
    file_digest,
    model_digest,
    read_reference_predictions,
)
from cnnforge.runs import RunDirectory, requirements
from cnnforge.tasks import Task
from cnnforge.utils.available_memory import is_out_of_memory
from cnnforge.utils.compiling import compiling_announced
from cnnforge.utils.source_digest import package_digest
from cnnforge.utils.structured_text import MALFORMED, read_json
from cnnforge.utils.structures import flatten

if TYPE_CHECKING:
    import keras

PLAN = "plan.npz"
RECORD = "plan.json"
FORMAT = 1
MAX_PLAN_DRIFT = 1e-4
"""Max allowed difference between an output of a plan and that of Keras, see
`ReferencePredictions.drift`. Both compute the same sums in another order."""
# It is between the version of a plugin and the digest of its sources.
_DIGEST = " sha256:"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """Facts about the plan of a run, or about the reason why it has none.

    Attributes:
        model: sha256 of the `model.keras` that the plan was made from.
        versions: Version of each engine that was tried, by its qualified name, and of each plugin
            whose layers are in the model, by its name; "" if it has none. A plugin that is a file,
            or is installed in editable mode, also has the digest of its sources.
        engine: Qualified name of the engine that wrote the plan; "" if none could express the
            model.
        plan: sha256 of `plan.npz`; "" without a plan.
        refused: Reason why no engine made a plan, in one line; "" with a plan.
        outputs: `Task.output_size` of the task of the run; `None` if it has none.
        drift: Difference between the outputs of the plan and those of Keras.
        format: Version of this file.
    """

    model: str
    versions: Mapping[str, str]
    engine: str = ""
    plan: str = ""
    refused: str = ""
    outputs: int | None = None
    drift: float = 0.0
    format: int = FORMAT


@dataclass(frozen=True)
class FoundPlan:
    """The plan of a run, if it can be used.

    Attributes:
        plan: The opened plan; `None` if no plan can be used.
        record: Facts about it; `None` if the run has none, or if they do not fit.
        problem: Why a plan or a record that the run has does not fit, in one line; else "".
    """

    plan: OpenedModel | None = None
    record: PlanRecord | None = None
    problem: str = ""

    @property
    def refused(self) -> str:
        """Why no engine can express the model, in one line; "" if a plan can be made."""
        return self.record.refused if self.record else ""


def find_plan(run: RunDirectory, task: Task, plugins: Plugins) -> FoundPlan:
    """Open the plan of a run. Keras is not imported.

    Args:
        run: The run.
        task: Its task.
        plugins: All plugins.

    Raises:
        RunError: `model.keras` cannot be read.
        PluginError: The engine cannot be imported.
    """
    try:
        record = _read_record(run)
        if record is None:
            return FoundPlan()
        _check_fits(record, run, task, plugins)
        if record.refused:
            return FoundPlan(record=record)
        path = run.path / PLAN
        if not path.is_file():
            return FoundPlan(problem=f"{PLAN} is missing")
        if record.plan != file_digest(path):
            return FoundPlan(problem=f"{PLAN} is damaged, or belongs to another {RECORD}")
        check_arrays(path)
        return FoundPlan(_Announced(plugins.engines[record.engine].load()(path)), record)
    except ValueError as error:
        return FoundPlan(problem=message_of(error))
    except OSError as error:
        return FoundPlan(problem=f"{PLAN} cannot be read ({error.strerror or error})")


def make_plan(
    run: RunDirectory,
    model: keras.Model,
    reference: ReferencePredictions,
    task: Task,
    plugins: Plugins,
) -> FoundPlan:
    """Make the plan of a run, check it, and keep it in the run.

    Nothing is lost if that fails: the reason is logged, and Keras predicts with the model.

    Args:
        run: The run.
        model: The Keras model that was opened from its `model.keras`.
        reference: Images, and the outputs of this model for them.
        task: Task of the run.
        plugins: All plugins.

    Returns:
        The plan that was made, also if it could not be written to the run; or the reason why no
        plan was made.
    """
    if not plugins.engines:
        return FoundPlan()
    facts: dict[str, Any] = {
        "model": model_digest(run),
        "versions": _versions(run, plugins),
        "outputs": _outputs(task),
    }
    reasons, faults = [], 0
    for spec in plugins.engines.values():
        try:
            with tempfile.TemporaryDirectory(prefix="cnnforge-") as folder:
                path = Path(folder) / PLAN
                spec.load_build()(model, path)
                plan = _Announced(spec.load()(path))
                drift = _checked_drift(spec, plan, reference)
                facts |= {"engine": spec.qualified_name, "plan": file_digest(path)}
                record = PlanRecord(**facts, drift=drift)
                _keep(run, record, path)
            return FoundPlan(plan, record)
        except Exception as error:
            if isinstance(error, OSError) or is_out_of_memory(error):
                # The cause is this machine, and not the model.
                _log.warning("the plan of the run is not made: %s", one_line(error))
                return FoundPlan()
            if isinstance(error, ValueError | CnnforgeError):
                reasons.append(message_of(error))
                continue
            # The cause is a fault of the engine, and not the model. So the next prediction tries
            # again.
            faults += 1
            _log.warning(
                "the inference engine %s has failed, and Keras predicts: %s",
                spec.qualified_name,
                one_line(error),
            )
    if faults:
        return FoundPlan()
    record = PlanRecord(**facts, refused="; ".join(reasons))
    _log.info("Keras predicts with the model of this run, without a plan: %s", record.refused)
    _keep(run, record, None)
    return FoundPlan(record=record)


def reference_for_plan(run: RunDirectory, model: keras.Model) -> ReferencePredictions:
    """Return the reference predictions of a run, with which its plan is checked.

    A run that has none, or damaged ones, gets those of its model for random images.

    Args:
        run: The run.
        model: The Keras model that was opened from its `model.keras`.
    """
    from cnnforge.prediction.keras_model import outputs_of

    try:
        kept = read_reference_predictions(run)
    except RunError:
        kept = None
    if kept is not None:
        return kept
    shape = (COUNT, *model.input_shape[1:])
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return ReferencePredictions(images, outputs_of(model)(images))


def check_plan(
    run: RunDirectory, model: keras.Model, task: Task, plugins: Plugins
) -> tuple[str, bool]:
    """Compare the plan of a run with Keras again.

    Args:
        run: The run.
        model: The Keras model that was opened from its `model.keras`.
        task: Task of the run.
        plugins: All plugins.

    Returns:
        A clause for the user about the plan, and false if the plan differs from Keras.
    """
    found = find_plan(run, task, plugins)
    if found.refused:
        return f"none, and Keras predicts: {found.refused}", True
    if not (plan := found.plan):
        return f"{found.problem or 'none yet'}; the next prediction makes it", True
    reference = reference_for_plan(run, model)
    drift = reference.drift(lambda images: plan_outputs(plan, images))
    text = f"differs from Keras by {drift:.1e} at most ({MAX_PLAN_DRIFT:g} is allowed)"
    return text, drift <= MAX_PLAN_DRIFT


def plan_outputs(plan: OpenedModel, images: np.ndarray) -> list[np.ndarray]:
    """Compute the outputs of a plan for images: a list, in the order of `keras.tree.flatten`."""
    return flatten(plan.predict(images))


class _Announced:
    """A plan that logs a message if its first prediction compiles kernels."""

    def __init__(self, plan: OpenedModel) -> None:
        self.image_shape: tuple[int, int, int] = plan.image_shape
        self._plan = plan
        self._first = True

    def predict(self, images: np.ndarray) -> Any:
        if self._first:
            self._first = False
            with compiling_announced(_log, "prediction"):
                # One image, so that the time is not that of a large batch.
                self._plan.predict(images[:1])
        return self._plan.predict(images)


def _read_record(run: RunDirectory) -> PlanRecord | None:
    try:
        values = read_json(run.path / RECORD)
        written = values["format"]
        if written == FORMAT:
            return _checked_record(PlanRecord(**values))
    except FileNotFoundError:
        return None
    except (OSError, *MALFORMED) as error:
        raise ValueError(f"{RECORD} is damaged ({message_of(error)})") from error
    raise ValueError(f"{RECORD} has the format {written}, and this cnnforge reads {FORMAT}")


def _checked_record(record: PlanRecord) -> PlanRecord:
    texts = [record.model, record.engine, record.plan, record.refused]
    if isinstance(record.versions, dict):
        texts += record.versions.values()
    if not isinstance(record.versions, dict) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a value has the wrong type")
    if not record.engine and not record.refused:
        raise ValueError("it has neither an engine nor a reason")
    return record


def _check_fits(record: PlanRecord, run: RunDirectory, task: Task, plugins: Plugins) -> None:
    """Raise a `ValueError` with the reason if a record does not fit to the run."""
    if record.model != model_digest(run):
        raise ValueError("model.keras has changed")
    here = _versions(run, plugins)
    if record.engine and record.engine not in here:
        raise ValueError(f"the inference engine {record.engine} is not installed here")
    # A run without a plan is tried again with every new engine. A plan depends on its own engine.
    names = {name for name in {*here, *record.versions} if "/" not in name or record.refused}
    for name in sorted(names | {record.engine} - {""}):
        if record.versions.get(name) != here.get(name):
            kind = "inference engine" if "/" in name else "plugin"
            before, _, _ = record.versions.get(name, "").partition(_DIGEST)
            now, _, _ = here.get(name, "").partition(_DIGEST)
            what = "has another version" if before != now else "has other sources"
            raise ValueError(f"the {kind} {name} {what}")
    outputs = _outputs(task)
    if record.outputs != outputs:
        raise ValueError(f"the task of the run has {outputs} outputs, and not {record.outputs}")


def _outputs(task: Task) -> int | None:
    try:
        return task.output_size
    except NotImplementedError:
        return None


def _versions(run: RunDirectory, plugins: Plugins) -> dict[str, str]:
    """Return the versions of the engines, and of the plugins whose layers are in the model.

    The version of such a plugin has a digest of its sources if they may change without it.
    """
    known = {record.name: record.version or "" for record in plugins.records}
    engines = {each.qualified_name: known.get(each.plugin, "") for each in plugins.engines.values()}
    used = {each.plugin for each in requirements.read(run) if each.layers and each.plugin}
    sources = {record.name: record.source for record in plugins.records if record.name in used}
    digests = {name: package_digest(source) for name, source in sources.items()}
    layers = {
        name: known.get(name, "") + (_DIGEST + digest if (digest := digests.get(name)) else "")
        for name in used
    }
    return engines | layers


def _checked_drift(spec: EngineSpec, plan: OpenedModel, reference: ReferencePredictions) -> float:
    drift = reference.drift(lambda images: plan_outputs(plan, images))
    if not drift <= MAX_PLAN_DRIFT:
        raise ValueError(
            f"the plan of the engine {spec.qualified_name} differs from Keras by {drift:.2g} "
            f"({MAX_PLAN_DRIFT:g} is allowed)"
        )
    return drift


def _keep(run: RunDirectory, record: PlanRecord, plan: Path | None) -> None:
    """Write a record, and the plan that it describes, into a run; log why if that fails."""
    if not os.access(run.path, os.W_OK):
        _log.info("the plan is not kept, because the run %s cannot be written to", run.path)
        return
    try:
        # Another process may do this at the same time, even for a newer model. `find_plan` then
        # finds out by the digests whether both files belong together.
        if plan is not None:
            with run.writing(PLAN) as path:
                shutil.copyfile(plan, path)
        else:
            (run.path / PLAN).unlink(missing_ok=True)
        run.write_json(RECORD, asdict(record))
    except (RunError, OSError) as error:
        _log.warning("the plan of the run is not kept: %s", one_line(error))
