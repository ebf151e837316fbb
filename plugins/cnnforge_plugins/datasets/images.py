"""Open a folder of images as a dataset. The folder has one sub-folder for each class."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from cnnforge.data import (
    IMAGE_SUFFIXES,
    DataOptions,
    Dataset,
    ImageListing,
    Picture,
    PictureFile,
    Role,
    SkippedFile,
    check_pictures,
    class_name_notes,
    dataset_from_files,
    find_classes,
    find_images,
    find_run_folders,
    find_splits,
    left_out_notes,
    loose_form,
    only_subfolder,
    other_files,
    printable,
    quoted,
    skipped_summary,
    split_role,
    subfolders,
)
from cnnforge.errors import DataError, UsageError

# A name such as cat.12.jpg, cat_12.jpg or cat12.jpg, and the max number of such words in a command.
_CLASS_IN_NAME = re.compile(r"([A-Za-z]+)([._-]?)\d")
_MAX_WORDS = 20


class _Part(NamedTuple):
    """A folder that contains the folders of the classes.

    Attributes:
        folder: The folder.
        split: Purpose of the folder, if it is that of a split.
        classes: The images of each class.
    """

    folder: str
    split: Role | Literal[""]
    classes: Mapping[str, ImageListing]


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a folder of images.

    Each sub-folder is a class. The images of a class are in its sub-folder and in deeper folders.
    If the sub-folders are splits by their names (`cnnforge.data.find_splits`), each contains the
    folders of the classes. If the folder contains a single folder, with the classes in it, this is
    opened. The function decodes every image once, so that an unreadable image is found before
    training.

    For prediction, a folder that contains only images and no classes is data without labels.

    Args:
        argument: The path of the folder.
        options: Options of the dataset.

    Returns:
        The dataset. The names of its samples are the paths of the files.

    Raises:
        UsageError: If there is no such folder.
        DataError: If the folder has no readable image, or if a file is unreadable and the option
            `strict` is set. If training is the purpose, also if there is only one class, or if a
            class of the validation split has no readable image for training.
    """
    if argument is None:
        raise UsageError("images needs a folder: write images:FOLDER")
    root = os.path.expanduser(argument)
    parts, notes = _parts(root, options)
    files = [
        PictureFile(path, name, part.split)
        for part in parts
        for name, listing in part.classes.items()
        for path in listing.paths
    ]
    listings = [listing for part in parts for listing in part.classes.values()]
    if not files and options.purpose == "prediction":
        loose = find_images(root, recursive=False)
        files, listings = [PictureFile(path) for path in loose.paths], [loose]
    unopened = [file for listing in listings for file in listing.skipped]
    pictures, skipped = check_pictures(root, files, options, unopened)
    if not pictures:
        raise DataError(_nothing(parts[0]))
    classes: tuple[str, ...] = ()
    if pictures[0].file.class_name is not None:
        classes = tuple(sorted({picture.file.class_name or "" for picture in pictures}))
        if options.for_training:
            notes += _check_for_training(root, parts, pictures, skipped)
        notes += _left_out(root, parts, classes, skipped) + class_name_notes(classes)
        notes += _inner_folders(parts)
    return dataset_from_files(
        f"images:{printable(os.path.abspath(root))}",
        root,
        pictures,
        classes,
        options,
        skipped=skipped,
        notes=notes,
    )


def _parts(root: str, options: DataOptions) -> tuple[list[_Part], tuple[str, ...]]:
    """Return two values: the folders that contain the folders of the classes, and notes."""
    folder = root
    while not (splits := find_splits(folder)) and (name := only_subfolder(folder)):
        folder = os.path.join(folder, name)
    notes = ()
    if folder != root:
        notes += (f"the classes are the sub-folders of {printable(folder)}",)
    if not splits:
        return [_Part(folder, "", find_classes(folder))], notes
    if "train" not in splits and options.for_training:
        raise DataError(
            f"{printable(folder)} has no folder for training, only {quoted(splits.values())}: add "
            "one with the name 'train', or give a folder whose sub-folders are the classes"
        )
    roles: Sequence[Role] = ("train", "validation", "test")
    if options.purpose == "prediction" and "train" in splits:
        roles = roles[:2]
    chosen: list[tuple[Role, str]] = [(role, splits[role]) for role in roles if role in splits]
    apart = not options.for_training and "train" in splits
    used = [name for role, name in chosen if not (apart and role == "test")]
    known = {*used, *(name for _, name in chosen)}
    left = [name for name in subfolders(folder) if name not in known]
    if options.for_training and len(chosen) > 1:
        does = {"train": "training", "validation": "validation", "test": "a test at the end"}
        uses = [f"{does[role]} on '{printable(name)}'" for role, name in chosen]
        if "validation" not in splits:
            uses[0] += ", of which a part is kept for validation,"
        text = " and ".join([", ".join(uses[:-1]), uses[-1]])
    else:
        text = f"the images are those of {quoted(used)}"
        if len(used) < len(chosen):
            # The caller chooses the part, so the text has to be true of both.
            test = quoted([splits["test"]])
            text = f"the test part is {test}, and the other images are those of {quoted(used)}"
    if left:
        text += f", not of {quoted(left)}"
    parts = []
    for split, name in chosen:
        path = os.path.join(folder, name)
        # Some archives contain `seg_train/seg_train/CLASS`.
        while (inner := only_subfolder(path)) and split_role(inner):
            path = os.path.join(path, inner)
        parts.append(_Part(path, split, find_classes(path)))
    return parts, notes if options.purpose == "inspection" else (*notes, text)


def _check_for_training(
    root: str,
    parts: Sequence[_Part],
    pictures: Sequence[Picture],
    skipped: Sequence[SkippedFile],
) -> tuple[str, ...]:
    """Check that training is possible. Return notes."""
    found = [
        {picture.file.class_name or "" for picture in pictures if picture.file.split == part.split}
        for part in parts
    ]
    for part, names in zip(parts, found, strict=True):
        if not names:
            raise DataError(_nothing(part) + _reasons(part, (), skipped))
    notes = ()
    train = f"'{printable(os.path.basename(parts[0].folder))}'"
    for part, names in zip(parts[1:], found[1:], strict=True):
        own = f"'{printable(os.path.basename(part.folder))}'"
        if unknown := sorted(names - found[0]):
            raise DataError(
                f"{printable(root)}: the class {quoted(unknown)} has images in {own} and "
                f"none in {train}: every class needs images for training"
                f"{_alike(unknown, found[0])}{_reasons(parts[0], found[0], skipped)}"
            )
        if missing := sorted(found[0] - names):
            use = "validation" if part.split == "validation" else "the test"
            notes += (f"no images for {use} in {own}: {quoted(missing)}",)
    if len(found[0]) < 2:
        raise DataError(
            f"{printable(root)} holds images of one class only, {quoted(found[0])}: put the images "
            "of each class into a sub-folder of its own, at least two"
            f"{_reasons(parts[0], found[0], skipped)}"
        )
    return notes


def _alike(names: Sequence[str], others: set[str]) -> str:
    known = {loose_form(name): name for name in others}
    pairs = [(name, known[loose_form(name)]) for name in names if loose_form(name) in known]
    texts = (f"is '{name}' the class '{other}'" for name, other in pairs)
    return f"; {' and '.join(texts)}? Then rename the folder" if pairs else ""


def _reasons(part: _Part, used: set[str] | tuple[()], skipped: Sequence[SkippedFile]) -> str:
    """Say why class folders have no readable image, as the end of a message."""
    texts = [
        f"no image of '{name}' can be read ({reason})"
        for name, listing in part.classes.items()
        if name not in used and (reason := _reason(listing, skipped))
    ]
    return f"; {', '.join(texts[:3])}" if texts else ""


def _reason(listing: ImageListing, skipped: Sequence[SkippedFile]) -> str:
    paths = {*listing.paths, *(file.path for file in listing.skipped)}
    text = skipped_summary([file for file in skipped if file.path in paths])
    return text or (f"only {other_files(listing.others)}" if listing.others else "")


def _nothing(part: _Part) -> str:
    """Return a message for a folder without a readable image in its class folders."""
    folder = printable(part.folder)
    loose = find_images(part.folder, recursive=False).paths
    if loose:
        return (
            f"{len(loose)} image{'s' if len(loose) > 1 else ''} in {folder}, but not in "
            "a class folder: put the images of each class into a sub-folder of its own"
            f"{_sorted_by_name(part.folder, loose)}"
        )
    others = sum((listing.others for listing in part.classes.values()), Counter[str]())
    seen = f" (but there are other files: {other_files(others)})" if others else ""
    endings = ", ".join(sorted(IMAGE_SUFFIXES))
    return (
        f"there is no image in the class folders of {folder}{seen}: expected "
        f"{folder}/CLASS/FILE with an ending among {endings}"
    )


def _sorted_by_name(folder: str, paths: Sequence[str]) -> str:
    """Return the command that sorts images whose names begin with a word, such as `cat.12.jpg`.

    Return "" if the names have another form.
    """
    found = [_CLASS_IN_NAME.match(os.path.basename(path)) for path in paths]
    words = sorted({match[1] for match in found if match})
    separators = {match[2] for match in found if match}
    if None in found or len(separators) != 1 or not 2 <= len(words) <= _MAX_WORDS:
        return ""
    pattern = f'"$c"{separators.pop() or "[0-9]"}*'
    return (
        f"; if the names begin with the class, type: cd {shlex.quote(printable(folder))} && "
        f"for c in {' '.join(words)}; do mkdir $c && mv {pattern} $c/; done"
    )


def _left_out(
    root: str, parts: Sequence[_Part], classes: Sequence[str], skipped: Sequence[SkippedFile]
) -> tuple[str, ...]:
    """Return notes for the user about the files and the folders that are not used."""
    notes = []
    folders = [part.folder for part in parts]
    for folder in folders:
        loose = len(find_images(folder, recursive=False).paths)
        if loose:
            notes.append(
                f"{loose} image{'s' if loose > 1 else ''} in {printable(folder)} left out: "
                "not in a class folder"
            )
    listings = [(name, listing) for part in parts for name, listing in part.classes.items()]
    empty = []
    for name, listing in listings:
        if name not in classes:
            reason = _reason(listing, skipped)
            empty.append(f"'{name}' ({reason})" if reason else f"'{name}'")
    if empty:
        notes.append(f"not a class, because no image in the folder can be read: {', '.join(empty)}")
    others = sum((listing.others for _, listing in listings), Counter[str]())
    runs = [path for folder in sorted({root, *folders}) for path in find_run_folders(folder)]
    runs += [path for _, listing in listings for path in listing.runs]
    return (*notes, *left_out_notes(others, runs))


def _inner_folders(parts: Sequence[_Part]) -> tuple[str, ...]:
    """Return a note if a class folder has images and also a sub-folder with images."""
    found: list[tuple[str, str]] = []
    count = 0
    for part in parts:
        for name, listing in part.classes.items():
            below = [os.path.relpath(path, part.folder).split(os.sep)[1:] for path in listing.paths]
            inner = [path[0] for path in below if len(path) > 1]
            if 0 < len(inner) < len(below):
                count += len(inner)
                found += [(name, folder) for folder in dict.fromkeys(inner)]
    if not found:
        return ()
    name, folder = found[0]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"{count} image{'s' if count > 1 else ''} in sub-folders of a class belong to the class: "
        f"'{printable(folder)}' in '{printable(name)}'{more}; move the folder up if it is a class",
    )
