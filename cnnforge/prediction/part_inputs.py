"""Images of a dataset to predict, which several workers read in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from cnnforge.data import DataSummary, PictureParts
from cnnforge.data.references import find_dataset
from cnnforge.errors import DataError, UsageError
from cnnforge.plugin import DatasetSpec
from cnnforge.plugin_host.registry import Registry


@dataclass(frozen=True)
class PartInputs:
    """The images of a dataset, which is not read in this process.

    Attributes:
        parts: The parts of the dataset.
    """

    parts: PictureParts

    def __len__(self) -> int:
        return sum(part.images for part in self.parts.parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user about the images, one line each."""
        return tuple(self.parts.notes)

    @property
    def summary(self) -> DataSummary:
        """Summary of the images. They have not been read yet."""
        return DataSummary(name=self.parts.name, images={"used": len(self)})

    @property
    def ids(self) -> None:
        """The ids of the images: not known."""
        return None

    @property
    def class_ids(self) -> Mapping[str, int | str]:
        """The id of each class in the data: none."""
        return {}

    def picture(self, number: int) -> NoReturn:
        """Raise an error: no image can be read alone.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"the images of {self.parts.name} are read by the workers, and cannot be drawn or "
            "shown: leave out --workers"
        )


def open_parts(reference: str, datasets: Registry[DatasetSpec]) -> PartInputs:
    """Divide a dataset into parts that several workers can read.

    Args:
        reference: Reference of the dataset.
        datasets: Registry of the datasets that plugins declare.

    Raises:
        UsageError: The dataset is unknown, or it cannot be read in parts.
        DataError: The dataset cannot be read.
    """
    spec, argument = find_dataset(reference, datasets)
    divide = spec.load_in_parts()
    if divide is None:
        raise UsageError(
            f"{reference} is read by the dataset {spec.name}, which cannot be read in parts: leave "
            "out --workers, or name image files, folders of them, or Parquet files of images"
        )
    parts = divide(argument)
    if not isinstance(parts, PictureParts):
        raise DataError(
            f"the function in_parts of the dataset {spec.qualified_name!r} returned a "
            f"{type(parts).__name__}: its plugin must return a cnnforge.data.PictureParts"
        )
    return PartInputs(parts)
