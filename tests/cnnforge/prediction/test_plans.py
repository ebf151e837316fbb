"""The inference plan of a run: made, checked, kept, used, and made again."""

import json
import logging
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toy_engine import CLASSES, SHAPE, ToyEngine, record_of, save_model

from cnnforge.errors import CnnforgeError, RunError
from cnnforge.plugin_host.discovery import PluginRecord, Plugins
from cnnforge.prediction import Predictor, open_predictor
from cnnforge.prediction.keras_model import load_model, outputs_of
from cnnforge.prediction.plans import check_plan, find_plan, make_plan, reference_for_plan
from cnnforge.prediction.reference_predictions import (
    ReferencePredictions,
    read_reference_predictions,
    write_reference_predictions,
)
from cnnforge.runs import RunDirectory, requirements
from cnnforge.tasks.classification import Classification

IMAGES = np.random.default_rng(1).integers(0, 256, (7, *SHAPE), np.uint8)


def without_keras() -> None:
    raise AssertionError("Keras was imported")


def opened(run: RunDirectory, engines: Plugins) -> Predictor:
    """Open a run by its plan."""
    return open_predictor(run, engines, import_keras=without_keras)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    own = [record for record in caplog.records if record.name.startswith("cnnforge")]
    messages = [record.getMessage() for record in own]
    caplog.clear()
    return messages


@pytest.fixture(autouse=True)
def _all_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cnnforge")


def test_a_missing_plan_is_made_and_then_used(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AssertionError, match="Keras was imported"):
        opened(run, engines)
    first = open_predictor(run, engines)
    again = opened(run, engines)
    assert engine.builds == 1
    expected = open_predictor(run, engines, kernels="keras").predict_images(IMAGES)
    for predictor in (first, again):
        np.testing.assert_allclose(predictor.predict_images(IMAGES), expected, atol=1e-6)
    assert record_of(run)["engine"] == "acme/toy"
    assert record_of(run)["drift"] < 1e-5
    assert said(caplog) == []


@pytest.mark.parametrize("kernels", ["keras", "numba"])
def test_other_kernels_do_not_use_a_plan(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, kernels: str
) -> None:
    open_predictor(run, engines)
    with pytest.raises(AssertionError, match="Keras was imported"):
        open_predictor(run, engines, kernels=kernels, import_keras=without_keras)  # type: ignore[arg-type]
    assert engine.builds == 1


def damage_plan(run: RunDirectory) -> None:
    (run.path / "plan.npz").write_bytes(b"no archive")


def damage_record(run: RunDirectory) -> None:
    (run.path / "plan.json").write_text("{")


def newer_record(run: RunDirectory) -> None:
    (run.path / "plan.json").write_text(json.dumps({"format": 2, "other": 1}))


def list_as_record(run: RunDirectory) -> None:
    (run.path / "plan.json").write_text("[]")


def no_engine_in_record(run: RunDirectory) -> None:
    (run.path / "plan.json").write_text(json.dumps({**record_of(run), "engine": ""}))


def wrong_type_in_record(run: RunDirectory) -> None:
    (run.path / "plan.json").write_text(json.dumps({**record_of(run), "versions": 1}))


def unreadable_plan(run: RunDirectory) -> None:
    # Root can read files without permission, but not this one.
    (run.path / "plan.npz").unlink()
    (run.path / "plan.npz").symlink_to("/proc/self/mem")


def remove_plan(run: RunDirectory) -> None:
    (run.path / "plan.npz").unlink()


def newer_model(run: RunDirectory) -> None:
    save_model(run.model, level=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage_plan, "plan.npz is damaged, or belongs to another plan.json"),
        (damage_record, r"plan.json is damaged \(Expecting .*\)"),
        (list_as_record, r"plan.json is damaged \(.*\)"),
        (no_engine_in_record, r"plan.json is damaged \(it has neither an engine nor a reason\)"),
        (wrong_type_in_record, r"plan.json is damaged \(a value has the wrong type\)"),
        (unreadable_plan, r"plan.npz cannot be read \(.*\)"),
        (newer_record, "plan.json has the format 2, and this cnnforge reads 1"),
        (remove_plan, "plan.npz is missing"),
        (newer_model, "model.keras has changed"),
    ],
)
def test_a_plan_that_does_not_fit_is_made_again(
    run: RunDirectory,
    engines: Plugins,
    engine: ToyEngine,
    caplog: pytest.LogCaptureFixture,
    change,
    message: str,
) -> None:
    open_predictor(run, engines)
    change(run)
    predictor = open_predictor(run, engines)
    (line,) = said(caplog)
    assert re.fullmatch(f"the plan of the run is made again: {message}", line)
    expected = open_predictor(run, engines, kernels="keras").predict_images(IMAGES)
    np.testing.assert_allclose(predictor.predict_images(IMAGES), expected, atol=1e-6)
    opened(run, engines)
    assert engine.builds == 2


def test_a_plan_that_its_engine_refuses_is_made_again(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    open_predictor(run, engines)
    engine.opening = ValueError("the plan has the format 9, and this engine reads 1")
    assert find_plan(run, Classification(CLASSES), engines).problem.startswith(
        "the plan has the format 9"
    )
    # Nothing that the engine writes can be opened either, so Keras predicts.
    assert open_predictor(run, engines).predict_images(IMAGES).shape == (7, 2)
    assert len(said(caplog)) == 2


def test_another_version_of_the_engine_makes_its_own_plan(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    open_predictor(run, engines)
    engines.records[0].version = "1.1"
    open_predictor(run, engines)
    (line,) = said(caplog)
    assert line.endswith("the inference engine acme/toy has another version")
    assert engine.builds == 2
    assert find_plan(run, Classification(CLASSES), Plugins()).problem == (
        "the inference engine acme/toy is not installed here"
    )


def test_another_version_of_a_plugin_with_a_layer_makes_the_plan_again(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    used = requirements.Requirement(plugin="other", source="other", layers=("Power",))
    requirements.write(run, [used])
    engines.records.append(PluginRecord("other", "other", "other", "1"))
    open_predictor(run, engines)
    opened(run, engines)
    engines.records[-1].version = "2"
    open_predictor(run, engines)
    assert said(caplog) == [
        "the plan of the run is made again: the plugin other has another version"
    ]
    assert engine.builds == 2


@pytest.mark.parametrize("is_package", [False, True], ids=["file", "package"])
def test_other_sources_of_a_plugin_with_a_layer_make_the_plan_again(
    run: RunDirectory,
    engines: Plugins,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_package: bool,
) -> None:
    folder = tmp_path / "own_power"
    folder.mkdir()
    for name in ("__init__.py", "layer.py"):
        (folder / name).write_text("power = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = "own_power.plugin" if is_package else str(folder / "layer.py")
    used = requirements.Requirement(plugin="other", source=source, layers=("Power",))
    requirements.write(run, [used])
    engines.records.append(PluginRecord("other", source, None, "1" if is_package else None))
    open_predictor(run, engines)
    opened(run, engines)
    said(caplog)
    (folder / "layer.py").write_text("power = 3\n")
    open_predictor(run, engines)
    opened(run, engines)
    assert said(caplog) == ["the plan of the run is made again: the plugin other has other sources"]
    assert "own_power" not in sys.modules


def test_a_layer_that_a_plan_cannot_express_is_said_once(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.error = ValueError("the layer 'strange' (Lambda) is unknown")
    expected = open_predictor(run, engines, kernels="keras").predict_images(IMAGES)
    for _ in range(3):
        found = open_predictor(run, engines).predict_images(IMAGES)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert engine.builds == 1
    assert said(caplog) == [
        "Keras predicts with the model of this run, without a plan: the layer 'strange' (Lambda) "
        "is unknown"
    ]
    # A newer engine may know the layer.
    engines.records[0].version, engine.error = "1.1", None
    open_predictor(run, engines)
    opened(run, engines)
    assert engine.builds == 2


def test_a_plan_that_differs_from_keras_is_not_used(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.offset = 0.01
    found = open_predictor(run, engines).predict_images(IMAGES)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    (line,) = said(caplog)
    assert "the plan of the engine acme/toy differs from Keras by 0.01 (0.0001 is allowed)" in line
    assert not (run.path / "plan.npz").exists()


@pytest.mark.parametrize("error", [OSError(28, "no space left"), MemoryError()])
def test_a_cause_in_the_machine_is_not_kept(
    run: RunDirectory,
    engines: Plugins,
    engine: ToyEngine,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    engine.error = error
    assert open_predictor(run, engines).predict_images(IMAGES).shape == (7, 2)
    (line,) = said(caplog)
    assert line.startswith("the plan of the run is not made: ")
    assert not (run.path / "plan.json").exists()


def test_a_bug_of_an_engine_costs_nothing_and_is_not_kept(
    run: RunDirectory, engines: Plugins, engine: ToyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.error = ZeroDivisionError("division by zero")
    for _ in range(2):
        assert open_predictor(run, engines).predict_images(IMAGES).shape == (7, 2)
        (line,) = said(caplog)
        assert line.startswith(
            "the inference engine acme/toy has failed, and Keras predicts: ZeroDivisionError: "
            "division by zero ("
        )
    assert not (run.path / "plan.json").exists()
    engine.error = None
    open_predictor(run, engines)
    opened(run, engines)


def test_a_run_that_cannot_be_written_to_predicts(
    run: RunDirectory,
    engines: Plugins,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cnnforge.prediction.plans.os.access", lambda path, mode: False)
    before = sorted(run.path.iterdir())
    assert open_predictor(run, engines).predict_images(IMAGES).shape == (7, 2)
    assert sorted(run.path.iterdir()) == before
    assert said(caplog) == [
        f"the plan is not kept, because the run {run.path} cannot be written to"
    ]


def test_a_plan_that_cannot_be_written_is_used_all_the_same(
    run: RunDirectory,
    engines: Plugins,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("cnnforge.prediction.plans.shutil.copyfile", full)
    assert open_predictor(run, engines).predict_images(IMAGES).shape == (7, 2)
    (line,) = said(caplog)
    assert line.startswith("the plan of the run is not kept: ")
    assert "no space left on device" in line


def test_processes_that_make_a_plan_at_the_same_time_leave_one_that_fits(
    run: RunDirectory, engines: Plugins
) -> None:
    task, model = Classification(CLASSES), load_model(run.model, engines.layers)
    reference = reference_for_plan(run, model)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(make_plan, run, model, reference, task, engines) for _ in range(8)]
        assert all(job.result().plan is not None for job in jobs)
    assert find_plan(run, task, engines).plan is not None


def test_a_plan_of_other_classes_is_not_used(run: RunDirectory, engines: Plugins) -> None:
    open_predictor(run, engines)
    Classification(("a", "b", "c")).write(run)
    with pytest.raises(RunError, match="do not belong together"):
        open_predictor(run, engines)


def test_the_plan_is_checked_on_the_reference_predictions(
    run: RunDirectory, engines: Plugins
) -> None:
    model = load_model(run.model, engines.layers)
    kept = ReferencePredictions(IMAGES, outputs_of(model)(IMAGES))
    write_reference_predictions(run, kept)
    np.testing.assert_array_equal(reference_for_plan(run, model).images, IMAGES)
    # Damaged ones, or those of another model, do not prevent a plan.
    (run.path / "reference_predictions.npz").write_bytes(b"nothing")
    assert reference_for_plan(run, model).images.shape == (8, *SHAPE)


def test_reference_predictions_of_old_runs_are_read_and_replaced(run: RunDirectory) -> None:
    """The file had another name in cnnforge 0.2 and before."""
    path, old = run.path / "reference_predictions.npz", run.path / "golden.npz"
    outputs = [np.ones((8, 3), np.float32)]
    write_reference_predictions(run, ReferencePredictions(IMAGES, outputs))
    path.rename(old)
    kept = read_reference_predictions(run)
    assert kept is not None
    np.testing.assert_array_equal(kept.outputs, outputs)
    old.write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"golden.npz cannot be compared"):
        read_reference_predictions(run)
    write_reference_predictions(run, ReferencePredictions(IMAGES, outputs))
    assert path.is_file()
    assert not old.exists()


def test_a_changed_plugin_is_found_by_the_plan_too(run: RunDirectory, engines: Plugins) -> None:
    model = load_model(run.model, engines.layers)
    outputs = outputs_of(model)(IMAGES)
    write_reference_predictions(run, ReferencePredictions(IMAGES, outputs))
    open_predictor(run, engines)
    predictor = open_predictor(run, engines, changed="acme is newer", import_keras=without_keras)
    assert predictor.drift is not None
    assert predictor.drift < 1e-5
    write_reference_predictions(run, ReferencePredictions(IMAGES, [outputs[0] + 0.1]))
    with pytest.raises(RunError, match=r"differs by 0.099, 0.001 is allowed\): acme is newer"):
        open_predictor(run, engines, changed="acme is newer", import_keras=without_keras)


def test_without_keras_and_without_a_plan_the_remedy_is_named(
    run: RunDirectory, engines: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("cnnforge.prediction.opening.import_module", missing)
    with pytest.raises(CnnforgeError, match="make the plan with 'cnnforge predict RUN IMAGE'"):
        open_predictor(run, engines)


@pytest.mark.parametrize(
    ("new", "old", "drift"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.1, 0.2], [0.1, 0.25], 0.05),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.nan, 1.0], [1.0, 1.0], np.nan),
        ([1.0, 1.0], [np.nan, 1.0], np.nan),
        ([-np.inf, 1.0], [np.inf, 1.0], np.inf),
    ],
)
def test_drift(new: list[float], old: list[float], drift: float) -> None:
    reference = ReferencePredictions(IMAGES, [np.float32(old)])
    np.testing.assert_allclose(reference.drift(lambda images: [np.float32(new)]), drift, rtol=1e-5)


def test_a_slow_first_prediction_says_why(
    run: RunDirectory,
    engines: Plugins,
    engine: ToyEngine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_predictor(run, engines)
    predictor = opened(run, engines)
    predictor.predict_images(IMAGES)
    assert said(caplog) == []
    monkeypatch.setattr("cnnforge.utils.compiling._SLOW", 0.01)
    engine.seconds = 0.5
    predictor = opened(run, engines)
    for _ in range(2):
        predictor.predict_images(IMAGES)
    (line,) = said(caplog)
    assert line == "compiling the kernels of the prediction (once on a machine)"


def test_verify_compares_the_plan_with_keras(
    run: RunDirectory, engines: Plugins, engine: ToyEngine
) -> None:
    task, model = Classification(CLASSES), load_model(run.model, engines.layers)

    def checked() -> tuple[str, bool]:
        return check_plan(run, model, task, engines)

    assert checked() == ("none yet; the next prediction makes it", True)
    open_predictor(run, engines)
    text, passed = checked()
    assert passed
    assert re.fullmatch(r"differs from Keras by \S+ at most \(0.0001 is allowed\)", text)
    engine.offset = 0.5
    text, passed = checked()
    assert not passed
    assert text.startswith("differs from Keras by 5.0e-01")
    (run.path / "plan.npz").write_bytes(b"")
    text, passed = checked()
    assert passed
    assert text.startswith("plan.npz is damaged")
    (run.path / "plan.json").unlink()
    engine.error = ValueError("layer 'x' is unknown")
    open_predictor(run, engines)
    assert checked() == ("none, and Keras predicts: layer 'x' is unknown", True)
