"""Read the samples of a dataset in the form in which writers need them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from cnnforge.data.dataset import Dataset, EncodedSamples
from cnnforge.data.formats import IMAGE_SUFFIXES, pillow_formats
from cnnforge.errors import DataError
from cnnforge.utils.names import normal_name, printable

_SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif", "MPO": ".jpg", "HEIF": ".heic"}
# File systems limit a name to 255 bytes. The rest is for a number and an ending.
_MAX_NAME_BYTES = 200


class Item(NamedTuple):
    """A sample.

    Attributes:
        row: Its index among the samples of the dataset.
        label: Index of its class; 0 if it has boxes.
        split: `"train"`, `"validation"` or `"test"`; empty if the data have no splits.
    """

    row: int
    label: int
    split: str


@dataclass
class Items:
    """The samples of a labelled dataset that was opened to inspect it.

    Args:
        dataset: The dataset.

    Attributes:
        items: The samples, in the order of the data, but sorted by split.
        splits: The splits that occur; `[""]` if there is only one.

    Raises:
        DataError: If the dataset has no labels.
    """

    dataset: Dataset
    items: list[Item] = field(init=False)
    splits: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Read labels and splits."""
        dataset = self.dataset
        labels = getattr(dataset.train, "labels", None)
        if labels is None or not dataset.classes:
            raise DataError(
                f"{printable(dataset.name)} has no class labels, so it cannot be converted"
            )
        roles = splits_of(dataset)
        self.splits = [role for role in ("", "train", "validation", "test") if role in {*roles}]
        if self.has_boxes:
            labels = [0] * len(labels)
        self.items = [
            Item(row, int(label), role)
            for row, (label, role) in enumerate(zip(labels, roles, strict=True))
        ]
        self.items.sort(key=lambda item: self.splits.index(item.split))

    @property
    def has_boxes(self) -> bool:
        """Whether the samples have boxes."""
        return hasattr(self.dataset.train, "boxes")

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        return self.dataset.classes

    def of(self, split: str) -> list[Item]:
        """Return the samples of a split."""
        return [item for item in self.items if item.split == split]

    def encoded(self, item: Item) -> tuple[bytes, str]:
        """Return the content of an image file, and its ending.

        The content is unchanged if the sample is an image file. Otherwise it is that of a PNG file.

        Raises:
            DataError: If the file cannot be read.
        """
        samples = self.dataset.train
        if isinstance(samples, EncodedSamples):
            content = samples.encoded(item.row)
            suffix = os.path.splitext(samples.names[item.row])[1].lower()
            return content, suffix if suffix in IMAGE_SUFFIXES else _suffix(content)
        pixels = samples.fetch(np.array([item.row]))[0]
        file = BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
        return file.getvalue(), ".png"

    def stem(self, item: Item) -> str:
        """Return the name of a sample without its folder and its ending, for a new file."""
        name = os.path.basename(self.dataset.train.names[item.row])
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in IMAGE_SUFFIXES:
            stem = name
        stem = normal_name(stem).encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        # A file whose name begins with a dot is hidden.
        return re.sub(r"^\.", "_", stem) or "image"

    def pixels(self, items: Sequence[Item], step: int = 256) -> Iterator[np.ndarray]:
        """Yield the images of some samples, `step` at a time: (n, H, W, C) uint8."""
        for start in range(0, len(items), step):
            rows = np.array([item.row for item in items[start : start + step]])
            yield self.dataset.train.fetch(rows)


class UniqueNames:
    """Makes file names that differ from each other in more than upper and lower case."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._next: dict[str, int] = {}

    def make(self, stem: str, suffix: str) -> str:
        """Return `STEM.SUFFIX`, or `STEM-2.SUFFIX` if this name was made before, and so on."""
        name, key = stem + suffix, (stem + suffix).casefold()
        number = self._next.get(key, 2)
        while name.casefold() in self._used:
            name, number = f"{stem}-{number}{suffix}", number + 1
        self._next[key] = number
        self._used.add(name.casefold())
        return name


def splits_of(dataset: Dataset) -> list[str]:
    """Return the split of each sample; `""` for all samples if they are all in one split."""
    inspection = dataset.inspection
    roles = list(inspection.splits) if inspection is not None else [""] * len(dataset.train)
    if any(roles):
        roles = [role or "train" for role in roles]
    return roles if len(set(roles)) > 1 else [""] * len(roles)


def _suffix(content: bytes) -> str:
    with Image.open(BytesIO(content), formats=pillow_formats()) as image:
        kind = image.format or "PNG"
    return _SUFFIXES.get(kind, f".{kind.lower()}")
