"""The command `cnnforge data check`: reports what is in a dataset, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json

if TYPE_CHECKING:
    from cnnforge.data import Dataset
    from cnnforge.data.inspection import DataReport, Finding
    from cnnforge.data.inspection.report import ObjectReport

_MAX_EXAMPLES = 5
# If there are more classes, only the largest and the smallest ones are listed.
_MAX_CLASSES = 20
_IMAGES_OF_CLASS, _IMAGES_WITH_BOXES = 8, 5


def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with one sub-folder per class, a table, or the name of a dataset.",
        ),
    ],
    near: Annotated[
        bool,
        typer.Option("--near", help="Find images that look alike too, such as resized copies."),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw some images of each class, with boxes, here."),
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Count images and classes, and find what is wrong with the data.

    Wrong are: files that cannot be read, copies of an image with different labels or in different
    splits, classes with less than two images for training, and boxes that cannot be used. The exit
    code is 1 then.
    """
    from cnnforge.cli.data._sheets import check_png, written

    if sheet is not None:
        sheet = check_png("--sheet", sheet)
    plugins = load_plugins(plugin)
    from cnnforge.data import DataOptions, open_dataset
    from cnnforge.data.inspection import inspect

    dataset = open_dataset(data, plugins.datasets, DataOptions(purpose="inspection"), plugins.tasks)
    report = inspect(dataset, near=near)
    if json:
        print_json({**report.as_dict(), "sheet": None if sheet is None else str(sheet)})
    else:
        _show(report)
    if sheet is not None:
        with written(sheet) as temporary:
            _draw(temporary, dataset, report)
    if report.wrong:
        raise typer.Exit(1)


def _show(report: DataReport) -> None:
    from cnnforge.cli import _render
    from cnnforge.utils.names import printable

    parts = report.parts
    total, count = sum(parts.values()), len(report.counts)
    images = "1 image" if total == 1 else f"{total:,} images"
    classes = "1 class" if count == 1 else f"{count:,} classes"
    if report.objects is not None:
        objects = report.objects.total
        images += " with " + ("1 object" if objects == 1 else f"{objects:,} objects")
    _render.result(f"{printable(report.name)}: {images} in {classes}")
    _render.result("")
    _show_classes(report)
    smallest, median, largest = (f"{height}x{width}" for height, width in report.sizes)
    _render.result("")
    if smallest == largest:
        _render.result(f"size: all {smallest}")
    else:
        _render.result(f"size: {smallest} to {largest}, median {median}")
    if report.objects is not None:
        _show_objects(report.objects)
    modes = ", ".join(f"{number:,} {mode}" for mode, number in report.modes.items())
    _render.result(f"mode: {modes}")
    for finding in report.findings:
        _show_finding(finding)
    for note in report.notes:
        _render.result(f"note: {note}")
    _render.result("")
    wrong = len(report.wrong)
    if wrong:
        things = "1 thing is" if wrong == 1 else f"{wrong} things are"
        _render.result(f"{things} wrong; --json lists all images", style="bold red")
    else:
        _render.result("nothing is wrong", style="bold green")


def _show_objects(objects: ObjectReport) -> None:
    from cnnforge.cli import _render

    least, median, most = objects.per_image
    texts = [f"{least} to {most} per image, median {median}"]
    if objects.total:
        smallest, middle, largest = (
            f"{round(height, 1):g}x{round(width, 1):g}" for height, width in objects.sizes
        )
        texts.append(f"size {smallest} to {largest}, median {middle}")
        texts.append(", ".join(f"{count:,} {name}" for name, count in objects.by_size.items()))
    if objects.crowds:
        texts.append("1 crowd" if objects.crowds == 1 else f"{objects.crowds:,} crowds")
    _render.result(f"objects: {'; '.join(texts)}")


def _show_classes(report: DataReport) -> None:
    from cnnforge.cli import _render

    parts = list(report.parts)
    sums_of = {part: sum(row[part] for row in report.counts.values()) for part in parts}
    total = sum(sums_of.values())
    what = "images" if report.objects is None else "objects"
    rows: list[list[object]] = []
    for name, counts in report.counts.items():
        number = sum(counts.values())
        row = [name, *(counts[part] for part in parts)]
        if len(parts) > 1:
            row.append(number)
        rows.append([*row, f"{number / max(total, 1):.1%}"])
    left_out = 0
    if len(rows) > _MAX_CLASSES:
        rows.sort(key=lambda row: -sum(report.counts[str(row[0])].values()))
        left_out = len(rows) - _MAX_CLASSES
        half = _MAX_CLASSES // 2
        rows = [*rows[:half], ["...", *[None] * (len(rows[0]) - 1)], *rows[-half:]]
    headings = [what] if parts == ["all"] else [*parts, *["total"] * (len(parts) > 1)]
    if len(report.counts) > 1:
        sums: list[object] = ["all", *(sums_of[part] for part in parts)]
        rows.append([*sums, *[total] * (len(parts) > 1), None])
    _render.table(["class", *headings, "share"], rows)
    if left_out:
        _render.result(f"{left_out:,} classes of middle size are not shown; --json lists all")


def _show_finding(finding: Finding) -> None:
    from cnnforge.cli import _render

    _render.result("")
    kind, style = ("wrong", "red") if finding.wrong else ("note", "")
    _render.result(f"{kind}: {finding.text}", style=style)
    for example in finding.examples[:_MAX_EXAMPLES]:
        _render.result(f"  {example}", indent=4)
    if len(finding.examples) > _MAX_EXAMPLES:
        _render.result(f"  and {len(finding.examples) - _MAX_EXAMPLES:,} more")


def _draw(path: Path, dataset: Dataset, report: DataReport) -> None:
    """Draw some images of each class, at equal steps among the images of the class."""
    import numpy as np

    from cnnforge.cli.data._boxes import CELL, has_boxes, original_rows
    from cnnforge.cli.data._sheets import say_latin, some_of, thumbnails
    from cnnforge.reporting.contact_sheet import SheetRow, contact_sheet, some_rows

    if has_boxes(dataset):
        chosen = some_rows(len(dataset.classes))
        rows = [original_rows(dataset, label, _IMAGES_WITH_BOXES) for label in (*chosen, -1)]
        rows = [row for row in rows if row.images]
        count = len(rows) - (rows[-1].name == "no object")
        title = f"{len(dataset.train):,} images, {count} of {len(dataset.classes):,} classes"
        say_latin(contact_sheet(path, rows, title=title, cell=CELL))
        return
    labels = np.asarray(dataset.train.labels)  # pyright: ignore[reportAttributeAccessIssue]
    rows = []
    for label in some_rows(len(dataset.classes)):
        own = np.flatnonzero(labels == label)
        images = thumbnails(dataset, some_of(own, _IMAGES_OF_CLASS))
        details = "1 image" if len(own) == 1 else f"{len(own):,} images"
        rows.append(SheetRow(dataset.classes[label], images, details))
    shown = f"{len(rows)} of {len(dataset.classes):,} classes"
    title = f"{sum(report.parts.values()):,} images, {shown}"
    say_latin(contact_sheet(path, rows, title=title))
