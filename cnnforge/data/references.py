"""Open the dataset that the user names: `mnist5k`, `csv:FILE`, `images:FOLDER`, or a path."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from cnnforge.data.dataset import DataOptions, Dataset
from cnnforge.errors import DataError, UnknownNameError, UsageError
from cnnforge.plugin import DatasetSpec, TaskSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.names import printable

# The name of a dataset, or `PLUGIN/NAME`. The name has at least two characters; otherwise the drive
# in "C:\data" would be read as a name. The name of a plugin may contain all characters that the
# name of a distribution may contain.
_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[a-z][a-z0-9_]+")
_FORMS = "a folder of images, a .csv file, NAME, or NAME:ARGUMENT"


class DatasetRegistry(Container[object], Protocol):
    """The methods of `cnnforge.plugin_host.registry.Registry` that `open_dataset` calls."""

    def __getitem__(self, name: str) -> DatasetSpec:
        """Return the spec with this short or qualified name."""
        ...


def parse(reference: str, known: Container[object] = ()) -> tuple[str, str | None]:
    """Split a reference to a dataset into the name of the dataset and an argument.

    If a known name is also the name of a folder, the reference means the known dataset; `./mnist5k`
    means the folder.

    Args:
        reference: `"NAME"` or `"NAME:ARGUMENT"`, with a short or a qualified name (`plugin/name`),
            or the path of a folder of images or of a .csv file.
        known: The known names, short and qualified.

    Returns:
        Two values: the name, and the argument or `None`. Examples are `("mnist5k", None)`,
        `("images", "photos")` and `("csv", "train.csv")`.

    Raises:
        UsageError: If the path does not exist or is neither a folder nor a .csv file, or if the
            name or the argument is empty.
    """
    if not reference.strip():
        raise UsageError(f"the dataset is {reference!r}: give {_FORMS}")
    name, colon, argument = reference.partition(":")
    if colon and _NAME.fullmatch(name):
        if not argument:
            raise UsageError(
                f"there is no argument after the colon of {reference!r}: "
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
    reference: str,
    datasets: DatasetRegistry,
    options: DataOptions | None = None,
    tasks: Registry[TaskSpec] | None = None,
) -> Dataset:
    """Open the dataset that a reference names.

    Args:
        reference: Reference to a dataset, see `parse`.
        datasets: Registry of the datasets that plugins declare.
        options: Options of the dataset.
        tasks: Registry of the tasks, which is used to check that the dataset has the task that its
            plugin declares. `None`: this is not checked.

    Returns:
        The dataset.

    Raises:
        UsageError: If the reference names no dataset, the dataset refuses an option, or its task is
            unknown.
        DataError: If the data cannot be used.
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
    if tasks is not None and dataset.labelled and not tasks.same(dataset.task, spec.task):
        raise DataError(
            f"the dataset {spec.qualified_name!r} is declared for the task {spec.task!r} and "
            f"returned one for {dataset.task!r}: its plugin must name the same task in both places"
        )
    return dataset
