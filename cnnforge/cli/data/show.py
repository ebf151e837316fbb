"""The command `cnnforge data show`: draws what a network will see of the training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    check_file,
    default_file,
    load_plugins,
    print_json,
)

if TYPE_CHECKING:
    import numpy as np

    from cnnforge.cli.data._terminal import TerminalRow
    from cnnforge.data import Augmentation, Dataset
    from cnnforge.plugin import DatasetSpec
    from cnnforge.plugin_host.discovery import Plugins

_COLUMNS, _COLUMNS_OF_BOXES = 8, 5


def show(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with one sub-folder per class, a table, or the name of a dataset.",
        ),
    ],
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ARG]",
            help="Apply this augmentation as train does, such as shift:2; repeatable.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model that bounds the size of the images.  [default: lenet; detector for boxes]",
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Resize the images to this size.  [default: the size of the data]"
        ),
    ] = None,
    color: Annotated[
        str, typer.Option(metavar="auto|grayscale|rgb", help="Color mode of the images.")
    ] = "auto",
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed, as for train.")] = 0,
    split_seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random seed of the validation split.  [default: the value of --seed]"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write the sheet here.  [default: sheet.png]"),
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Draw the training images as a network will see them.

    Without --augment, a row has several training images of a class. With it, a row has one image,
    and what each epoch makes of it. A terminal with colors shows the first rows, too.
    """
    from cnnforge.cli.data._boxes import has_boxes
    from cnnforge.cli.data._sheets import written
    from cnnforge.cli.data._terminal import show_rows

    if output is None:
        path = default_file(Path(), "sheet", ".png")
    else:
        path = check_file("--output", output, ".png", "the sheet is a PNG file")
    plugins = load_plugins(plugin)
    if model is not None:
        _ = plugins.models[model.partition(":")[0]]
    from cnnforge.configuration import TrainingOptions, check_types
    from cnnforge.data import DataOptions, open_dataset
    from cnnforge.data.references import find_dataset

    given = {"image_size": image_size, "color": color, "seed": seed, "split_seed": split_seed}
    given = {name: value for name, value in given.items() if value is not None}
    # The options are those of training, so they are checked in the same way.
    training = TrainingOptions(
        **check_types({**given, "augment": tuple(augment or ())}, "command line")
    )
    references = training.augment
    _ = [plugins.augmentations[name.partition(":")[0]] for name in references]
    # Checked before the import of Keras, which takes seconds.
    spec, _ = find_dataset(data, plugins.datasets)
    options = DataOptions(
        image_size=training.height_and_width,
        color=training.color,  # pyright: ignore[reportArgumentType]
        seed=training.split_seed,
        max_size=_max_size(model, spec, plugins),
    )
    augmentations: tuple[tuple[str, Augmentation], ...] = ()
    if references:
        from cnnforge.cli._import_keras import import_keras

        import_keras()
        from cnnforge.training.components import make_augmentations, qualified

        names = qualified(references, plugins.augmentations)
        augmentations = make_augmentations(names, plugins.augmentations)
    dataset = open_dataset(data, plugins.datasets, options, plugins.tasks)
    from cnnforge.cli import _render

    for note in dataset.notes:
        _render.message(f"note: {note}")
    with written(path) as temporary:
        if has_boxes(dataset):
            rows = _draw_boxes(temporary, dataset, augmentations, seed, plugins)
        else:
            rows = _draw(temporary, dataset, augmentations, seed)
    if json:
        print_json(
            {
                "data": dataset.name,
                "sheet": str(path),
                "image_shape": list(dataset.image_shape),
                "rows": [{"class": row.name, "images": len(row.images)} for row in rows],
                "notes": list(dataset.notes),
            }
        )
    elif not _render.no_pictures():
        show_rows(rows)


def _max_size(model: str | None, data: DatasetSpec, plugins: Plugins) -> int:
    """Return the max height and width that a model sets."""
    if model is None:
        from cnnforge.errors import UsageError
        from cnnforge.tasks import default_model

        try:
            found = default_model(data.name, data.task, plugins.models, plugins.tasks)
        except UsageError:
            # The user chooses the model with `train`.
            found = None
        return (found or plugins.models["lenet"]).max_default_size
    return plugins.models[model.partition(":")[0]].max_default_size


def _draw_boxes(
    path: Path,
    dataset: Dataset,
    augmentations: tuple[tuple[str, Augmentation], ...],
    seed: int,
    plugins: Plugins,
) -> list[TerminalRow]:
    """Draw images with their boxes: several of each class, or one of it in several epochs."""
    from cnnforge.cli.data._boxes import CELL, boxed, read_boxes, rows_with
    from cnnforge.cli.data._sheets import say_latin, some_of
    from cnnforge.cli.data._terminal import TerminalRow
    from cnnforge.data import samples_of_epoch
    from cnnforge.errors import DataError
    from cnnforge.reporting.contact_sheet import SheetRow, contact_sheet, some_rows
    from cnnforge.utils.names import printable

    first: Any = samples_of_epoch(dataset.train, 0)
    rows, shown = [], []
    for label in some_rows(len(dataset.classes)):
        own = some_of(rows_with(first.labels, label), _COLUMNS_OF_BOXES)
        if not len(own):
            continue
        found = read_boxes(first, own[:1] if augmentations else own)
        if augmentations:
            found += _box_epochs(dataset, augmentations, seed, own[:1], plugins)
        images = [boxed(image, boxes, labels == label) for image, boxes, labels in found]
        rows.append(SheetRow(dataset.classes[label], images))
        shown.append(
            TerminalRow(
                dataset.classes[label],
                [image for image, _, _ in found],
                [(boxes, labels == label) for _, boxes, labels in found],
            )
        )
    if not rows:
        raise DataError(f"{printable(dataset.name)} has no object for training: nothing to show")
    say_latin(
        contact_sheet(
            path,
            rows,
            title=_title(dataset, augmentations, seed, len(rows)),
            headings=_headings(_COLUMNS_OF_BOXES) if augmentations else (),
            cell=CELL,
        )
    )
    return shown


def _box_epochs(
    dataset: Dataset,
    augmentations: tuple[tuple[str, Augmentation], ...],
    seed: int,
    row: np.ndarray,
    plugins: Plugins,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what the first epochs make of a training image, with boxes and labels."""
    from cnnforge.data import AugmentedSamples, samples_of_epoch
    from cnnforge.tasks.opening import task_for

    task = task_for(dataset, plugins.tasks, {})
    found = []
    for epoch in range(_COLUMNS_OF_BOXES - 1):
        samples = samples_of_epoch(dataset.train, epoch)
        images, targets = AugmentedSamples(samples, augmentations, seed, epoch).read(row, task)
        there = targets["labels"][0] >= 0
        found.append((images[0], targets["boxes"][0][there], targets["labels"][0][there]))
    return found


def _draw(
    path: Path, dataset: Dataset, augmentations: tuple[tuple[str, Augmentation], ...], seed: int
) -> list[TerminalRow]:
    import numpy as np

    from cnnforge.cli.data._sheets import say_latin, some_of
    from cnnforge.cli.data._terminal import TerminalRow
    from cnnforge.errors import DataError
    from cnnforge.reporting.contact_sheet import SheetRow, contact_sheet, some_rows
    from cnnforge.utils.names import printable

    labels = getattr(dataset.train, "labels", None)
    if labels is None or not dataset.classes:
        raise DataError(f"{printable(dataset.name)} has no class labels, which the sheet shows")
    rows = []
    for label in some_rows(len(dataset.classes)):
        own = some_of(np.flatnonzero(np.asarray(labels) == label), _COLUMNS)
        if augmentations and len(own):
            images = _epochs(dataset, augmentations, seed, own[:1])
        else:
            images = list(_stored(dataset, own))
        rows.append(SheetRow(dataset.classes[label], images))
    title = _title(dataset, augmentations, seed, len(rows))
    headings = _headings(_COLUMNS) if augmentations else ()
    say_latin(contact_sheet(path, rows, title=title, headings=headings))
    return [TerminalRow(row.name, row.images) for row in rows]


def _title(
    dataset: Dataset,
    augmentations: tuple[tuple[str, Augmentation], ...],
    seed: int,
    rows: int,
) -> str:
    height, width, channels = dataset.image_shape
    title = f"{height}x{width}, {'grayscale' if channels == 1 else 'color'}, seed {seed}"
    if augmentations:
        title += f": {', '.join(name.rpartition('/')[2] for name, _ in augmentations)}"
    if rows < len(dataset.classes):
        title += f", {rows} of {len(dataset.classes):,} classes"
    return title


def _headings(columns: int) -> list[str]:
    return ["no change", *(f"epoch {number}" for number in range(1, columns))]


def _stored(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    from cnnforge.data import samples_of_epoch

    return samples_of_epoch(dataset.train, 0).fetch(rows)


def _epochs(
    dataset: Dataset,
    augmentations: tuple[tuple[str, Augmentation], ...],
    seed: int,
    row: np.ndarray,
) -> list[np.ndarray]:
    """Return a training image, and what the first epochs make of it."""
    from cnnforge.data import AugmentedSamples, samples_of_epoch

    images = [_stored(dataset, row)[0]]
    for epoch in range(_COLUMNS - 1):
        samples = samples_of_epoch(dataset.train, epoch)
        images.append(AugmentedSamples(samples, augmentations, seed, epoch).fetch(row)[0])
    return images
