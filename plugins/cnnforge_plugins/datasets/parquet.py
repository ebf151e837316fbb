"""Open Parquet files with a column of images, in the form of Hugging Face's `datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from cnnforge.data import (
    DataOptions,
    Dataset,
    ImageSource,
    PictureFile,
    PicturePart,
    PictureParts,
    Role,
    SkippedFile,
    StoredImage,
    normal_name,
    printable,
    split_role,
    stored_content,
)
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets._columns import (
    FILE_NAMES,
    LABEL_NAMES,
    SPLIT_NAMES,
    class_name,
    key,
)
from cnnforge_plugins.datasets.shared.labels import ONE_CLASS, note_of_test_part
from cnnforge_plugins.datasets.shared.parquet_file import (
    Spool,
    features,
    opened_parquet,
    type_names,
)
from cnnforge_plugins.datasets.shared.shards import Shard, dataset_of_pictures, find_shards
from cnnforge_plugins.datasets.table import load as load_table

_BATCH = 64
# Min number of rows of a part.
_MIN_PART = 512
_NO_IMAGE = "the cell has no image"
_ALONE = "several workers predict images without labels and splits, so leave out --workers"
_FIX = "expected a column of labels, with the name label, and one value for each image"


class _Columns(NamedTuple):
    """The columns of a file that are read.

    Attributes:
        image: Name of the column of images.
        label: Name of the column of labels, or `None`.
        classes: The names of the classes 0, 1, ...; empty if the labels are names themselves.
        split: Name of a column that says what each image is for, or `None`.
        notes: Messages for the user.
    """

    image: str
    label: str | None
    classes: tuple[str, ...]
    split: str | None
    notes: tuple[str, ...]


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open Parquet files with a column of images.

    The images are encoded (PNG, JPEG, ...), in a column of bytes or in a struct with a field
    `bytes`, as Hugging Face's `datasets` writes them. The names of the classes are those in the
    schema. A file with names of pictures instead is opened as a table. pyarrow has to be installed.

    Args:
        argument: A file, a folder, or a pattern. The names of the files, such as
            `train-00000-of-00002.parquet`, say their splits.
        options: Options of the dataset.

    Returns:
        The dataset. Its samples have names such as `"FILE/row 17"`, counted from 0.

    Raises:
        CnnforgeError: If pyarrow is not installed.
        UsageError: If there is no such file.
        DataError: If a file is damaged or has no column of images, or labels are needed and
            missing, or the samples cannot be split.
    """
    root, shards = find_shards("parquet", argument, ".parquet")
    where = printable(os.path.expanduser(argument or ""))
    if len(shards) == 1 and _content(shards[0], options) is None:
        return load_table(shards[0].path, options)
    files: list[PictureFile] = []
    skipped: list[SkippedFile] = []
    notes: dict[str, None] = {}
    known: tuple[str, ...] | None = None
    spool = Spool()
    for shard in shards:
        columns = _content(shard, options)
        if columns is None:
            raise DataError(
                f"{printable(shard.path)} has names of pictures, not pictures: name one such "
                f"file, table:{printable(shard.path)}"
            )
        if known not in (None, columns.classes):
            raise DataError(
                f"{printable(shard.path)} has other names of classes than "
                f"{printable(shards[0].path)}: name files of one dataset"
            )
        known = columns.classes
        notes.update(dict.fromkeys(columns.notes))
        with opened_parquet(shard.path) as file:
            _read(shard, file, columns, spool, files, skipped)
    spool.flush()
    if len(shards) == 1:
        root = os.path.abspath(shards[0].path)
    return dataset_of_pictures(
        f"parquet:{os.path.abspath(os.path.expanduser(argument or ''))}",
        root,
        files,
        options,
        where=where,
        fix=_FIX,
        skipped=skipped,
        notes=tuple(notes),
        order=_sorter(known) if known else None,
    )


def _sorter(classes: Sequence[str]) -> Callable[[Sequence[str]], Sequence[str]]:
    return lambda names: [name for name in classes if name in set(names)]


def _content(shard: Shard, options: DataOptions) -> _Columns | None:
    """Find the columns of a file. Return `None` if the rows name pictures."""
    with opened_parquet(shard.path) as file:
        schema = file.schema_arrow
    shown, about = printable(shard.path), features(schema)
    names: list[str] = schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{shown} has several columns of the name {normal_name(twice)!r}: rename all but one"
        )
    images = [name for name in names if _is_image(schema.field(name).type)]
    if not images:
        table = [name for name in names if key(name) in FILE_NAMES]
        if table and all(_plain(schema.field(name).type) for name in names):
            return None
        raise DataError(
            f"{shown} has no column of images, only {type_names(schema, names)}: expected one of "
            "encoded images, with the field bytes, or one of file names"
        )
    named = [name for name in images if key(name) in FILE_NAMES]
    image = (named or images)[0]
    notes: list[str] = []
    if len(images) > 1:
        others = ", ".join(repr(normal_name(name)) for name in images if name != image)
        notes.append(f"images are read from {normal_name(image)!r}, not from {others}")
    label, classes = _label_column(shown, schema, about, options, notes)
    splits = [n for n in names if key(n) in SPLIT_NAMES and str(schema.field(n).type) == "string"]
    return _Columns(image, label, classes, splits[0] if splits else None, tuple(notes))


def _label_column(
    shown: str, schema: Any, about: Mapping[str, Any], options: DataOptions, notes: list[str]
) -> tuple[str | None, tuple[str, ...]]:
    """Return the column of the labels, and the names of the classes if it has their numbers."""
    declared = {name: _class_names(about.get(name)) for name in schema.names}
    called = [name for name in schema.names if key(name) in LABEL_NAMES]
    found = [name for name in schema.names if declared[name]]
    # Several columns may have classes, coarse and fine ones. The one called label wins.
    best = [name for name in called if name in found] or found or called
    if not best:
        return None, ()
    label = max(best, key=lambda name: len(declared[name]))
    if len(best) > 1:
        others = ", ".join(repr(normal_name(name)) for name in best if name != label)
        notes.append(f"labels are read from {normal_name(label)!r}, not from {others}")
    kind = str(schema.field(label).type)
    if kind.startswith(("list", "large_list", "fixed_size_list", "struct", "map")):
        if not options.need_labels:
            return None, ()
        raise DataError(f"{shown}: {normal_name(label)!r} is a column of {kind}: {ONE_CLASS}")
    return label, declared[label]


def _class_names(feature: Any) -> tuple[str, ...]:
    """Return the names of a `ClassLabel`, also if there are several in a cell."""
    if isinstance(feature, list) and feature:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return ()
    if isinstance(feature.get("feature"), dict):
        return _class_names(feature["feature"])
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return tuple(normal_name(str(name)) for name in names) if isinstance(names, list) else ()


def _is_image(kind: Any) -> bool:
    binary = ("binary", "large_binary", "binary_view")
    if str(kind) in binary:
        return True
    try:
        return str(kind.field("bytes").type) in binary
    except (KeyError, AttributeError, ValueError, TypeError):
        return False


def _plain(kind: Any) -> bool:
    return not str(kind).startswith(("list", "large_list", "fixed_size_list", "struct", "map"))


def _read(
    shard: Shard,
    file: Any,
    columns: _Columns,
    spool: Spool,
    files: list[PictureFile],
    skipped: list[SkippedFile],
) -> None:
    """Copy the images of a file to the spool."""
    wanted = [name for name in (columns.image, columns.label, columns.split) if name is not None]
    shown, row = printable(shard.path), 0
    folder = os.path.dirname(os.path.abspath(shard.path))
    for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
        cells = {name: batch.column(name).to_pylist() for name in wanted}
        for place, image in enumerate(cells[columns.image]):
            cell = _cell(image, os.path.join(shard.path, f"row {row}"), folder)
            label = None
            if columns.label is not None:
                label = _label(shown, row, cells[columns.label][place], columns.classes)
            row += 1
            split: Role | Literal[""] = shard.split
            if columns.split is not None:
                split = split_role(cells[columns.split][place] or "") or split
            stored = None
            if cell.content:
                size = len(cell.content)
                stored = StoredImage(cell.path, spool.read, spool.add(cell.content), size)
            elif cell.reason:
                skipped.append(SkippedFile(cell.path, cell.reason))
                continue
            files.append(PictureFile(cell.path, label, split, stored=stored))


class _Cell(NamedTuple):
    """An image in a file.

    Attributes:
        path: Its name, or the path of the file that the cell names.
        content: Its bytes; `None` if they are in a file of their own, or missing.
        reason: The reason if there is no image; otherwise empty.
    """

    path: str
    content: bytes | None = None
    reason: str = ""


def _cell(image: Any, path: str, folder: str) -> _Cell:
    """Understand the value of a cell; `folder` is that of the Parquet file."""
    content, own = image, None
    if isinstance(image, dict):
        content, own = image.get("bytes"), image.get("path")
    if content:
        return _Cell(path, content)
    if not isinstance(own, str):
        own = None
    if own and os.path.isfile(os.path.join(folder, own)):
        return _Cell(os.path.normpath(os.path.join(folder, own)))
    return _Cell(path, None, f"there is no file {printable(own)}" if own else _NO_IMAGE)


def in_parts(argument: str | None) -> PictureParts:
    """Divide Parquet files of images without labels into parts, for a prediction by many workers.

    Args:
        argument: See `load`.

    Returns:
        The parts: row groups of the files, at least 512 rows together.

    Raises:
        CnnforgeError: If pyarrow is not installed.
        UsageError: If there is no such file, or the images have labels or a column of splits.
        DataError: If a file is damaged or has no column of images.
    """
    _, shards = find_shards("parquet", argument, ".parquet")
    where = printable(os.path.expanduser(argument or ""))
    options = DataOptions(purpose="prediction")
    parts: list[PicturePart] = []
    notes: dict[str, None] = {}
    rows = labelled = tests = 0
    skips_tests = any(shard.split == "train" for shard in shards)
    for shard in shards:
        columns = _content(shard, options)
        if columns is None or columns.split is not None:
            what = "names of pictures" if columns is None else "a column of splits"
            raise UsageError(f"{printable(shard.path)} has {what}: {_ALONE}")
        notes.update(dict.fromkeys(columns.notes))
        with opened_parquet(shard.path) as file:
            labelled += _labelled(shard, file, columns)
            rows += file.metadata.num_rows
            if skips_tests and shard.split == "test":
                tests += file.metadata.num_rows
            else:
                parts += _parts(shard, file, columns.image)
    if rows and labelled == rows:
        raise UsageError(f"the images of {where} have labels: {_ALONE}")
    name = f"parquet:{os.path.abspath(os.path.expanduser(argument or ''))}"
    left_out = [note_of_test_part(tests)] if tests else []
    return PictureParts(name, parts, (*notes, *left_out))


def _labelled(shard: Shard, file: Any, columns: _Columns) -> int:
    if columns.label is None:
        return 0
    shown, found = printable(shard.path), 0
    for batch in file.iter_batches(batch_size=4096, columns=[columns.label]):
        labels = batch.column(0).to_pylist()
        found += sum(_label(shown, 0, label, columns.classes) is not None for label in labels)
    return found


def _parts(shard: Shard, file: Any, image: str) -> Iterator[PicturePart]:
    """Yield the parts of a file: row groups, and small ones together."""
    path, first, count, groups = os.path.abspath(shard.path), 0, 0, []
    for number in range(file.num_row_groups):
        groups.append(number)
        count += file.metadata.row_group(number).num_rows
        if count >= _MIN_PART or number == file.num_row_groups - 1:
            read = partial(_images_of_part, path, shard.path, image, tuple(groups), first)
            if count:
                yield PicturePart(count, read)
            first, count, groups = first + count, 0, []


def _images_of_part(
    path: str, name: str, image: str, groups: Sequence[int], first: int
) -> Iterator[ImageSource | SkippedFile]:
    """Yield the images of row groups of a file. Another process may call this."""
    row, folder = first, os.path.dirname(path)
    with opened_parquet(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH, row_groups=list(groups), columns=[image]):
            for value in batch.column(0).to_pylist():
                cell = _cell(value, os.path.join(name, f"row {row}"), folder)
                row += 1
                if cell.content:
                    yield stored_content(cell.path, cell.content)
                else:
                    yield SkippedFile(cell.path, cell.reason) if cell.reason else cell.path


def _label(shown: str, row: int, value: Any, classes: Sequence[str]) -> str | None:
    if value is None or value == "":
        return None
    if not classes:
        return class_name(str(value))
    if isinstance(value, str):
        name = normal_name(value)
        if name not in classes:
            some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise DataError(
                f"{shown} has the label {name!r} in row {row}, which is not a class of its schema: "
                f"expected one of {some}"
            )
        return name
    # Hugging Face writes -1 for data without labels.
    if value == -1:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or not 0 <= value < len(classes):
        raise DataError(
            f"{shown} has the label {printable(str(value))} in row {row}, and its schema has "
            f"{len(classes)} classes: expected a number from 0 to {len(classes) - 1}"
        )
    return str(classes[value])
