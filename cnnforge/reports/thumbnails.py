"""Keep small pictures of some samples in a run, so that its report needs no data."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from cnnforge.data import Samples
from cnnforge.model_files.arrays import check_arrays
from cnnforge.runs import RunDirectory

THUMBNAILS = "thumbnails.npz"
MAX_SIDE = 64
"""Max height and width in pixels."""
MAX_BYTES = 1_500_000
"""Max size of all thumbnails of a run. In a page they take a third more."""
# Decoding a photograph takes tens of milliseconds.
_MAX_COUNT = 256
_STEP = 64


def keep_thumbnails(run: RunDirectory, samples: Samples, rows: Sequence[int]) -> None:
    """Write thumbnails of some samples to a run, until they fill `MAX_BYTES`.

    Args:
        run: The run.
        samples: The samples.
        rows: Indices of the samples, the most important first; they may repeat.

    Raises:
        RunError: The file could not be written.
    """
    kept: dict[int, bytes] = {}
    left = MAX_BYTES
    chosen = list(dict.fromkeys(rows))[:_MAX_COUNT]
    for start in range(0, len(chosen), _STEP):
        some = chosen[start : start + _STEP]
        for row, image in zip(some, samples.fetch(np.array(some, np.int64)), strict=True):
            content = _encoded(image)
            left -= len(content)
            if left < 0:
                break
            kept[row] = content
        if left < 0:
            break
    with run.writing(THUMBNAILS) as path, path.open("wb") as file:
        np.savez(
            file,
            rows=np.array(list(kept), np.int64),
            ends=np.cumsum([len(content) for content in kept.values()], dtype=np.int64),
            content=np.frombuffer(b"".join(kept.values()), np.uint8),
        )


def read_thumbnails(run: RunDirectory) -> dict[int, str]:
    """Read the thumbnails of a run.

    Args:
        run: The run.

    Returns:
        The thumbnail of each sample as a `data:` URI, by the index of the sample. The dictionary is
        empty if the run has none, or if the file is damaged.
    """
    try:
        check_arrays(run.path / THUMBNAILS)
        with np.load(run.path / THUMBNAILS, allow_pickle=False) as archive:
            rows, ends = archive["rows"].tolist(), archive["ends"].tolist()
            content = archive["content"].tobytes()
        starts = [0, *ends]
        return {
            int(row): _uri(content[start:end])
            for row, start, end in zip(rows, starts, ends, strict=False)
        }
    except Exception:
        return {}


def thumbnail(image: np.ndarray) -> str:
    """Return a small picture of an image as a `data:` URI.

    Args:
        image: (H, W, C) uint8.
    """
    return _uri(_encoded(image))


def _encoded(image: np.ndarray) -> bytes:
    """Return an image, (H, W, C) uint8, as a small PNG or JPEG file, the smaller of both."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
    return min(_files(picture), key=len)


def _files(picture: Image.Image) -> Iterable[bytes]:
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 80})):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        yield file.getvalue()


def _uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
