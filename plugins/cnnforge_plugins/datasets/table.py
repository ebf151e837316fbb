"""Open a table that names pictures and their labels, in the form of Kaggle: `id,label`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from cnnforge.data import (
    DataOptions,
    Dataset,
    PictureFile,
    Role,
    SkippedFile,
    check_pictures,
    dataset_from_files,
    normal_name,
    printable,
    split_role,
)
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets._columns import (
    FILE_NAMES,
    ID_NAMES,
    LABEL_NAMES,
    SPLIT_NAMES,
    Table,
    check_labels_repeat,
    class_labels,
    class_name,
    ends_as_image,
    has_names,
    one_label_column,
    split_column,
    split_note,
    understand,
)
from cnnforge_plugins.datasets._delimited import open_delimited
from cnnforge_plugins.datasets.shared.labels import check_single_labels
from cnnforge_plugins.datasets.shared.parquet_file import open_rows
from cnnforge_plugins.datasets.shared.picture_finder import PictureFinder

_SAMPLE = 50


class _Row(NamedTuple):
    """A row of a table: its line number and its cells."""

    line: int
    cells: list[str]


class _Columns(NamedTuple):
    """The columns of a table that names pictures."""

    file: int
    label: int | None
    id: int
    split: int | None
    unused: tuple[int, ...]


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a table with the name and the label of one picture in each row.

    The table is text with delimited columns, or a Parquet file, for which pyarrow has to be
    installed. A name may have an ending and a folder, or not. The pictures are in the folder of the
    table or in its sub-folders. The labels are numbers or words, and those that occur are the
    classes. A column `split` says which pictures are for validation and for testing. For prediction
    the table need not have labels.

    Args:
        argument: The path of the table, or of a folder with one .csv or .tsv file.
        options: Options of the dataset.

    Returns:
        The dataset. The names of its samples are the paths of the files. Its ids are the texts with
        which the table names the pictures, or those in a column of ids.

    Raises:
        UsageError: If the file does not exist, or the folder does not have exactly one table.
        DataError: If the table does not name pictures, or none of them is found or readable, or a
            file is unreadable and the option `strict` is set.
    """
    if argument is None:
        raise UsageError("table needs a file: write table:FILE, for instance table:train.csv")
    path = os.path.expanduser(argument)
    table = _opened(_table_in(path) if os.path.isdir(path) else path)
    if not names_pictures(table):
        raise DataError(
            f"{table.path} has no column with the names of pictures; if it has a "
            f"label and the pixels of an image in each row, write csv:{printable(argument)}"
        )
    return name_table(table, options)


def _table_in(folder: str) -> str:
    """Return the path of the one table in a folder."""
    names = sorted(
        name
        for name in os.listdir(folder)
        if name[0] != "." and name.lower().endswith((".csv", ".tsv"))
    )
    if len(names) == 1:
        return os.path.join(folder, names[0])
    shown = printable(folder)
    if not names:
        raise UsageError(f"the folder {shown} has no .csv or .tsv file: name a table, table:FILE")
    files = ", ".join(map(printable, names[:4])) + (", ..." if len(names) > 4 else "")
    raise UsageError(
        f"the folder {shown} has {len(names)} tables ({files}): name one, for instance "
        f"table:{printable(os.path.join(folder, names[0]))}"
    )


def _opened(path: str) -> Table:
    if path.lower().endswith(".parquet") and os.path.isfile(path):
        return understand(open_rows(path), header=True)
    return understand(open_delimited(path))


def name_table(table: Table, options: DataOptions) -> Dataset:
    """Make a dataset from a table that names pictures.

    Args:
        table: The table.
        options: Options of the dataset.

    Returns:
        The dataset.

    Raises:
        DataError: If none of the pictures is found or readable, or labels are needed and missing.
    """
    finder = PictureFinder(table.file.path)
    if not table.named(LABEL_NAMES | ID_NAMES | FILE_NAMES | SPLIT_NAMES) and any(
        finder.find(cell) for cell in table.names or ()
    ):
        # The first line has no known name of a column, but it names a picture.
        table = understand(table.file, header=False)
    path = table.path
    rows = [_Row(line, cells) for line, cells in table.file.rows()][table.names is not None :]
    if not rows:
        raise DataError(f"{path} has a header and no rows: expected one row for each picture")
    rows = [row._replace(cells=row.cells + [""] * (table.width - len(row.cells))) for row in rows]
    columns = _find_columns(table, rows, finder, options)
    label = columns.label
    if label is not None and not options.need_labels and any(not r.cells[label] for r in rows):
        label = None
    columns = columns._replace(label=label)
    if label is not None:
        known = [row.cells[label] for row in rows if row.cells[label]]
        if not known:
            raise DataError(
                f"{path} has no labels: the column {table.called(label)} is empty; "
                "'cnnforge predict' needs no labels"
            )
        if options.need_labels:
            check_single_labels(f"{path}: {table.called(label)}", known)
        if options.for_training:
            check_labels_repeat(table, label, known)
    files, skipped, ids = _files(table, rows, columns, finder)
    notes = _notes(table, columns)
    if label is not None and options.for_training:
        files, again = _once(table, files, skipped)
        notes += again
    if columns.split is not None and options.need_labels:
        files, split_notes = _split(table, columns.split, files, rows)
        notes += split_notes
    pictures, skipped = check_pictures(
        table.file.path, [file for _, file in files], options, skipped
    )
    present = [picture.file.class_name or "" for picture in pictures]
    classes = class_labels(present)[0] if label is not None else ()
    return dataset_from_files(
        f"table:{printable(os.path.abspath(table.file.path))}",
        finder.folder,
        pictures,
        classes,
        options,
        skipped=skipped,
        notes=notes,
        id_name=(table.names[columns.id] if table.names is not None else "") or "id",
        skipped_ids=[ids[file.path].pop(0) for file in skipped],
    )


def names_pictures(table: Table) -> bool:
    """Return whether the rows of a table name pictures. Otherwise they have pixels."""
    if has_names(table):
        return True
    if table.names is not None or table.width > 3:
        return False
    # A few numbers in a row are names of pictures if there are such pictures.
    finder = PictureFinder(table.file.path)
    return any(finder.find(cell) for row in table.rows for cell in row)


def _find_columns(
    table: Table, rows: Sequence[_Row], finder: PictureFinder, options: DataOptions
) -> _Columns:
    labels, ids = table.named(LABEL_NAMES), table.named(ID_NAMES)
    splits = table.named(SPLIT_NAMES)
    file = _file_column(table, rows, finder, {*labels, *splits})
    labels = [column for column in labels if column != file]

    def cells(column: int) -> list[str]:
        return [row.cells[column] for row in rows]

    label = one_label_column(table, labels, cells, required=options.need_labels)
    index = table.index_column()
    if not labels:
        others = {*range(table.width)} - {file, *ids, *splits, index}
        # A column with the name of a person has labels if no other column does.
        likely = others - {*table.named(FILE_NAMES)} or others
        label = _other_label(table, sorted(likely), cells, options)
    ids = [column for column in ids if column not in (file, label)]
    split = split_column(table, cells)
    unused = {*range(table.width)} - {file, label, split, index, *ids[:1]}
    return _Columns(file, label, ids[0] if ids else file, split, tuple(sorted(unused)))


def _file_column(
    table: Table, rows: Sequence[_Row], finder: PictureFinder, others: set[int]
) -> int:
    """Return the column whose cells name pictures."""
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    named = [*table.named(FILE_NAMES), *table.named(ID_NAMES)]
    # If several columns find equally many files, take the one with a name, and then the first.
    order = [*named, *(column for column in range(table.width) if column not in named)]
    order = [column for column in order if column not in others] or order
    found = {
        column: sum(len(finder.find(row.cells[column])) > 0 for row in sample) for column in order
    }
    best = max(order, key=lambda column: found[column])
    if found[best]:
        return best
    like = [c for c in order if sum(ends_as_image(row.cells[c]) for row in sample) > 0]
    return (like or order)[0]


def _other_label(
    table: Table, others: Sequence[int], cells: Callable[[int], Sequence[str]], options: DataOptions
) -> int | None:
    """Choose the column of the labels if no column is called like one."""
    # A column with a different value in each row does not have labels.
    repeating = [c for c in others if len(set(cells(c))) < max(2, len(cells(c)))]
    likely = repeating if len(others) > 1 else others
    if len(likely) == 1 and (options.need_labels or repeating):
        return likely[0]
    if not options.need_labels:
        return None
    path = table.path
    if not others:
        raise DataError(
            f"{path} has no column of labels: its columns are "
            f"{table.called(*range(table.width))}; add a column with the name label; "
            "'cnnforge predict' needs no labels"
        )
    flags = [c for c in others if set(cells(c)) <= {"0", "1", "0.0", "1.0"}]
    if len(flags) > 1:
        raise DataError(
            f"{path}: the columns {table.called(*flags)} have only 0 and 1, one column for each "
            "class: write the name of the class of each picture into one column with the name label"
        )
    raise DataError(
        f"{path}: each of the columns {table.called(*(likely or others))} may have the labels: "
        "give the column of the labels the name label in the first line"
    )


def _files(
    table: Table, rows: Sequence[_Row], columns: _Columns, finder: PictureFinder
) -> tuple[list[tuple[int, PictureFile]], list[SkippedFile], dict[str, list[str]]]:
    """Return the files with the index of their row, those that are left out, and ids by path."""
    name = printable(os.path.basename(table.file.path))
    files: list[tuple[int, PictureFile]] = []
    skipped: list[SkippedFile] = []
    # A table may name a file in several rows, with another id in each.
    ids: dict[str, list[str]] = {}
    found_any = False
    for place, (line, cells) in enumerate(rows):
        text = cells[columns.file]
        paths = finder.find(text)
        found_any |= bool(paths)
        label = None if columns.label is None else class_name(cells[columns.label])
        reason = ""
        if len(cells) > table.width:
            reason = f"too many columns; line {line} of {name} has {len(cells)}"
        elif not paths:
            reason = f"there is no such picture; line {line} of {name} names it"
        elif len(paths) > 1:
            shown = " and ".join(printable(os.path.relpath(p, finder.folder)) for p in paths[:2])
            reason = f"the name fits several pictures; line {line} of {name} may mean {shown}"
        elif label == "":
            reason = f"there is no label; see line {line} of {name}"
        path = paths[0] if paths else text
        ids.setdefault(path, []).append(cells[columns.id])
        if reason:
            skipped.append(SkippedFile(path, reason))
            continue
        files.append((place, PictureFile(path, label, "", cells[columns.id])))
    if not found_any:
        first = ", ".join(repr(normal_name(row.cells[columns.file])) for row in rows[:5])
        raise DataError(
            f"none of the {len(rows)} pictures that {table.called(columns.file)} of "
            f"{table.path} names was found, the first are {first}; "
            f"looked in {finder.where()}: put the folder with the pictures next to the table"
        )
    return files, skipped, ids


def _once(
    table: Table, files: Sequence[tuple[int, PictureFile]], skipped: list[SkippedFile]
) -> tuple[list[tuple[int, PictureFile]], tuple[str, ...]]:
    """Use each picture once, and leave out those to which the table gives different labels."""
    labels: dict[str, set[str]] = {}
    for _, file in files:
        labels.setdefault(file.path, set()).add(file.class_name or "")
    first = {file.path: (place, file) for place, file in reversed(files)}
    kept = sorted(row for path, row in first.items() if len(labels[path]) == 1)
    name = printable(os.path.basename(table.file.path))
    for path, given in labels.items():
        if len(given) > 1:
            shown = " and ".join(map(repr, sorted(given)[:3]))
            reason = f"there are several labels; {name} has {shown}"
            skipped.append(SkippedFile(path, reason))
    again = len(files) - len(first)
    return kept, (f"{again} rows of {name} name a picture again",) if again else ()


def _split(
    table: Table,
    column: int,
    files: Sequence[tuple[int, PictureFile]],
    rows: Sequence[_Row],
) -> tuple[list[tuple[int, PictureFile]], tuple[str, ...]]:
    """Split the files as the table says."""
    splits: list[Role | Literal[""]] = [
        split_role(rows[place].cells[column]) or "" for place, _ in files
    ]
    kept = [
        (place, file._replace(split=split))
        for (place, file), split in zip(files, splits, strict=True)
    ]
    return kept, (split_note(table, column, splits),)


def _notes(table: Table, columns: _Columns) -> tuple[str, ...]:
    notes = []
    if columns.label is not None and columns.label not in table.named(LABEL_NAMES):
        notes.append(f"labels are read from {table.called(columns.label)}")
    if columns.unused:
        notes.append(f"not used: {table.called(*columns.unused)}")
    return (f"{table.path}: {'; '.join(notes)}",) if notes else ()
