"""From what the user writes to a dataset: `mnist5k`, `csv:FILE`, `images:FOLDER`, or a path."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from cnnforge.data.dataset import DataOptions, Dataset
from cnnforge.data.images import printable
from cnnforge.errors import DataError, UnknownNameError, UsageError
from cnnforge.plugin import DatasetSpec

# Two letters at least: "C:\data" begins with a drive. A plugin's name is a distribution's.
_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[a-z][a-z0-9_]+")
_FORMS = "a folder of images, a .csv file, NAME, or NAME:ARGUMENT"


class DatasetRegistry(Container[object], Protocol):
    """What `open_dataset` needs of `cnnforge.plugin_host.registry.Registry`."""

    def __getitem__(self, name: str) -> DatasetSpec:
        """Find a spec by its short or its qualified name."""
        ...


def parse(reference: str, known: Container[object] = ()) -> tuple[str, str | None]:
    """Split a reference to a dataset into the name of its kind and an argument.

    A word that is a known name is that name even where a folder is called the same: `./mnist5k`
    means the folder.

    Args:
        reference: `"NAME"` or `"NAME:ARGUMENT"`, where a name may be qualified (`plugin/name`),
            or the path of a folder of images or of a .csv file.
        known: The names that are known, short and qualified.

    Returns:
        The name and the argument, `None` where there is none: `("mnist5k", None)`,
        `("images", "photos")`, `("csv", "train.csv")`.

    Raises:
        UsageError: If nothing is there at the path, or something else than a folder or a .csv
            file, or nothing stands before or after the colon.
    """
    if not reference.strip():
        raise UsageError(f"the dataset is {reference!r}: give {_FORMS}")
    name, colon, argument = reference.partition(":")
    if colon and _NAME.fullmatch(name):
        if not argument:
            raise UsageError(
                f"nothing stands after the colon of {reference!r}: "
                f"write {name}:ARGUMENT, for instance {name}:PATH"
            )
        return name, argument
    if reference in known:
        return reference, None
    path = Path(os.path.expanduser(reference))
    if os.path.isdir(path):
        return "images", str(path)
    if os.path.exists(path):
        if path.suffix.lower() == ".csv":
            return "csv", str(path)
        raise UsageError(
            f"{printable(path)} is a file but does not end in .csv: "
            f"give {_FORMS}; csv:{printable(path)} reads it as one"
        )
    if "/" not in reference and _NAME.fullmatch(reference):
        return reference, None
    raise UsageError(
        f"there is no folder or file {printable(path)}, and no dataset of that name: give {_FORMS}"
    )


def open_dataset(
    reference: str, datasets: DatasetRegistry, options: DataOptions | None = None
) -> Dataset:
    """Open what a reference means.

    Args:
        reference: See `parse`.
        datasets: The registry of the datasets that plugins declare.
        options: How to open it.

    Returns:
        The dataset.

    Raises:
        UsageError: If the reference means nothing, or an option does not suit the dataset.
        DataError: If nothing usable could be read.
    """
    name, argument = parse(reference, datasets)
    try:
        spec = datasets[name]
    except UnknownNameError as error:
        if argument is not None:
            raise
        raise UnknownNameError(f"{error}; nor is there a folder or file {reference!r}") from None
    dataset = spec.load()(argument, options or DataOptions())
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"the dataset {spec.qualified_name!r} returned a {type(dataset).__name__}: "
            "its plugin must return a cnnforge.data.Dataset"
        )
    if dataset.labelled and _short(dataset.task) != _short(spec.task):
        raise DataError(
            f"the dataset {spec.qualified_name!r} is declared for the task {spec.task!r} and "
            f"returned one for {dataset.task!r}: its plugin must say the same in both places"
        )
    return dataset


def _short(task: str) -> str:
    return task.rpartition("/")[2]
