"""Keep decoded images in a file, so that later epochs and later runs need not decode them again.

A cache file has a header, a table with one number per image, and the pixels. The number is the
checksum of the pixels plus a bit which says that they were written. An image is used only if its
checksum is right, so a file that is incomplete or damaged does no harm: what is missing is decoded
and written again. For this reason several processes can use and fill the same file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import simplejpeg

from cnnforge.data.dataset import Dataset, Samples
from cnnforge.data.files import ImageFiles
from cnnforge.errors import CnnforgeError
from cnnforge.utils.atomic_files import atomic_path
from cnnforge.utils.cache_folder import cache_folder
from cnnforge.utils.names import printable

_HEADER = 4096
_WRITTEN = np.uint64(1 << 32)
# A cache file that was not used for this time is removed when another one is made.
_UNUSED_SECONDS = 30 * 24 * 3600
# Another version of a decoder may give other pixels.
_DECODERS = f"1 Pillow {PIL.__version__} simplejpeg {simplejpeg.__version__}"


class CachedSamples:
    """Samples whose images are decoded once, and then read from a memory-mapped file.

    All attributes except `fetch` are those of the samples.

    Args:
        samples: The samples.
        path: The cache file, made by `make_cache_file`.
        image_shape: (H, W, C) of the images.
    """

    def __init__(self, samples: Samples, path: Path, image_shape: tuple[int, int, int]) -> None:
        self._samples = samples
        count, shape = len(samples), (len(samples), *image_shape)
        file = np.memmap(path, np.uint8, "r+").view(np.ndarray)
        self._checksums = file[_HEADER : _HEADER + 8 * count].view(np.uint64)
        self._images = file[_HEADER + 8 * count :].reshape(shape)
        # Images whose checksum was compared by this process.
        self._known = np.zeros(count, bool)
        self.names: Sequence[str] = samples.names

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def __getattr__(self, name: str) -> object:
        """Return an attribute of the samples, such as `labels`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._samples, name)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return images, and decode those that the file does not have.

        Args:
            indices: (B,) integers in 0..N-1, in any order; they may repeat.

        Returns:
            (B, H, W, C) uint8, a copy.

        Raises:
            DataError: If a file cannot be read.
        """
        indices = np.asarray(indices, dtype=np.intp)
        new = np.unique(indices[~self._known[indices]])
        # An image is compared only once, because a comparison takes longer than the copy.
        wrong = [row for row in new if self._checksums[row] != _checksum(self._images[row])]
        if wrong:
            rows = np.array(wrong, np.intp)
            for row, image in zip(rows, self._samples.fetch(rows), strict=True):
                self._images[row] = image
                self._checksums[row] = _checksum(image)
        self._known[new] = True
        # NumPy copies the images, since the index is an array.
        return self._images[indices]

    @property
    def written(self) -> int:
        """Number of images that the file has."""
        return int(np.count_nonzero(self._checksums))


def cached(dataset: Dataset, folder: Path | None = None) -> Dataset:
    """Return a dataset whose images are kept in the cache after they are decoded.

    Cache files that were not used for 30 days are removed.

    Args:
        dataset: A dataset.
        folder: Folder of the cache files; by default, `images` in the user's cache folder.

    Returns:
        The same dataset with `CachedSamples` for training, validation and test, and a note with the
        size of the files. If the images are not in files, the dataset itself with a note.

    Raises:
        CnnforgeError: If the disk has no room for the files, or they cannot be written.
    """
    # The fingerprint does not contain the test split.
    tested = hashlib.sha256(dataset.fingerprint.encode() + b"".join(dataset.test_digests))
    parts = [
        (name, part, key)
        for name, part, key in (
            ("train", dataset.train, dataset.fingerprint),
            ("validation", dataset.validation, dataset.fingerprint),
            ("test", dataset.test, tested.hexdigest()),
        )
        if isinstance(part, ImageFiles) and len(part)
    ]
    if not parts:
        note = "--cache has no effect: these images are not decoded from files"
        return replace(dataset, notes=(*dataset.notes, note))
    folder = cache_folder() / "images" if folder is None else folder
    shape = dataset.image_shape
    made = {}
    for name, part, key in parts:
        path = folder / f"{key[:32]}-{name}.cache"
        make_cache_file(path, f"{key} {name}", len(part), shape)
        made[name] = CachedSamples(part, path, shape)
    total = sum(len(each) for each in made.values())
    written = sum(each.written for each in made.values())
    size = sum(_size(len(each), shape) for each in made.values())
    has = (
        "has all images"
        if written == total
        else f"has {written} of {total} images, this run adds the others"
    )
    note = f"the image cache {has}: {_text(size)} in {printable(str(folder))}"
    return replace(dataset, **made, notes=(*dataset.notes, note))


def make_cache_file(
    path: Path, identity: str, count: int, image_shape: tuple[int, int, int]
) -> None:
    """Make an empty cache file, unless there is already one for the same images.

    Args:
        path: The file. Its folder is made if it does not exist.
        identity: Text that differs for other images.
        count: Number of images.
        image_shape: (H, W, C) of the images.

    Raises:
        CnnforgeError: If the disk has no room for the file, or it cannot be written.
    """
    size = _size(count, image_shape)
    header = f"cnnforge image cache {_DECODERS}\n{identity}\n{count} {image_shape}\n".encode()
    header = header.ljust(_HEADER, b"\n")
    hint = "or set XDG_CACHE_HOME to a folder on another disk, or leave out --cache"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size == size:
            with path.open("rb") as file:
                if file.read(_HEADER) == header:
                    os.utime(path)
                    return
        _remove_unused(path.parent)
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise CnnforgeError(
                f"--cache needs {_text(size)} in {printable(str(path.parent))}, and {_text(free)} "
                f"are free: make room, {hint}"
            )
        with atomic_path(path) as temporary, temporary.open("r+b") as file:
            file.write(header)
            # Reserve the room. Otherwise, writing to the mapped file would kill the process when
            # the disk is full.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        raise CnnforgeError(
            f"the image cache {printable(str(path))} cannot be written: "
            f"{error.strerror or error}: make room, {hint}"
        ) from error


def _remove_unused(folder: Path) -> None:
    """Remove the cache files that no run has used for a long time."""
    before = time.time() - _UNUSED_SECONDS
    for path in folder.glob("*.cache"):
        # Another process may remove it at the same time.
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()


def _size(count: int, image_shape: tuple[int, int, int]) -> int:
    return _HEADER + count * (8 + int(np.prod(image_shape)))


def _checksum(image: np.ndarray) -> np.uint64:
    return np.uint64(zlib.crc32(image.data)) | _WRITTEN


def _text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
