"""Read the schema and the rows of Parquet files with pyarrow, which is optional."""

from __future__ import annotations

import os
import shlex
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cnnforge.data import normal_name, printable
from cnnforge.errors import CnnforgeError, DataError, message_of
from cnnforge.utils.available_memory import in_words
from cnnforge.utils.cache_folder import cache_folder
from cnnforge.utils.structured_text import parse_json
from cnnforge_plugins.datasets._delimited import DelimitedFile

_HEAD = 16
_LFS = b"version https://git-lfs"
# A file can have as many rows and bytes in memory; a larger one as it has bytes, or times as many.
_FREE_ROWS = 1_000_000
_FREE_BYTES, _RATIO = 256 << 20, 100


@contextmanager
def opened_parquet(path: str) -> Iterator[Any]:
    """Open a file as a `pyarrow.parquet.ParquetFile`, with clear messages for all errors.

    Args:
        path: The file.

    Raises:
        CnnforgeError: If pyarrow is not installed.
        DataError: If the file is not a Parquet file, or is damaged.
    """
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CnnforgeError(
            f"{printable(path)} is a Parquet file, which pyarrow reads, and pyarrow is not "
            "installed; type: pip install 'cnnforge[parquet]'"
        ) from error
    shown = printable(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LFS))
            if start == _LFS:
                raise DataError(
                    f"{shown} is a pointer of Git LFS, not the data; type: git -C "
                    f"{shlex.quote(printable(os.path.dirname(path) or '.'))} lfs pull"
                )
            file.seek(0)
            found = parquet.ParquetFile(file, pre_buffer=False)
            _check_size(shown, found.metadata, os.fstat(file.fileno()).st_size)
            yield found
    # A text that is not UTF-8 is a ValueError.
    except (pyarrow.ArrowException, EOFError, UnicodeError) as error:
        reason = message_of(error)
        raise DataError(
            f"{shown} is not a Parquet file, or is damaged ({reason}): copy or download it again"
        ) from error
    except OSError as error:
        reason = error.strerror or message_of(error)
        raise DataError(f"{shown} cannot be read: {reason}") from error


def _check_size(shown: str, metadata: Any, stored: int) -> None:
    """Refuse a small file that asks for much memory: images and names hardly get smaller."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    if metadata.num_rows > max(_FREE_ROWS, stored) or size > _FREE_BYTES + _RATIO * stored:
        raise DataError(
            f"{shown} has {metadata.num_rows} rows and {in_words(size)} of values in "
            f"{stored} bytes, and would fill the memory: copy or download it again"
        )


def features(schema: Any) -> Mapping[str, Any]:
    """Return what the library `datasets` of Hugging Face says of each column; empty if nothing.

    Args:
        schema: Schema of pyarrow.
    """
    try:
        content = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = content["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class ParquetRows(DelimitedFile):
    """A Parquet file whose rows are read as texts, like those of a file with commas."""

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield a number and the cells of each row; the first row has the names of the columns.

        Raises:
            DataError: If the file cannot be read.
        """
        with opened_parquet(self.path) as file:
            names = file.schema_arrow.names
            yield 1, [normal_name(name) for name in names]
            number = 1
            for batch in file.iter_batches(batch_size=1024):
                columns = [column.to_pylist() for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield number, ["" if cell is None else str(cell) for cell in cells]


def open_rows(path: str) -> ParquetRows:
    """Open a Parquet file as a table of texts.

    Args:
        path: The file.

    Raises:
        DataError: If the file cannot be read.
    """
    rows = ParquetRows(path, "", ",")
    return ParquetRows(path, "", ",", head=tuple(islice(rows.rows(), _HEAD)))


class Spool:
    """A temporary file with the images of Parquet files, from which they are read at any place.

    The images in a Parquet file are compressed together, so that one of them cannot be read alone.
    The file has no name and vanishes with this object.
    """

    def __init__(self) -> None:
        self._folder = cache_folder()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        except OSError as error:
            self._end = 0
            raise self._full(error) from error
        # The samples read from it until they are gone.
        weakref.finalize(self, self._file.close)
        self._end = 0

    def add(self, content: bytes) -> int:
        """Write an image. Return its offset.

        Raises:
            DataError: If the disk is full.
        """
        offset = self._end
        try:
            self._file.write(content)
        except OSError as error:
            raise self._full(error) from error
        self._end += len(content)
        return offset

    def flush(self) -> None:
        """Make all images readable.

        Raises:
            DataError: If the disk is full.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._full(error) from error

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; several threads may call this at once."""
        return os.pread(self._file.fileno(), size, offset)

    def _full(self, error: OSError) -> DataError:
        return DataError(
            f"the images of a Parquet file are copied to a temporary file in "
            f"{printable(self._folder)}, and it cannot be written after {self._end / 1e6:.0f} MB: "
            f"{error.strerror}; free some space, or set XDG_CACHE_HOME to a folder on another disk"
        )


def type_names(schema: Any, names: Sequence[str]) -> str:
    """List columns with their types, for a message."""
    return ", ".join(f"{normal_name(name)} ({schema.field(name).type})" for name in names[:6])
