"""The command `cnnforge predict`: predicts images with the model of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnforge.cli._common import (
    JsonOption,
    KernelsOption,
    LazyList,
    PluginOption,
    TrustModelOption,
    find_run,
    json_parts,
    load_plugins,
    print_json,
)
from cnnforge.cli.predict.spread import Spread
from cnnforge.cli.workers.options import AddressOption, StartupTimeoutOption, WorkersOption

if TYPE_CHECKING:
    from cnnforge.cli._render import ProgressDisplay
    from cnnforge.prediction.inputs import Inputs
    from cnnforge.tasks import Row, Task

_MAX_SHOWN = 40
_MAX_UNREAD = 5
# Number of images between two updates of the progress bar.
_STEP = 16
_FORMATS = (".csv", ".json")


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or latest.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Image files, folders of images, a .csv file with or without labels, or a "
            "dataset such as mnist5k; of the run's own data only the validation images are used.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all rows to a .csv or .json file."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Number of classes in a row.  [default: 3]"),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            metavar="C",
            help="Min confidence of an object, 0 to 1.  [default: the best one in the validation]",
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            metavar="O",
            help="Overlap (IoU) of two boxes of a class at which the better one remains.  "
            "[default: 0.5]",
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Max number of objects in an image.  [default: 100]"),
    ] = None,
    tile: Annotated[
        bool,
        typer.Option("--tile", help="Search large images in parts, too, for small objects."),
    ] = False,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the images with the boxes of their objects."),
    ] = None,
    show: Annotated[
        bool,
        typer.Option("--show", help="Show the first images on the terminal, with their boxes."),
    ] = False,
    coco: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write the objects as results of COCO."),
    ] = None,
    yolo: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the objects as text files of YOLO."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Predict only the first N images.")
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the id and the label of each image, as competitions want it, to a .csv "
            "file. Ids are a column of the data, or the names of the files.",
        ),
    ] = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    startup_timeout: StartupTimeoutOption = None,
    kernels: KernelsOption = "auto",
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Predict images with the model of a run.

    Each image gets one row; if it cannot be read, the row gives the reason. The exit code is 1 if
    no image could be read.
    """
    # A shell does not replace `~` inside quotes or after `=`.
    output, submission, draw, coco, yolo = (
        path and Path(os.path.expanduser(path)) for path in (output, submission, draw, coco, yolo)
    )
    inputs = [os.path.expanduser(text) for text in inputs]
    _check_output(output, submission)
    spread = Spread.of(workers, address, startup_timeout)
    if spread is not None:
        spread.check(tile=tile, show=show, draw=draw)
    run = find_run(run)
    from cnnforge.data.references import check_local

    for text in inputs:
        check_local(text)
    from cnnforge.cli._trained import found_as_dict, open_trained, show_found

    trained = open_trained(run, kernels, plugin, load_plugins)
    from cnnforge.cli.predict.box_files import BoxFiles
    from cnnforge.prediction import find_inputs
    from cnnforge.tasks import prediction_options
    from cnnforge.utils.packed import Packed

    found = find_inputs(
        inputs,
        image_shape=trained.predictor.image_shape,
        datasets=trained.plugins.datasets,
        trained_on=trained.data,
        tasks=trained.plugins.tasks,
        in_parts=spread is not None,
    )
    show_found(found)
    task = trained.predictor.task
    ids = None
    if submission is not None:
        # Before the predictions are computed, find out whether the task has such a file.
        task.submission([], [], "id")
        ids = _ids(found)
    box_files = BoxFiles(draw, coco, yolo)
    box_files.check(task, tiled=tile)
    given = {
        "top_k": top_k,
        "confidence": confidence,
        "overlap": overlap,
        "max_detections": max_detections,
    }
    options = prediction_options(
        task, {name: value for name, value in given.items() if value is not None}
    )
    rows: Packed[Row] = Packed()
    ends = [0]
    if spread is None:
        predicting = nullcontext(
            lambda part, left: part.predict(trained.predictor, left, tiled=tile, **options)
        )
    else:
        predicting = spread.predicting(trained, run, options, kernels, plugin, trust_model)
    from cnnforge.cli import _render
    from cnnforge.errors import RunError

    total = sum(map(len, found))
    with predicting as predicted, _render.progress() as display:
        display.start("images", total if limit is None else min(limit, total))
        for part in found:
            left = None if limit is None else limit - len(rows)
            rows.extend(_counted(predicted(part, left), display))
            ends.append(len(rows))

    def parts() -> list[tuple[Inputs, list[Row]]]:
        # Unpacked only if they are needed.
        of_each = [rows[first:end] for first, end in pairwise(ends)]
        return list(zip(found, of_each, strict=True))

    try:
        _write(rows, task, output, submission, ids)
        if box_files.written:
            box_files.write(parts(), task)
    except RunError:
        # The file could not be written. The predictions took time to compute, so print them.
        _show(rows, task, None)
        raise
    tables = [str(path) for path in (output, submission) if path is not None]
    written = " and ".join([*tables, *box_files.written])
    # If a file has the rows, the command has done its work before it prints them.
    with _render.optional(f"the rows are in {written}") if written else nullcontext():
        if json:
            if show:
                _render.message("note: --show shows no pictures with --json")
            summaries = [found_as_dict(part) for part in found]
            predictions = LazyList(rows, lambda row: row.as_dict())
            print_json({"run": str(run), "found": summaries, "predictions": predictions})
        else:
            if show:
                from cnnforge.cli.predict.pictures import show_pictures

                show_pictures(parts(), task)
            _show(rows, task, output)
    failed = sum(row.error is not None for row in rows)
    if failed == len(rows):
        from cnnforge.errors import DataError

        # The table has the reason.
        raise DataError(
            "the image could not be read"
            if failed == 1
            else f"none of the {failed} images could be read"
        )


def _counted(rows: Iterable[Row], display: ProgressDisplay) -> Iterator[Row]:
    """Yield rows, and advance a progress bar."""
    for number, row in enumerate(rows, 1):
        yield row
        # An update takes as long as the prediction of a small image.
        if number % _STEP == 0:
            display.advance(_STEP)


def _check_output(output: Path | None, submission: Path | None) -> None:
    from cnnforge.errors import UsageError

    if output is not None and output.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"--output writes {' or '.join(_FORMATS)}, got {output}: name it "
            f"{output.with_suffix(_FORMATS[0]).name}"
        )
    for option, path in (("--output", output), ("--submission", submission)):
        if path is None:
            continue
        if os.path.isdir(path):
            raise UsageError(f"{option}: {path} is a folder, expected the name of a file in it")
        if not os.path.isdir(path.parent):
            raise UsageError(f"{option}: there is no folder {path.parent} for {path.name}: make it")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"{option}: the folder {path.parent} cannot be written to")


def _ids(found: Sequence[Inputs]) -> tuple[str, list[str]]:
    """Return the name of the ids, and the id of each row.

    Raises:
        UsageError: The ids of the images cannot be told.
    """
    from collections import Counter

    from cnnforge.errors import UsageError

    parts = [part.ids for part in found if len(part)]
    known = [part for part in parts if part is not None]
    names = list(dict.fromkeys(name for name, _ in known))
    ids = [own for _, part in known for own in part]
    reason = ""
    if len(known) < len(parts):
        reason = "the data have no ids"
    elif len(names) > 1:
        reason = f"the ids of one input are {names[0]!r} and those of another {names[1]!r}"
    elif len(known) > 1 and len(set(ids)) < len(ids):
        reason = f"two images have the id {Counter(ids).most_common(1)[0][0]!r}"
    if reason:
        raise UsageError(
            f"--submission needs the id of each image, but {reason}: give one folder of images or "
            "one table, or write all rows with --output FILE"
        )
    return names[0], ids


def _write(
    rows: Sequence[Row],
    task: Task,
    output: Path | None,
    submission: Path | None,
    ids: tuple[str, list[str]] | None,
) -> None:
    from cnnforge.errors import RunError
    from cnnforge.utils.atomic_files import write_parts

    files: list[tuple[Path, Iterable[str]]] = []
    if output is not None:
        if output.suffix.lower() == ".json":
            dictionaries = LazyList(rows, lambda row: row.as_dict())
            files.append((output, chain(json_parts(dictionaries), ["\n"])))
        else:
            files.append((output, task.csv_parts(rows)))
    if submission is not None and ids is not None:
        name, own = ids
        files.append((submission, [task.submission(rows, own[: len(rows)], name)]))
    for path, parts in files:
        try:
            write_parts(path, parts)
        except OSError as error:
            raise RunError(f"{path} could not be written: {error.strerror or error}") from error


def _show(rows: Sequence[Row], task: Task, output: Path | None) -> None:
    from cnnforge.cli import _render

    unread = [row for row in rows if row.error is not None]
    # On a terminal, a column of long reasons leaves too little space for the other columns.
    apart = _render.is_terminal() and 0 < len(unread) < len(rows)
    listed = (row for row in rows if row.error is None or not apart)
    count = len(rows) - len(unread) * apart
    # There may be millions of rows in a file.
    shown = list(listed if output is None else islice(listed, _MAX_SHOWN))
    cells = [row.shown() for row in shown]
    names = dict.fromkeys([*task.columns, *(name for columns in cells for name in columns)])
    with_error = bool(unread) and not apart
    table = [
        [row.name, *map(columns.get, names), *[row.error] * with_error]
        for row, columns in zip(shown, cells, strict=True)
    ]
    _render.table(["file", *names, *["error"] * with_error], table)
    if len(shown) < count:
        _render.message(f"{count - len(shown)} more rows are in {output}")
    if 0 < len(unread) < len(rows):
        _render.message(f"{len(unread)} of {len(rows)} images could not be read")
    if apart:
        for row in unread[:_MAX_UNREAD]:
            _render.message(f"{row.name}: {row.error}")
        if len(unread) > _MAX_UNREAD:
            _render.message(f"and {len(unread) - _MAX_UNREAD} more; --output FILE lists them")
    if summary := task.summary(rows):
        _render.message(summary)
