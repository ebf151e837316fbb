"""Convert a dataset to another format: write it, read it again, and move it to its place."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cnnforge.data.dataset import DataOptions, Dataset
from cnnforge.data.references import open_dataset
from cnnforge.data.writers.archives import import_pyarrow, write_parquet, write_tar
from cnnforge.data.writers.arrays import idx_labels, write_idx, write_npz
from cnnforge.data.writers.boxes import (
    box_notes,
    verify_boxes,
    write_coco,
    write_voc,
    write_yolo,
)
from cnnforge.data.writers.files import TABLE, write_folder, write_table
from cnnforge.data.writers.items import Items, splits_of
from cnnforge.errors import CnnforgeError, DataError, UsageError
from cnnforge.plugin import DatasetSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.atomic_files import sync_folder
from cnnforge.utils.names import printable


class Format(NamedTuple):
    """A format that can be written.

    Attributes:
        write: Function that writes the samples.
        pixels: Whether images are stored as pixels of one size, not as files.
        suffix: Ending of the file, if the format is one file; empty if it is a folder.
        inner: Name of the file in the folder that a reference names; empty for the folder.
        boxes: Whether it stores boxes. Otherwise it stores a class for each image.
    """

    write: Callable[[Items, Path], None]
    pixels: bool = False
    suffix: str = ""
    inner: str = ""
    boxes: bool = False


FORMATS: dict[str, Format] = {
    "images": Format(write_folder),
    "table": Format(write_table, inner=TABLE),
    "parquet": Format(write_parquet),
    "tar": Format(write_tar),
    "idx": Format(write_idx, pixels=True),
    "npz": Format(write_npz, pixels=True, suffix=".npz"),
    "coco": Format(write_coco, boxes=True),
    "yolo": Format(write_yolo, boxes=True),
    "voc": Format(write_voc, boxes=True),
}
"""The formats, by the name of the dataset that reads them."""

# Endings of files of formats that are written as folders.
_ENDINGS = {
    ".csv": "table",
    ".parquet": "parquet",
    ".tar": "tar",
    ".zip": "images",
    ".json": "coco",
    ".yaml": "yolo",
    ".xml": "voc",
}


class Target(NamedTuple):
    """The place to which a dataset is converted.

    Attributes:
        kind: Name of the format.
        path: The file or folder.
    """

    kind: str
    path: Path

    @property
    def format(self) -> Format:
        """The format."""
        return FORMATS[self.kind]

    @property
    def reference(self) -> str:
        """The reference that opens the data, see `cnnforge.data.open_dataset`."""
        return _reference(self.kind, self.path)


def parse_target(text: str) -> Target:
    """Parse the place to which a dataset is converted, and check that nothing is there.

    Args:
        text: `"FORMAT:PATH"`, or a path: a file that ends in `.npz`, or a folder of images.

    Returns:
        The place.

    Raises:
        UsageError: If the format is unknown, or there is a file or a folder with files, or the
            folder above does not exist.
    """
    kind, colon, rest = text.partition(":")
    known = ", ".join(FORMATS)
    # A single letter is a drive on Windows.
    if not colon or not re.fullmatch("[a-z][a-z0-9_]+", kind):
        suffix = Path(text).suffix.lower()
        if suffix in _ENDINGS:
            folder = Path(text).with_suffix("")
            raise UsageError(
                f"the target {text} is written as a folder: name it with its format, for instance "
                f"{_ENDINGS[suffix]}:{folder}"
            )
        kind, rest = "npz" if suffix == ".npz" else "images", text
    if kind not in FORMATS:
        raise UsageError(f"cannot write the format {kind!r}: use one of {known}")
    if not rest.strip():
        raise UsageError(f"there is no path in {text!r}: write {kind}:PATH")
    path = Path(rest).expanduser()
    suffix = FORMATS[kind].suffix
    if suffix and path.suffix.lower() != suffix:
        raise UsageError(
            f"the target {printable(path)} is one file: give a name that ends in {suffix}"
        )
    _check_free(path)
    return Target(kind, path)


def convert(
    dataset: Dataset,
    target: Target,
    datasets: Registry[DatasetSpec],
) -> tuple[str, ...]:
    """Write a dataset in another format.

    The files are written to a temporary folder next to the target, read again, and then moved to
    their place in one step. If anything fails, nothing is left.

    Args:
        dataset: A labelled dataset that was opened with the purpose `"inspection"`.
        target: The place, which does not exist or is an empty folder.
        datasets: Registry of the datasets, to read the result.

    Returns:
        Notes for the user, one line each.

    Raises:
        UsageError: If something is at the place of the target, or the format stores other labels.
        DataError: If the data have no labels, cannot be read, or cannot be stored in the format
            without a loss.
        CnnforgeError: If the target cannot be written, or an optional package is missing.
    """
    items = Items(dataset)
    form = target.format
    if items.has_boxes != form.boxes:
        has, needs = ("boxes", "a class") if items.has_boxes else ("classes", "boxes")
        names = ", ".join(name for name, each in FORMATS.items() if each.boxes == items.has_boxes)
        raise UsageError(
            f"{printable(dataset.name)} has {has}, and {target.kind} stores {needs} for each "
            f"image: use one of {names}"
        )
    with _failing(target.path), _temporary(target.path, is_file=bool(form.suffix)) as temporary:
        form.write(items, temporary)
        _verify(items, target, temporary, datasets)
        _check_free(target.path)
        os.rename(temporary, target.path)
        sync_folder(target.path.absolute().parent)
    return _notes(items, target)


def check_packages(target: Target) -> None:
    """Check that the optional package of a format is installed.

    Raises:
        CnnforgeError: If it is not.
    """
    if target.kind == "parquet":
        import_pyarrow()


def _reference(kind: str, path: Path) -> str:
    inner = FORMATS[kind].inner
    return f"{kind}:{path / inner if inner else path}"


def _check_free(path: Path) -> None:
    shown = printable(path)
    if path.is_dir() and not path.is_symlink():
        try:
            is_empty = not any(path.iterdir())
        except OSError as error:
            raise UsageError(f"the folder {shown} cannot be read: {error.strerror}") from error
        if not is_empty:
            raise UsageError(f"the folder {shown} is not empty: give a new folder")
    elif os.path.lexists(path):
        raise UsageError(f"{shown} exists, and is not overwritten: give a new name, or remove it")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"there is no folder {printable(parent)}: make it, or give another place")


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CnnforgeError(
            f"{printable(path)} cannot be written: {str(error.strerror or error).lower()}; nothing "
            "was written there"
        ) from error


@contextmanager
def _temporary(path: Path, *, is_file: bool) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; remove it after the block."""
    folder = Path(tempfile.mkdtemp(prefix=".cnnforge-tmp-", dir=path.absolute().parent))
    try:
        inner = folder / path.name
        if not is_file:
            # The new folder has the usual permissions; the temporary one is for the owner only.
            inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verify(items: Items, target: Target, temporary: Path, datasets: Registry[DatasetSpec]) -> None:
    """Check that the written data have the same classes and splits as the original ones."""
    if target.kind not in datasets:
        return
    options = DataOptions(purpose="inspection")
    if items.has_boxes:
        verify_boxes(
            items,
            open_dataset(_reference(target.kind, temporary), datasets, options),
            target.kind,
        )
        return
    names = list(items.classes)
    if target.kind == "idx":
        names = [str(number) for number in idx_labels(names)]
    expected = Counter((names[item.label], item.split) for item in items.items)
    written = open_dataset(_reference(target.kind, temporary), datasets, options)
    labels = getattr(written.train, "labels", ())
    found = Counter(
        (written.classes[int(label)], split)
        for label, split in zip(labels, splits_of(written), strict=True)
    )
    if found != expected:
        different = sorted({name for name, _ in (expected - found) + (found - expected)})
        shown = ", ".join(repr(name) for name in different[:3])
        raise DataError(
            f"{target.kind} would be read with other classes or splits than "
            f"{printable(items.dataset.name)} (class {shown}): rename these classes, or choose "
            "another format"
        )


def _notes(items: Items, target: Target) -> tuple[str, ...]:
    dataset, notes = items.dataset, []
    if dataset.skipped:
        files = "1 file" if len(dataset.skipped) == 1 else f"{len(dataset.skipped)} files"
        notes.append(f"{files} that cannot be read left out; 'cnnforge data check' lists them")
    if items.has_boxes:
        return (*notes, *box_notes(items, target.kind))
    checked = dataset.inspection.checked if dataset.inspection is not None else ()
    height, width, _ = dataset.image_shape
    resized = sum(image.size != (height, width) for image in checked)
    if target.format.pixels and resized:
        notes.append(
            f"{resized} of {len(checked)} images are resized to {height}x{width}, because "
            f"{target.kind} holds images of one size; choose it with --image-size"
        )
    if target.kind == "idx" and (target.path / "classnames.txt").exists():
        notes.append(
            "idx has numbers instead of names of classes; classnames.txt has one name in a line"
        )
    return tuple(notes)
