"""Write a dataset as image files: a folder with class folders, or a table with a folder."""

from __future__ import annotations

import csv
from pathlib import Path

from cnnforge.data.writers.items import Items, UniqueNames
from cnnforge.errors import DataError
from cnnforge.utils.names import printable

TABLE = "labels.csv"
"""Name of the table in its folder."""


def write_folder(items: Items, folder: Path) -> None:
    """Write `CLASS/FILE`, or `SPLIT/CLASS/FILE` if there are splits.

    Args:
        items: The samples.
        folder: An empty folder.

    Raises:
        DataError: If the name of a class cannot be that of a folder, or an image cannot be read.
        OSError: If a file cannot be written.
    """
    for name in items.classes:
        if "/" in name or name.startswith(".") or len(name.encode()) > 255:
            raise DataError(
                f"the class {printable(name)!r} cannot be the name of a folder: convert to table, "
                "parquet, tar or npz instead"
            )
    names: dict[Path, UniqueNames] = {}
    for item in items.items:
        content, suffix = items.encoded(item)
        place = folder / item.split / items.classes[item.label]
        if place not in names:
            place.mkdir(parents=True, exist_ok=True)
            names[place] = UniqueNames()
        (place / names[place].make(items.stem(item), suffix)).write_bytes(content)


def write_table(items: Items, folder: Path) -> None:
    """Write `labels.csv` with the columns file, label and split, and the folder `images`.

    Args:
        items: The samples.
        folder: An empty folder.

    Raises:
        DataError: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    names = UniqueNames()
    (folder / "images").mkdir()
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        with_splits = items.splits != [""]
        table.writerow(["file", "label", *["split"] * with_splits])
        for item in items.items:
            content, suffix = items.encoded(item)
            name = names.make(items.stem(item), suffix)
            (folder / "images" / name).write_bytes(content)
            row = [f"images/{name}", items.classes[item.label]]
            table.writerow([*row, *[item.split] * with_splits])
