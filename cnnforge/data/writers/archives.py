"""Write a dataset as archives: tar in the form of WebDataset, Parquet in that of Hugging Face."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from cnnforge.data.writers.items import Item, Items
from cnnforge.errors import CnnforgeError

_SAMPLES_OF_SHARD = 10_000
_BYTES_OF_SHARD = 1 << 30
# Number and size of the images that are in memory at a time.
_ROWS, _BYTES = 1000, 64 << 20


def write_tar(items: Items, folder: Path) -> None:
    """Write `SPLIT-000000.tar` and so on, and `classnames.txt`.

    A sample is an image, such as `000017-cat.jpg`, and the number of its class, `000017-cat.cls`.

    Args:
        items: The samples.
        folder: An empty folder.

    Raises:
        DataError: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    (folder / "classnames.txt").write_text(
        "".join(f"{name}\n" for name in items.classes), encoding="utf-8"
    )
    for split in items.splits:
        chosen = items.of(split)
        shard, start = 0, 0
        while start < len(chosen):
            path = folder / f"{split or 'data'}-{shard:06d}.tar"
            with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
                start = _fill(archive, items, chosen, start)
            shard += 1


def _fill(archive: tarfile.TarFile, items: Items, chosen: list[Item], start: int) -> int:
    """Add samples to a shard until it is full. Return the number of the next sample."""
    size = 0
    for number in range(start, min(start + _SAMPLES_OF_SHARD, len(chosen))):
        item = chosen[number]
        content, suffix = items.encoded(item)
        if size and size + len(content) > _BYTES_OF_SHARD:
            return number
        size += len(content)
        # WebDataset takes the text up to the first dot as the name of the sample.
        stem = re.sub("[^A-Za-z0-9_-]+", "_", items.stem(item))[:60]
        _add(archive, f"{number:06d}-{stem}{suffix}", content)
        _add(archive, f"{number:06d}-{stem}.cls", str(item.label).encode())
    return min(start + _SAMPLES_OF_SHARD, len(chosen))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # By default, a member has neither time nor owner, so equal data give equal archives.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, BytesIO(content))


def write_parquet(items: Items, folder: Path) -> None:
    """Write `SPLIT-00000-of-00001.parquet` with the columns image and label.

    Args:
        items: The samples.
        folder: An empty folder.

    Raises:
        CnnforgeError: If pyarrow is not installed.
        DataError: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    pyarrow, parquet = import_pyarrow()
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(items.classes), "_type": "ClassLabel"},
    }
    schema = pyarrow.schema(
        [
            ("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
            ("label", pyarrow.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split in items.splits:
        path = folder / f"{split or 'train'}-00000-of-00001.parquet"
        with parquet.ParquetWriter(path, schema, compression="none") as file:
            for rows in _chunks(items, items.of(split)):
                file.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _chunks(items: Items, chosen: list[Item]) -> Iterator[list[dict[str, Any]]]:
    rows, size = [], 0
    for item in chosen:
        content, suffix = items.encoded(item)
        path = items.stem(item) + suffix
        rows.append({"image": {"bytes": content, "path": path}, "label": item.label})
        size += len(content)
        if len(rows) >= _ROWS or size >= _BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow, which is an optional package. Return it and its module for Parquet.

    Raises:
        CnnforgeError: If it is not installed. The message has the command that installs it.
    """
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CnnforgeError(
            "Parquet needs the package pyarrow, which is not installed; type: "
            "pip install 'cnnforge[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
