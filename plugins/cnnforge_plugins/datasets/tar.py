"""Open WebDataset shards, and other tar archives of images, without unpacking them."""

from __future__ import annotations

import io
import os
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cnnforge.data import (
    IMAGE_SUFFIXES,
    DataOptions,
    Dataset,
    PictureFile,
    SkippedFile,
    StoredImage,
    normal_name,
    printable,
    reader_of,
    split_role,
)
from cnnforge.errors import DataError
from cnnforge.utils.structured_text import MALFORMED, parse_json
from cnnforge_plugins.datasets._columns import LABEL_NAMES, class_name, key
from cnnforge_plugins.datasets.shared.labels import ONE_CLASS
from cnnforge_plugins.datasets.shared.shards import Shard, dataset_of_pictures, find_shards

# Endings of the members with labels; the first one that a sample has is used.
_LABEL_ENDINGS = ("cls", "cls.txt", "label", "label.txt", "class", "class.txt", "json", "txt")
_MAX_LABEL_BYTES = 2**20
# Max bytes of a header. Long names and the properties of a member are in one.
_MAX_HEADER_BYTES = 2**20
_INDEX = re.compile("[0-9]{1,9}")
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"BZ": ("bzip2", "bunzip2 -k"),
    b"\xfd7": ("xz", "unxz -k"),
    b"(\xb5": ("zstd", "unzstd"),
}
_FIX = (
    "expected images with labels, a.jpg and a.cls (or a.json), or images in one folder for each "
    "class"
)


class _Headers(io.BufferedReader):
    """An archive of which only headers are read.

    A damaged header may name any size, and Python reserves as much memory as it is to read.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


class _Sample(NamedTuple):
    """The members of an archive that have the same name up to the first dot."""

    shard: Shard
    folder: str
    image: tarfile.TarInfo
    label: tarfile.TarInfo | None


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open tar archives of images.

    In the form of WebDataset, the members of a sample have the same name up to the first dot: the
    image, such as `a.jpg`, and its label in `a.cls` or in `a.json`. If there are no labels, the
    images are in folders, one for each class, or one for each split with these in it. A file
    `classnames.txt` next to the archives gives the name of each class in one line. Nothing is
    written to the disk: an image is read from its place in the archive. Links are not followed.

    Args:
        argument: A file, a folder, or a pattern such as `"train-{000..015}.tar"`. The names of the
            files say their splits.
        options: Options of the dataset.

    Returns:
        The dataset. The names of its samples are the path of the archive and the name in it.

    Raises:
        UsageError: If there is no such file.
        DataError: If an archive is damaged or compressed, has no images or no labels that are
            needed, or the samples cannot be split.
    """
    root, shards = find_shards("tar", argument, ".tar")
    where = printable(os.path.expanduser(argument or ""))
    samples: list[_Sample] = []
    skipped: list[SkippedFile] = []
    for shard in shards:
        _scan(shard, samples, skipped)
    files = _labelled(samples, skipped)
    notes: tuple[str, ...] = ()
    if files and all(sample.label is None for sample in samples):
        files = _by_folder(samples, files)
    elif names := _class_names(root, files):
        files = [
            file._replace(class_name=names[int(file.class_name)]) if file.class_name else file
            for file in files
        ]
        notes = (f"the names of the classes are those in {printable(root)}/classnames.txt",)
    if len(shards) == 1:
        root = os.path.abspath(shards[0].path)
    return dataset_of_pictures(
        f"tar:{os.path.abspath(os.path.expanduser(argument or ''))}",
        root,
        files,
        options,
        where=where,
        fix=_FIX,
        skipped=skipped,
        notes=notes,
    )


def _scan(shard: Shard, samples: list[_Sample], skipped: list[SkippedFile]) -> None:
    """Find the samples of an archive."""
    groups: dict[tuple[str, str], dict[str, tarfile.TarInfo]] = {}
    for member in _members(shard.path):
        name = member.name.removeprefix("./")
        parts = name.split("/")
        if any(part.startswith("._") or part in (".DS_Store", "__MACOSX") for part in parts):
            continue
        path = os.path.join(shard.path, name)
        ending = parts[-1].partition(".")[2].lower()
        if member.isdir():
            continue
        if ".." in parts or name.startswith("/"):
            skipped.append(SkippedFile(path, "the name leads out of the archive"))
        elif member.issym() or member.islnk():
            skipped.append(SkippedFile(path, "links in an archive are not followed"))
        elif not member.isreg() or member.issparse():
            skipped.append(SkippedFile(path, "not a regular file"))
        else:
            stem = parts[-1].partition(".")[0]
            group = groups.setdefault(("/".join(parts[:-1]), stem), {})
            if ending in group and _suffix(member) in IMAGE_SUFFIXES:
                skipped.append(SkippedFile(path, "a file with this name is in the archive already"))
            group.setdefault(ending, member)
    for (folder, _), group in groups.items():
        images = [member for member in group.values() if _suffix(member) in IMAGE_SUFFIXES]
        label = next((group[ending] for ending in _LABEL_ENDINGS if ending in group), None)
        # `a.b.jpg` and `a.c.jpg` in a class folder are two images; with a label, they are one.
        if label is not None and len(images) > 1:
            path = os.path.join(shard.path, images[1].name)
            skipped.append(SkippedFile(path, "one sample with several images: the first is used"))
            images = images[:1]
        samples += [_Sample(shard, folder, image, label) for image in images]


def _members(path: str) -> list[tarfile.TarInfo]:
    shown = printable(path)
    try:
        with _Headers(io.FileIO(path)) as file:
            start = file.read(2)
            if start in _COMPRESSED:
                kind, command = _COMPRESSED[start]
                raise DataError(
                    f"{shown} is compressed with {kind}, and single images cannot be read from it: "
                    f"unpack it once and name the .tar file; type: {command} "
                    f"{shlex.quote(shown)}"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                members = archive.getmembers()
                # tarfile takes a damaged header for the end of the archive.
                file.seek(archive.offset)
                rest = file.read(tarfile.BLOCKSIZE)
                if rest.strip(b"\0"):
                    raise tarfile.ReadError(f"damaged header after {len(members)} files")
    except (tarfile.TarError, *MALFORMED) as error:
        raise DataError(
            f"{shown} is not a tar archive, or is damaged ({error}): copy or download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error.strerror or error}") from error
    return members


def _labelled(samples: Sequence[_Sample], skipped: list[SkippedFile]) -> list[PictureFile]:
    """Return the files with the labels that stand next to the images."""
    files = []
    readers = {sample.shard.path: reader_of(sample.shard.path) for sample in samples}
    for sample in samples:
        name = sample.image.name.removeprefix("./")
        path = os.path.join(sample.shard.path, name)
        read = readers[sample.shard.path]
        stored = StoredImage(path, read, sample.image.offset_data, sample.image.size)
        label = None
        if sample.label is not None:
            where = printable(os.path.join(sample.shard.path, sample.label.name))
            if sample.label.size > _MAX_LABEL_BYTES:
                skipped.append(SkippedFile(path, "its label has more than 1 MiB"))
                continue
            content = read(sample.label.offset_data, sample.label.size)
            try:
                label = _label(where, content.decode("utf-8"), sample.label.name)
            except ValueError as error:
                skipped.append(SkippedFile(path, f"its label cannot be read: {error}"))
                continue
        files.append(PictureFile(path, label, sample.shard.split, stored=stored))
    return files


def _label(where: str, text: str, name: str) -> str | None:
    """Return the class in a member of the archive; `None` if it has none."""
    if not name.lower().endswith(".json"):
        return class_name(text) or None
    value = parse_json(text)
    if isinstance(value, dict):
        found = [own for own_key, own in value.items() if key(str(own_key)) in LABEL_NAMES]
        # A text is the name of the class of which a number next to it is the index.
        found.sort(key=lambda own: not isinstance(own, str))
        value = found[0] if found else None
    if isinstance(value, list | dict):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        else:
            raise DataError(f"{where} has several classes for one image: {ONE_CLASS}")
    if value is None or isinstance(value, bool):
        return None
    return class_name(str(value)) or None


def _by_folder(samples: Sequence[_Sample], files: Sequence[PictureFile]) -> list[PictureFile]:
    """Take the classes, and the splits if there are some, from the folders in the archives."""
    folders = [sample.folder.split("/") if sample.folder else [] for sample in samples]
    while all(len(parts) > 1 for parts in folders) and len({p[0] for p in folders}) == 1:
        folders = [parts[1:] for parts in folders]
    roles = [split_role(parts[0]) if len(parts) > 1 else None for parts in folders]
    if all(roles):
        files = [f._replace(split=role or "") for f, role in zip(files, roles, strict=True)]
        folders = [parts[1:] for parts in folders]
    return [
        file._replace(class_name=normal_name(parts[0]) if parts else None)
        for file, parts in zip(files, folders, strict=True)
    ]


def _class_names(root: str, files: Sequence[PictureFile]) -> Mapping[int, str]:
    """Return the names in `classnames.txt`, if there is one and the labels are numbers."""
    labels = {file.class_name for file in files if file.class_name is not None}
    path = os.path.join(root, "classnames.txt")
    if not labels or not all(map(_INDEX.fullmatch, labels)) or not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [normal_name(line.strip()) for line in file if line.strip()]
    except (OSError, UnicodeError) as error:
        raise DataError(f"{printable(path)} cannot be read: {error}") from error
    if max(map(int, labels)) >= len(names):
        raise DataError(
            f"{printable(path)} has {len(names)} names, and the labels go up to "
            f"{max(map(int, labels))}: expected one name a line for each class, from 0"
        )
    return dict(enumerate(names))


def _suffix(member: tarfile.TarInfo) -> str:
    return os.path.splitext(member.name)[1].lower()
