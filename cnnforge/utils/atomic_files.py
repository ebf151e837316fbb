"""Write files atomically: a reader sees the old file or the whole new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".cnnforge-tmp-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; after the block, rename it to `path`.

    The temporary name keeps the suffix of `path`, because some writers, such as Keras, choose the
    format by it. The data is on the disk before the rename, so `path` never has incomplete content.
    When the block ends, the rename is on the disk too. If the block raises an error, `path` keeps
    its old content, and the temporary file is removed.

    Args:
        path: The file to create or to replace. Its folder must exist.

    Yields:
        The path to write to.

    Raises:
        OSError: The file could not be written, for instance for lack of space or permission.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp lets only the owner read the file; give it the usual permissions.
        os.chmod(temporary, 0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Create or replace `path` atomically.

    Args:
        path: The file. Its folder must exist.
        data: The whole content.

    Raises:
        OSError: The file could not be written; the old one is untouched.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Create or replace the UTF-8 file `path` atomically.

    Args:
        path: The file. Its folder must exist.
        text: The whole content; line ends are written as they are.

    Raises:
        OSError: The file could not be written; the old one is untouched.
    """
    write_bytes(path, text.encode())


def write_parts(path: Path, parts: Iterable[str]) -> None:
    """Create or replace the UTF-8 file `path` atomically with a long text.

    Args:
        path: The file. Its folder must exist.
        parts: The parts of the text, which are written one after another; line ends are written as
            they are.

    Raises:
        OSError: The file could not be written; the old one is untouched.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(parts)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process has left in a folder.

    Args:
        folder: The folder.
    """
    for path in folder.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write the list of the files in a folder to the disk, so that a rename survives a crash.

    Windows cannot do this, so nothing is done there.

    Args:
        folder: The folder.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # Setting the umask is the only way to read it, so set it and restore it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
