"""Open CIFAR-10 and CIFAR-100: 60,000 photos of 32x32 pixels. The archive is downloaded once.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The archives are the
binary versions, which can be read without running code, unlike the Python versions. Their SHA-256
are those of TensorFlow Datasets; their author names the MD5.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnforge.data import DataOptions, Dataset, Role, normal_name, printable
from cnnforge.errors import DataError, UsageError
from cnnforge.utils.structured_text import MALFORMED
from cnnforge_plugins.datasets.shared.array_parts import ArrayPart, dataset_of_parts
from cnnforge_plugins.datasets.shared.download import RemoteFile, download_folder, fetch

_URL = "https://www.cs.toronto.edu/~kriz/"
_PIXELS = 3 * 32 * 32


class Archive(NamedTuple):
    """A binary version of CIFAR.

    Attributes:
        file: The archive.
        train: Names of the files in it for training.
        test: Name of the file in it for a test.
        classes: Name of the file in it with the names of the classes.
        labels: Number of labels before the pixels of an image; the last one is the class.
    """

    file: RemoteFile
    train: tuple[str, ...]
    test: str
    classes: str
    labels: int


CIFAR10 = Archive(
    RemoteFile(
        "cifar-10-binary.tar.gz",
        (f"{_URL}cifar-10-binary.tar.gz",),
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        170052171,
    ),
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test_batch.bin",
    "batches.meta.txt",
    1,
)
CIFAR100 = Archive(
    RemoteFile(
        "cifar-100-binary.tar.gz",
        (f"{_URL}cifar-100-binary.tar.gz",),
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        168513733,
    ),
    ("train.bin",),
    "test.bin",
    "fine_label_names.txt",
    2,
)


def load10(argument: str | None, options: DataOptions) -> Dataset:
    """Open CIFAR-10: 50,000 photos, of which a part is for validation, and 10,000 for a test.

    Args:
        argument: Must be `None`, since the dataset takes no argument.
        options: Options of the dataset.

    Returns:
        The dataset, with 10 classes.

    Raises:
        UsageError: If there is an argument.
        DataError: If the archive cannot be downloaded; the message says where to put it.
    """
    return _load("cifar10", CIFAR10, argument, options)


def load100(argument: str | None, options: DataOptions) -> Dataset:
    """Open CIFAR-100 with its 100 fine classes, otherwise as `load10`."""
    return _load("cifar100", CIFAR100, argument, options)


def _load(name: str, archive: Archive, argument: str | None, options: DataOptions) -> Dataset:
    if argument is not None:
        raise UsageError(f"{name} takes no argument, got {argument!r}: write {name}")
    path = fetch(archive.file, download_folder(name))
    contents = _read(path, archive)
    splits: tuple[tuple[Role, tuple[str, ...]], ...] = (
        ("train", archive.train),
        ("test", (archive.test,)),
    )
    parts = []
    for role, names in splits:
        content = b"".join(contents[each] for each in names)
        rows = np.frombuffer(content, np.uint8).reshape(-1, archive.labels + _PIXELS)
        pixels = rows[:, archive.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = rows[:, archive.labels - 1].astype(np.int32)
        parts.append(ArrayPart(np.ascontiguousarray(pixels), labels, role, role))
    lines = contents[archive.classes].decode("utf-8").split("\n")
    classes = [normal_name(line.strip()) for line in lines if line.strip()]
    return dataset_of_parts(name, printable(path), parts, options, classes=classes)


def _read(path: Path, archive: Archive) -> dict[str, bytes]:
    """Return the content of the files in an archive that are needed."""
    wanted = {*archive.train, archive.test, archive.classes}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as content:
            for member in content:
                name = member.name.rpartition("/")[2]
                file = content.extractfile(member) if name in wanted and member.isreg() else None
                if file is not None:
                    with file:
                        found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, *MALFORMED) as error:
        raise DataError(
            f"{printable(path)} is damaged ({error}): remove it, and repeat the command"
        ) from error
    row = archive.labels + _PIXELS
    for name in sorted(wanted):
        size = len(found.get(name, b""))
        if not size or (name.endswith(".bin") and size % row):
            raise DataError(
                f"{printable(path)} has {size} bytes of {name}, expected a multiple of {row}: "
                "remove it, and repeat the command"
            )
    return found
