"""Download the files of datasets once, check them, and keep them in the cache folder."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cnnforge.data import printable
from cnnforge.errors import DataError
from cnnforge.utils.atomic_files import sync_folder
from cnnforge.utils.cache_folder import cache_folder

_BLOCK = 2**20
_TIMEOUT = 30.0
_TRIES = 3
_NETWORK = (
    http.client.HTTPException,
    urllib.error.URLError,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RemoteFile(NamedTuple):
    """A file that can be downloaded.

    Attributes:
        name: Its name in the cache folder.
        urls: Its addresses; the next one is tried if one does not have it.
        sha256: Its digest, 64 hexadecimal digits.
        size: Its size in bytes.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int


class _Refused(Exception):
    """A download that failed in a way that a repetition does not change."""


def download_folder(name: str) -> Path:
    """Return the folder for the files of a dataset.

    Args:
        name: Name of the dataset.
    """
    return cache_folder() / "datasets" / name


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Return the path of a file, and download it first if it is not there.

    A download that was interrupted goes on where it ended. Proxies are those of the environment,
    and certificates are checked. The file has its name only when it is complete and has the right
    digest.

    Args:
        file: The file.
        folder: The folder of the file, see `download_folder`.

    Returns:
        The path.

    Raises:
        DataError: If it cannot be downloaded or written, or has another digest. The message says
            where to put the file.
    """
    path = folder / file.name
    if path.is_file():
        _check_present(path, file)
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{file.name}.part") as part:
            if path.is_file():
                # Another process has downloaded it in the meantime.
                return path
            _download(file, folder, part)
            os.replace(folder / f"{file.name}.part", path)
            sync_folder(folder)
    except OSError as error:
        raise _unwritable(file, folder, error) from error
    return path


def _download(file: RemoteFile, folder: Path, part: BinaryIO) -> None:
    reasons: list[str] = []
    for url in file.urls:
        print(f"downloading {url} ({file.size / 1e6:.0f} MB) to {folder}", file=sys.stderr)
        for attempt in range(_TRIES):
            before = part.seek(0, os.SEEK_END)
            try:
                _transfer(url, file, part)
            except _Refused as error:
                reasons.append(str(error))
                break
            except _NETWORK as error:
                reasons.append(_reason(url, error))
            else:
                if _digest(part) == file.sha256:
                    return
                part.truncate(0)
                if before:
                    # The start may be that of another version of the file.
                    continue
                reasons.append(f"{url} gave a file with another sha256 than expected")
                break
            if part.seek(0, os.SEEK_END) == before or attempt == _TRIES - 1:
                # Nothing came. What came before stays, and the next download goes on from there.
                break
    raise DataError(
        f"{file.name} cannot be downloaded: {'; '.join(dict.fromkeys(reasons))}; repeat the "
        f"command later, or download {file.urls[0]} on another machine and put it into "
        f"{printable(folder)} (sha256 {file.sha256})"
    )


def _transfer(url: str, file: RemoteFile, part: BinaryIO) -> None:
    """Download the rest of a file to `part`."""
    have = part.seek(0, os.SEEK_END)
    if have > file.size:
        part.truncate(0)
        have = 0
    if have == file.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "cnnforge"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        # urlopen() would keep the proxies of its first call.
        response = urllib.request.build_opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                part.truncate(0)
                raise ConnectionError("the server refuses to go on with the download") from error
            raise _Refused(f"{url} answers {error.code} ({error.reason})") from error
    with response:
        if have and not _goes_on(response, have):
            part.truncate(0)
            have = part.seek(0)
        while block := response.read(_BLOCK):
            part.write(block)
            have += len(block)
            _show(have, file.size)
            if have > file.size:
                part.truncate(0)
                raise _Refused(f"{url} gives more than the expected {file.size} bytes")
        part.flush()
    if have < file.size:
        raise ConnectionError(f"the download ended after {have} of {file.size} bytes")


def _goes_on(response: http.client.HTTPResponse, have: int) -> bool:
    """Return whether a response begins at byte `have`, and not at the start of the file."""
    content = response.headers.get("Content-Range", "")
    return response.status == 206 and content.startswith(f"bytes {have}-")


def _show(have: int, size: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if have >= size else ""
        print(f"\r{100 * have // size} % of {size / 1e6:.0f} MB", end=end, file=sys.stderr)


def _reason(url: str, error: BaseException) -> str:
    cause = getattr(error, "reason", None) or error
    return f"{url}: {' '.join(str(cause).split()) or type(error).__name__}"


def _digest(part: BinaryIO) -> str:
    part.flush()
    part.seek(0)
    return hashlib.file_digest(part, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def _check_present(path: Path, file: RemoteFile) -> None:
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    if digest != file.sha256:
        raise DataError(
            f"{printable(path)} is not the file that was published: its sha256 is {digest}, "
            f"expected {file.sha256}; remove it, and repeat the command to download it"
        )


def _unwritable(file: RemoteFile, folder: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    fix = "set XDG_CACHE_HOME to a folder that you may write to"
    if error.errno in _FULL:
        fix = (
            f"free {file.size / 1e6:.0f} MB and repeat the command, which goes on from there, or "
            "set XDG_CACHE_HOME to a folder on another disk"
        )
    return DataError(f"{file.name} cannot be written to {printable(folder)}: {reason}; {fix}")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for appending; another process that wants it waits."""
    with path.open("a+b") as file:
        try:
            import fcntl
        except ImportError:
            # Windows has no fcntl. Two downloads at once fail the check of the digest there.
            yield file
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
