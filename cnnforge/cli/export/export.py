"""The command `cnnforge export`: writes the model of a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    TrustModelOption,
    find_run,
    load_plugins,
    print_json,
)

if TYPE_CHECKING:
    from cnnforge.exporting.report import Comparison, Report

# Max number of images that a table lists; the report has all.
_MAX_SHOWN = 20


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or latest.")],
    format: Annotated[
        str,
        typer.Option(
            metavar="keras|savedmodel|onnx|litert|plan",
            help="keras: a .keras file; savedmodel: a folder for TensorFlow; onnx, litert: files "
            "for ONNX Runtime and LiteRT; plan: an inference plan for cnnforge_kernels.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write it here.  [default: the name of the run]"),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="With litert: 8-bit integers, calibrated with validation images."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an older export.")] = False,
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Write the model of a run for other programs, and check it there.

    The model takes raw pixels, 0 to 255; that of a detector returns boxes. The file is run without
    cnnforge and compared with the run. PATH.report.json has the result.
    """
    from cnnforge.errors import UsageError
    from cnnforge.exporting.formats import FORMATS, check_output, check_packages
    from cnnforge.optimizer_options import one_of

    one_of("format", format, tuple(FORMATS))
    if int8 and format != "litert":
        raise UsageError(f"--int8 is for --format litert, got --format {format}: leave it out")
    run = find_run(run)
    form = FORMATS[format]
    if output is None:
        ending = f"-int8{form.ending}" if int8 else form.ending
        output = Path(f"{run.resolve().name}{ending}")
    output = check_output(format, output, force)
    check_packages(format)
    from cnnforge.cli._trained import open_run

    opened, trained_on, plugins, _ = open_run(run, plugin, load_plugins)
    from cnnforge.cli._import_keras import import_keras

    settings = import_keras()
    if form.needs_tensorflow and settings.backend != "tensorflow":
        raise UsageError(
            f"--format {format} is written by Keras on TensorFlow, and KERAS_BACKEND is "
            f"{settings.backend}: type 'KERAS_BACKEND=tensorflow cnnforge export ...'"
        )
    from cnnforge.exporting.exporter import export_run

    report = export_run(opened, trained_on, plugins, format, output, int8=int8, force=force)
    if json:
        print_json(report.as_dict())
        return
    _show(report)


def _show(report: Report) -> None:
    from cnnforge.cli import _render

    units = {"boxes": " px"}
    rows: list[list[object]] = []
    parts = {
        "reference predictions": report.reference,
        "validation images": report.validation,
    }
    for title, part in parts.items():
        if part is not None:
            apart = ", ".join(
                f"{name} {value:.1e}{units.get(name, '')}"
                for name, value in part.differences.items()
            )
            rows.append([title, f"{part.images:,}", apart, _equal(part)])
    _render.table(["compared on", "images", "largest difference", "same answer"], rows)
    if report.note:
        _render.message(f"note: {report.note}")
    if cost := report.quantization:
        _render.message(
            f"8-bit integers, calibrated with {cost.calibration_images} validation images: "
            f"{cost.metric} {cost.after:.2%}, before {cost.before:.2%}"
        )
    flips = report.validation.flips if report.validation else ()
    if flips:
        _render.table(
            ["image", "the run says", "the file says"], [list(each) for each in flips[:_MAX_SHOWN]]
        )
        if len(flips) > _MAX_SHOWN:
            _render.message(f"{len(flips) - _MAX_SHOWN} more are in the report")
    runtime = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    images = sum(part.images for part in (report.reference, report.validation) if part)
    _render.message(
        f"{report.bytes / 1e6:.2f} MB, written in {report.seconds_to_write:.1f} s; {images:,} "
        f"images predicted without cnnforge in {report.seconds_to_predict:.2f} s ({runtime})"
    )
    typer.echo(report.output)


def _equal(part: Comparison) -> str:
    return "numbers only" if part.equal is None else f"{part.equal:,} of {part.images:,}"
