"""Give an exported file or folder its name, in one step."""

from __future__ import annotations

import os
from pathlib import Path

from cnnforge.utils.atomic_files import sync_folder


def move(temporary: Path, target: Path) -> None:
    """Give a file or folder its final name; what was there is replaced.

    All data are on the disk before the rename. If the process is killed, the target is the old one,
    or the whole new one. Only while a folder is replaced, there is a moment without either; the old
    folder is then in the temporary folder.

    Args:
        temporary: The file or folder, in a temporary folder on the same disk.
        target: The final path.

    Raises:
        OSError: It could not be renamed.
    """
    for path in files_of(temporary):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if target.is_dir() and temporary.is_dir():
        # A folder with files cannot be replaced. So the old one leaves its place first.
        old = temporary.with_name(f"{temporary.name}.old")
        os.rename(target, old)
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(old, target)
            raise
    else:
        os.replace(temporary, target)
    sync_folder(target.absolute().parent)


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    return sum(each.stat().st_size for each in files_of(path))


def files_of(path: Path) -> list[Path]:
    """List a file, or all files in a folder."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file())
