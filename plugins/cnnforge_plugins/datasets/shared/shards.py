"""Find the files of a dataset that has several, and make a dataset of the images in them."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from cnnforge.data import (
    DataOptions,
    Dataset,
    PictureFile,
    Role,
    SkippedFile,
    check_pictures,
    class_name_notes,
    dataset_from_files,
    printable,
    split_role,
)
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets._columns import class_labels, class_name
from cnnforge_plugins.datasets.shared.labels import (
    check_repeats,
    check_single_labels,
    note_of_test_part,
)

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_FILES = 100_000


class Shard(NamedTuple):
    """One file of a dataset.

    Attributes:
        path: The file.
        split: The role of its samples, by its name; empty if that is not known.
    """

    path: str
    split: Role | Literal[""]


def find_shards(kind: str, argument: str | None, suffix: str) -> tuple[str, list[Shard]]:
    """Find the files that an argument names.

    The name of a file, or of a folder that contains it, says its split: `train-0001.tar`,
    `data/test-00000-of-00001.parquet`. If all files are for the same, or one has no split in its
    name, the names do not count.

    Args:
        kind: Name of the dataset, for messages.
        argument: A file, a folder, or a pattern such as `"shards/train-*.tar"` or
            `"train-{000..015}.tar"`.
        suffix: Ending of the files in a folder, with the dot.

    Returns:
        The folder that contains all files, and the files, sorted by name.

    Raises:
        UsageError: If there is no such file.
    """
    if argument is None:
        raise UsageError(
            f"{kind} needs a file, a folder or a pattern: write {kind}:FILE, for instance "
            f"{kind}:train{suffix}"
        )
    text = os.path.expanduser(argument)
    shown = printable(text)
    if os.path.isdir(text):
        paths = sorted(_below(text, suffix))
        if not paths:
            raise UsageError(f"the folder {shown} has no {suffix} files: give one that has them")
    elif os.path.exists(text):
        paths = [text]
    else:
        paths, missing = [], []
        for each in _expanded(text):
            found = sorted(glob.glob(each, recursive=True))
            paths += found
            missing += [] if found else [each]
        if not paths:
            what = "no file fits" if glob.has_magic(text) or "{" in text else "there is no file"
            raise UsageError(f"{what} {shown}: give an existing {suffix} file, folder or pattern")
        if missing:
            raise UsageError(
                f"{len(missing)} of the files {shown} do not exist, the first is "
                f"{printable(missing[0])}: copy the missing files, or change the pattern"
            )
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    splits: list[Role | Literal[""]] = [
        _split_of(os.path.relpath(os.path.abspath(path), root), suffix) for path in paths
    ]
    if len(set(splits)) == 1 or "" in splits:
        splits = [""] * len(paths)
    return root, [Shard(path, split) for path, split in zip(paths, splits, strict=True)]


def dataset_of_pictures(
    name: str,
    root: str,
    files: Sequence[PictureFile],
    options: DataOptions,
    *,
    where: str,
    fix: str,
    skipped: Sequence[SkippedFile] = (),
    notes: Sequence[str] = (),
    order: Callable[[Sequence[str]], Sequence[str]] | None = None,
) -> Dataset:
    """Make a dataset of images that are stored in other files.

    Images without a label are skipped. If a whole split has no labels, it is left out.

    Args:
        name: Name of the dataset.
        root: Folder that contains the files; it is not part of the names in the fingerprint.
        files: The images.
        options: Options of the dataset.
        where: The file or folder that the user named, for messages.
        fix: Advice for data without labels, for a message.
        skipped: Images that were already skipped.
        notes: Messages for the user.
        order: Function that sorts the names of the classes; by default, numbers are sorted by value
            and texts by their letters.

    Returns:
        The dataset.

    Raises:
        DataError: If there is no readable image, or labels are needed and missing, or there are
            several for an image, or the samples cannot be split.
    """
    files, skipped, notes = list(files), list(skipped), list(notes)
    if order is None:
        # The names of the classes below are in this form: "1" and "1.0" are one class.
        files = [
            file._replace(class_name=class_name(file.class_name)) if file.class_name else file
            for file in files
        ]
    if not files:
        first = ""
        if skipped:
            first = f" (left out: {printable(skipped[0].path)}, {skipped[0].reason})"
        raise DataError(f"{where} has no images{first}: {fix}")
    labelled = sum(file.class_name is not None for file in files)
    if options.need_labels and not labelled:
        raise DataError(f"{where} has no labels: {fix}; 'cnnforge predict' needs no labels")
    if options.need_labels:
        files = _with_labels(files, skipped, notes)
    elif labelled < len(files):
        files = [file._replace(class_name=None) for file in files]
    labels = [file.class_name for file in files if file.class_name is not None]
    if options.need_labels:
        check_single_labels(where, labels)
    if options.for_training:
        check_repeats(where, labels)
        counts = Counter(str(file.split) for file in files)
        if any(counts[role] for role in ("validation", "test")):
            notes.append(_counted(counts))
    elif options.purpose == "prediction" and any(file.split == "train" for file in files):
        left = sum(file.split == "test" for file in files)
        notes += [note_of_test_part(left)] if left else []
        files = [file for file in files if file.split != "test"]
    pictures, left_out = check_pictures(where, files, options, skipped)
    classes: Sequence[str] = ()
    if pictures[0].file.class_name is not None:
        present = {picture.file.class_name or "" for picture in pictures}
        classes = (order or (lambda names: class_labels(names)[0]))(sorted(present))
    return dataset_from_files(
        name,
        root,
        pictures,
        classes,
        options,
        skipped=left_out,
        notes=(*notes, *class_name_notes(classes)),
    )


def _with_labels(
    files: Sequence[PictureFile], skipped: list[SkippedFile], notes: list[str]
) -> list[PictureFile]:
    for role in ("validation", "test"):
        own = [file for file in files if file.split == role]
        if own and all(file.class_name is None for file in own):
            notes.append(f"the {len(own)} images of the {role} split have no labels: left out")
            files = [file for file in files if file.split != role]
    skipped += [
        SkippedFile(file.path, "it has no label") for file in files if file.class_name is None
    ]
    return [file for file in files if file.class_name is not None]


def _counted(counts: Counter[str]) -> str:
    texts = [f"{counts['train'] + counts['']} images are for training"]
    texts += [f"{counts['validation']} for validation"] if counts["validation"] else []
    texts += [f"{counts['test']} for a test at the end"] if counts["test"] else []
    return ", ".join(texts)


def _below(folder: str, suffix: str) -> Iterator[str]:
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        for name in names:
            if name.lower().endswith(suffix) and name[0] not in "._":
                yield os.path.join(path, name)


def _expanded(text: str) -> list[str]:
    """Replace braces as a shell does: `{00..02}` and `{train,val}`."""
    match = _BRACES.search(text)
    if not match:
        return [text]
    numbers = _RANGE.fullmatch(match[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if not 0 <= last - first < _MAX_FILES:
            raise UsageError(f"the pattern {printable(text)} has a range that is empty or too long")
        words = [f"{n:0{len(numbers[1])}d}" for n in range(first, last + 1)]
    elif "," in match[1]:
        words = match[1].split(",")
    else:
        return [text]
    start, end = text[: match.start()], text[match.end() :]
    return [each for word in words for each in _expanded(f"{start}{word}{end}")]


def _split_of(path: str, suffix: str) -> Role | Literal[""]:
    # The name of the file says more than those of its folders.
    for part in reversed(path.lower().removesuffix(suffix).split(os.sep)):
        for word in re.split(r"[-_.\d]+", part):
            if role := split_role(word):
                return role
    return ""
