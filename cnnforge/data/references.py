"""Open the dataset that the user names: `mnist5k`, `csv:FILE`, `images:FOLDER`, or a path."""

from __future__ import annotations

import difflib
import glob
import os
import re
import shlex
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from cnnforge.data.boxes.layout import boxes_reader, some_files, some_folders
from cnnforge.data.dataset import DataOptions, Dataset
from cnnforge.data.formats import IMAGE_SUFFIXES
from cnnforge.errors import DataError, UnknownNameError, UsageError
from cnnforge.plugin import DatasetSpec, TaskSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.names import printable

# The name of a dataset, or `PLUGIN/NAME`. The name has at least two characters; otherwise the drive
# in "C:\data" would be read as a name. The name of a plugin may contain all characters that the
# name of a distribution may contain.
_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[a-z][a-z0-9_]+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LABELLED = "a folder with one sub-folder of images for each class, or a .csv file"
# The datasets that read a file with this ending.
_READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".npz": "npz",
    ".parquet": "parquet",
    ".tar": "tar",
    ".json": "coco",
    ".yaml": "yolo",
    ".yml": "yolo",
}
_IDX = re.compile(r".*ubyte(\.gz)?", re.IGNORECASE)
_TABLES = (".csv", ".tsv")
_MAX_DEPTH = 3
# The command that unpacks an archive into a new folder, for each ending of its name.
_ARCHIVES = {
    (".zip",): "unzip {file} -d {folder}",
    (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"): (
        "mkdir {folder} && tar -xf {file} -C {folder}"
    ),
    (".7z",): "7z x {file} -o{folder}",
    (".rar",): "unrar x {file} {folder}/",
}
# Endings of files that may be tables with commas.
_TEXT_SUFFIXES = ("", ".txt", ".data", ".dat")
_FORMS = (
    "a folder of images, a .csv, .npz, .parquet or .tar file, a .json or .yaml file of boxes, "
    "NAME, or NAME:ARGUMENT"
)


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
            or the path of a folder or of a file whose ending tells what it is, such as .csv.
        known: The known names, short and qualified.

    Returns:
        Two values: the name, and the argument or `None`. Examples are `("mnist5k", None)`,
        `("images", "photos")` and `("csv", "train.csv")`.

    Raises:
        UsageError: If the path does not exist or is not one of data, or if the name or the argument
            is empty.
    """
    check_local(reference)
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
    reader = path_reader(path)
    if os.path.exists(path):
        if reader:
            return reader, str(path)
        raise UsageError(_not_data(path))
    if reader in ("parquet", "tar") and any(sign in path.name for sign in "*?[{"):
        return reader, str(path)
    if "/" not in reference and _NAME.fullmatch(reference):
        return reference, None
    close = _similar(path)
    raise UsageError(
        f"there is no folder or file {printable(path)}, and no dataset of that name"
        f"{_or_this(close) or f': give {_FORMS}'}",
        correction=(reference, close) if close else None,
    )


def path_reader(path: str | os.PathLike[str]) -> str | None:
    """Find out which dataset reads a path.

    Args:
        path: A folder, or a file, which need not exist.

    Returns:
        The name of the dataset. For a folder with boxes, see `boxes_reader`. Another folder with
        image files is `"table"` if it has one .csv file and one sub-folder, `images`, with the
        images; otherwise it is `"images"`. A folder without image files is `"idx"`, `"parquet"` or
        `"tar"` if there are such files, and otherwise `"images"`. It is `None` if the ending of a
        file is not known, for instance that of an image.
    """
    if os.path.isdir(path):
        return boxes_reader(path) or _folder_reader(path)
    return _file_reader(os.path.basename(path))


def _file_reader(name: str) -> str | None:
    suffix = os.path.splitext(name)[1].lower()
    return "idx" if _IDX.fullmatch(name) else _READERS.get(suffix)


def _folder_reader(folder: str | os.PathLike[str]) -> str:
    found: set[str] = set()
    top = os.fspath(folder)
    if _has_table(top):
        return "table"
    for path, folders, names in os.walk(top):
        depth = len(Path(os.path.relpath(path, top)).parts)
        folders[:] = [name for name in folders if name[0] not in "._"] if depth < _MAX_DEPTH else []
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name[0] == ".":
                continue
            if suffix in IMAGE_SUFFIXES:
                return "images"
            found.add(_file_reader(name) or "")
    return next((kind for kind in ("idx", "parquet", "tar") if kind in found), "images")


def _has_table(folder: str) -> bool:
    """Return whether a folder has one table and the folder `images`, without classes."""
    tables = [name for name in some_files(folder) if name.lower().endswith(_TABLES)]
    folders = list(some_folders(folder))
    if len(tables) != 1 or [os.path.basename(path).lower() for path in folders] != ["images"]:
        return False
    suffixes = {os.path.splitext(name)[1].lower() for name in some_files(folders[0])}
    return not any(some_folders(folders[0])) and not suffixes.isdisjoint(IMAGE_SUFFIXES)


def check_local(reference: str) -> None:
    """Check that a reference is not a URL, a packed file, or a pattern such as `*.png`.

    Args:
        reference: Reference to a dataset, see `parse`, or the path of an image.

    Raises:
        UsageError: If it is one of these. The message contains the command that downloads or
            unpacks it, or the folder of the pattern.
    """
    if _URL.match(reference):
        how = f"; type: curl -LO {shlex.quote(reference)}" if reference[:4] == "http" else ""
        raise UsageError(
            f"{reference} is a URL, and cnnforge reads local files: download it, unpack it if it "
            f"is an archive, and name the folder or file instead{how}"
        )
    path = Path(os.path.expanduser(reference))
    is_pattern = set("*?[") & set(reference) and not os.path.lexists(path)
    # The readers of these files take a pattern for several of them.
    if is_pattern and path_reader(path) not in ("parquet", "tar"):
        raise UsageError(_about_pattern(path))
    if not os.path.isfile(path):
        return
    shown = printable(path)
    for endings, command in _ARCHIVES.items():
        if path.name.lower().endswith(endings):
            folder = path.name.split(".")[0] or "data"
            words = {"file": shlex.quote(shown), "folder": shlex.quote(folder)}
            raise UsageError(
                f"{shown} is an archive: unpack it, and name the folder instead; type: "
                f"{command.format(**words)}"
            )
    if path.suffix.lower() == ".gz" and not _IDX.fullmatch(path.name):
        raise UsageError(
            f"{shown} is compressed: unpack it, and name {path.stem} instead; type: "
            f"gunzip -k {shlex.quote(shown)}"
        )


def find_dataset(reference: str, datasets: DatasetRegistry) -> tuple[DatasetSpec, str | None]:
    """Find the dataset that a reference names. This does not read the data.

    Args:
        reference: Reference to a dataset, see `parse`.
        datasets: Registry of the datasets that plugins declare.

    Returns:
        Two values: the dataset, and the argument or `None`.

    Raises:
        UsageError: If the reference names no dataset.
    """
    name, argument = parse(reference, datasets)
    try:
        return datasets[name], argument
    except UnknownNameError as error:
        if argument is not None:
            raise
        close = _similar(Path(reference))
        raise UnknownNameError(
            f"{error}; nor is there a folder or file {reference!r}{_or_this(close)}",
            correction=(reference, close) if close else error.correction,
        ) from None


def absolute_reference(reference: str, datasets: Container[object]) -> str:
    """Return a dataset reference with an absolute path.

    Args:
        reference: Reference of a dataset.
        datasets: The known names of datasets.

    Returns:
        `NAME`, or `NAME:ARGUMENT`. The argument is made absolute if it is the path of an existing
        file or folder, or a pattern for such paths.

    Raises:
        UsageError: The reference is not valid, see `parse`.
    """
    name, argument = parse(reference, datasets)
    if argument is None:
        return name
    path = os.path.expanduser(argument)
    is_path = os.path.exists(path) or any(sign in path for sign in "*?[{")
    return f"{name}:{os.path.abspath(path) if is_path else argument}"


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
    spec, argument = find_dataset(reference, datasets)
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


def _about_pattern(path: Path) -> str:
    """Return a message about a pattern that the shell did not replace by names of files."""
    shown = printable(path)
    found = len(glob.glob(str(path), recursive=True))
    if found:
        files = "1 file" if found == 1 else f"{found} files"
        return f"the pattern {shown} matches {files}: write it without quotation marks"
    folder = path.parent
    if any(character in str(folder) for character in "*?[") or not folder.is_dir():
        return f"no file matches the pattern {shown}: write the names of files or folders"
    return (
        f"no file matches the pattern {shown}: check the ending, also in upper case, or name the "
        f"folder {printable(folder)}"
    )


def _not_data(path: Path) -> str:
    """Return a message about a file that no dataset reads."""
    shown, suffix = printable(path), path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return (
            f"{shown} is one image: training and evaluation need {_LABELLED}; to predict the "
            f"image, type: cnnforge predict latest {shlex.quote(shown)}"
        )
    if suffix == ".npy":
        return (
            f"{shown} is one array: save images and labels in one file with "
            "numpy.savez(FILE, images=..., labels=...), and name that file"
        )
    other = f"give {_FORMS}"
    if suffix in _TEXT_SUFFIXES:
        other += f"; if it is a table with commas, name it as csv:{shown}"
    return f"{shown} is a file whose ending is not known: {other}"


def _similar(path: Path) -> str:
    """Return the file or folder next to a path that has a similar name, or ""."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, 1)
    return printable(path.parent / close[0]) if close else ""


def _or_this(close: str) -> str:
    return f"; did you mean {close!r}?" if close else ""
