"""The command `cnnforge data convert`: writes a dataset in another format."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json


def convert(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with one sub-folder per class, a table, or the name of a dataset.",
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A new place: FOLDER or images:FOLDER, table:FOLDER, parquet:FOLDER, "
            "tar:FOLDER, idx:FOLDER, FILE.npz; boxes: coco:FOLDER, yolo:FOLDER, voc:FOLDER.",
        ),
    ],
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Size of the images in idx and npz.  [default: their median]"
        ),
    ] = None,
    color: Annotated[
        str,
        typer.Option(metavar="auto|grayscale|rgb", help="Color mode of the images in idx and npz."),
    ] = "auto",
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Write data in another format. Nothing is overwritten.

    Image files are copied unchanged, except to idx and npz, which hold pixels of one size. Splits
    and names of classes are kept.
    """
    from cnnforge.configuration import parse_size
    from cnnforge.data.writers.convert import check_packages, parse_target
    from cnnforge.errors import UsageError

    place = parse_target(target)
    if not place.format.pixels and (image_size is not None or color != "auto"):
        raise UsageError(
            f"--image-size and --color are for idx and npz; {place.kind} has the unchanged files: "
            "leave them out"
        )
    check_packages(place)
    plugins = load_plugins(plugin)
    from cnnforge import data as cnnforge_data
    from cnnforge.cli import _render
    from cnnforge.data.writers.convert import convert as write

    options = cnnforge_data.DataOptions(
        purpose="inspection",
        image_size=None if image_size is None else parse_size(image_size),
        color=color,  # pyright: ignore[reportArgumentType]
    )
    dataset = cnnforge_data.open_dataset(data, plugins.datasets, options, plugins.tasks)
    notes = write(dataset, place, plugins.datasets)
    for note in notes:
        _render.message(f"note: {note}")
    count, objects = len(dataset.train), None
    images = "1 image" if count == 1 else f"{count:,} images"
    if hasattr(dataset.train, "boxes"):
        objects = sum(map(len, dataset.train.boxes))  # pyright: ignore[reportAttributeAccessIssue]
        images += " with 1 object" if objects == 1 else f" with {objects:,} objects"
    if json:
        print_json(
            {
                "data": dataset.name,
                "format": place.kind,
                "written": place.reference,
                "images": count,
                "objects": objects,
                "classes": list(dataset.classes),
                "notes": list(notes),
            }
        )
        return
    _render.result(f"written: {images} in {len(dataset.classes):,} classes")
    _render.result(f"train on them with: cnnforge train --data {shlex.quote(place.reference)}")
