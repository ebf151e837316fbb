"""Export the model of a run: write it, run it elsewhere, compare it, and give it its name."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from cnnforge.data import printable
from cnnforge.errors import CnnforgeError, UsageError, one_line
from cnnforge.exporting.formats import FORMATS, check_output
from cnnforge.exporting.placing import move, size_of
from cnnforge.exporting.replay import replay
from cnnforge.exporting.report import Quantization, Report, check_comparison, compare
from cnnforge.exporting.stock import open_stock_model
from cnnforge.exporting.writers import write_model
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction import Predictor, RunData, SampleInputs, open_samples
from cnnforge.prediction.keras_model import keras_predictor
from cnnforge.prediction.plans import MAX_PLAN_DRIFT, PLAN, find_plan, make_plan, reference_for_plan
from cnnforge.prediction.reference_predictions import MAX_DRIFT, read_reference_predictions
from cnnforge.runs import RunDirectory
from cnnforge.tasks import ExportForm, Task, open_task
from cnnforge.utils.atomic_files import write_text
from cnnforge.utils.environment import versions
from cnnforge.utils.structures import map_structure

MAX_IMAGES = 1000
"""Max number of validation images on which an exported model is compared."""
_MAX_BYTES = 256 << 20
_CALIBRATION_IMAGES = 200
# Plans of other engines run only in these.
_ENGINE = "builtin/"


class _Images(NamedTuple):
    """Validation images of a run: (N,) indices, pixels (N, H, W, C) uint8, and N names."""

    inputs: SampleInputs
    indices: np.ndarray
    pixels: np.ndarray
    names: Sequence[str]

    @property
    def what(self) -> str:
        count, total = len(self.names), len(self.inputs)
        return self.inputs.what if count == total else f"{count:,} of {self.inputs.what}"


def export_run(
    run: RunDirectory,
    trained_on: RunData,
    plugins: Plugins,
    name: str,
    output: Path,
    *,
    int8: bool = False,
    force: bool = False,
) -> Report:
    """Export the model of a run, and prove the file.

    The file is written under a temporary name and run in a new process without cnnforge. Its
    outputs are compared with the reference predictions of the run, and with those of Keras on up to
    `MAX_IMAGES` validation images. Then it gets its name. The report is written next to it, with
    the ending `.report.json`.

    Args:
        run: The run.
        trained_on: The data of the run.
        plugins: All plugins.
        name: Name of the format, see `FORMATS`.
        output: The file or folder to write, see `check_output`.
        int8: Whether weights and values between layers become 8-bit integers; for `"litert"`.
        force: Whether an older file is replaced.

    Returns:
        The report.

    Raises:
        UsageError: A layer cannot be lowered, the model has no plan, or `int8` is not possible.
        RunError: The model of the run cannot be opened.
        CnnforgeError: The file cannot be written, does not run, or computes other outputs.
    """
    model = open_stock_model(run, plugins)
    task = open_task(run, plugins.tasks)
    predictor = keras_predictor(model, task)
    form = task.export_form
    if int8 and not form.quantizable:
        raise UsageError(
            "--int8 is for classifications: coordinates of boxes need more than 8 bits; leave it "
            "out"
        )
    images, note = _validation_images(trained_on, plugins, predictor.image_shape)
    if int8 and images is None:
        raise UsageError(
            f"--int8 calibrates with the validation images of the run, and {note}; restore the "
            "data, or leave out --int8"
        )
    with _failing(output), _temporary(output) as temporary:
        begin = time.perf_counter()
        if name == "plan":
            _write_plan(run, model, task, plugins, temporary)
        else:
            calibration = None
            if int8 and images:
                calibration = images.pixels[_spread(len(images.pixels), _CALIBRATION_IMAGES)]
            exported = form.model(model)
            names = form.names or list(form.outputs(exported.outputs))
            write_model(name, exported, names, temporary, calibration)
        written = time.perf_counter() - begin
        report = _checked(run, name, form, predictor, images, temporary, exact=not int8)
        report = replace(
            report,
            output=str(output),
            seconds_to_write=written,
            note=note,
        )
        # Something may have been written to the place meanwhile.
        check_output(name, output, force)
        move(temporary, output)
        text = json.dumps(report.as_dict(), indent=2) + "\n"
        write_text(output.with_name(f"{output.name}.report.json"), text)
    return report


def _checked(
    run: RunDirectory,
    name: str,
    form: ExportForm,
    predictor: Predictor,
    images: _Images | None,
    path: Path,
    *,
    exact: bool,
) -> Report:
    """Run an exported file, and compare it with Keras; raise an error if it computes others."""
    task, stored = predictor.task, read_reference_predictions(run)
    shape = predictor.image_shape
    parts = [np.zeros((0, *shape), np.uint8)]
    parts += [stored.images] if stored is not None else []
    parts += [images.pixels] if images is not None else []
    pixels = np.concatenate(parts)
    if not len(pixels):
        # A file that runs is better than one that was never run.
        pixels = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    replayed = replay(name, path, pixels)
    outputs = _named(name, form, replayed.outputs)
    count = 0 if stored is None else len(stored.images)
    first = {each: array[:count] for each, array in outputs.items()}
    rest = {each: array[count:] for each, array in outputs.items()}
    reference = validation = quantization = None
    if stored is not None:
        old = form.outputs(list(stored.outputs))
        names = [f"reference image {number + 1}" for number in range(count)]
        reference = compare(form, old, first, names, "the reference predictions of the run")
        if exact:
            check_comparison(reference, old, MAX_DRIFT)
    raw = predictor.predict_images(images.pixels if images is not None else pixels[count:])
    old = form.outputs(raw)
    if images is not None:
        validation = compare(form, old, rest, images.names, images.what)
        if exact:
            check_comparison(validation, old, MAX_PLAN_DRIFT)
        else:
            quantization = _quantization(task, images, raw, rest)
    elif stored is None and exact:
        random = compare(form, old, rest, ["random image"] * len(pixels), "random images")
        check_comparison(random, old, MAX_PLAN_DRIFT)
    return Report(
        format=name,
        run=str(run.path),
        output=str(path),
        bytes=size_of(path),
        versions=versions(
            list(
                dict.fromkeys(
                    ["cnnforge", "keras", FORMATS[name].runtime, *FORMATS[name].modules.values()]
                )
            )
        ),
        image_shape=shape,
        outputs={each: array.shape[1:] for each, array in replayed.outputs.items()},
        classes=getattr(task, "classes", None),
        settings={} if name == "plan" else _settings(form, task),
        reference=reference,
        validation=validation,
        note="",
        seconds_to_write=0.0,
        seconds_to_predict=replayed.seconds,
        quantization=quantization,
    )


def _settings(form: ExportForm, task: Task) -> dict[str, float]:
    # Options such as `top_k` concern tables, and not the model.
    return dict(task.prediction_options) if type(form).model is not ExportForm.model else {}


def _named(name: str, form: ExportForm, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a file with the names of the form."""
    if name == "plan":
        # A plan has the outputs of the model of the run.
        return form.outputs(list(outputs.values()))
    if form.names and set(outputs) == set(form.names):
        return outputs
    return dict(zip(form.names or sorted(outputs), outputs.values(), strict=True))


def _quantization(
    task: Task, images: _Images, raw: Any, outputs: dict[str, np.ndarray]
) -> Quantization:
    """Evaluate the model before and after its weights became integers."""
    arrays = iter(outputs.values())
    after = map_structure(lambda _: next(arrays), raw)
    values = []
    for each in (raw, after):
        evaluator = task.evaluator(images.inputs.dataset, images.inputs.samples, images.indices)
        evaluator.add(each)
        values.append(float(evaluator.result().metrics[task.monitor]))
    used = min(_CALIBRATION_IMAGES, len(images.names))
    return Quantization(used, task.monitored().title, values[0], values[1])


def _validation_images(
    trained_on: RunData, plugins: Plugins, shape: tuple[int, int, int]
) -> tuple[_Images | None, str]:
    """Read validation images. Return them, or `None` and the reason."""
    try:
        inputs = open_samples(
            trained_on.reference,
            image_shape=shape,
            datasets=plugins.datasets,
            trained_on=trained_on,
            tasks=plugins.tasks,
        )
        limit = min(MAX_IMAGES, max(1, _MAX_BYTES // int(np.prod(shape))))
        chosen = inputs.indices[_spread(len(inputs), limit)]
        pixels = np.asarray(inputs.samples.fetch(chosen), np.uint8)
        names = [printable(inputs.samples.names[int(index)]) for index in chosen]
    except (CnnforgeError, OSError) as error:
        return None, f"the data of the run cannot be read: {one_line(error)}"
    if not len(chosen):
        return None, "the run has no validation images"
    return _Images(inputs, chosen, pixels, names), ""


def _spread(count: int, limit: int) -> np.ndarray:
    """Choose up to `limit` of `count` places, evenly: data may be sorted by class."""
    return np.linspace(0, count - 1, min(count, limit)).astype(np.int64)


def _write_plan(
    run: RunDirectory, model: keras.Model, task: Task, plugins: Plugins, path: Path
) -> None:
    """Copy the plan of a run, which is made if the run has none."""
    found = find_plan(run, task, plugins)
    if not found.plan and not found.refused:
        found = make_plan(run, model, reference_for_plan(run, model), task, plugins)
    if found.record is None or not found.record.plan:
        raise UsageError(
            f"the model has no inference plan ({found.refused or 'it could not be made'}): choose "
            "another --format"
        )
    if not found.record.engine.startswith(_ENGINE):
        raise UsageError(
            f"the plan was written by the engine {found.record.engine}, and cnnforge_kernels runs "
            "plans of the built-in engine: choose another --format"
        )
    if not (run.path / PLAN).is_file():
        raise CnnforgeError(
            f"the plan of {run.path} could not be kept there: make the run writable, or copy it"
        )
    shutil.copyfile(run.path / PLAN, path)


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CnnforgeError(
            f"{printable(str(path))} cannot be written: {error.strerror or error}; make room, or "
            "give another place with --output"
        ) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder next to `path`; remove the folder after the block."""
    folder = Path(tempfile.mkdtemp(prefix=".cnnforge-tmp-", dir=path.absolute().parent))
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
