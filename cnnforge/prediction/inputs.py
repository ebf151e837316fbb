"""Find the images to predict: image files, folders of images, and datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from PIL import Image

from cnnforge.data import (
    IMAGE_SUFFIXES,
    DataSummary,
    count_causes,
    file_ids,
    find_images,
    left_out_notes,
    printable,
)
from cnnforge.data.files import read_original
from cnnforge.data.references import path_reader
from cnnforge.errors import DataError
from cnnforge.plugin import DatasetSpec, TaskSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.part_inputs import PartInputs, open_parts
from cnnforge.prediction.predictor import Predictor
from cnnforge.prediction.samples import RunData, SampleInputs, open_samples
from cnnforge.prediction.tiles import predict_tiled
from cnnforge.tasks import Row
from cnnforge.utils.names import natural_key
from cnnforge.utils.packed import Packed


@dataclass(frozen=True)
class FileInputs:
    """Image files to predict.

    Attributes:
        paths: The files, packed if they are many, without duplicates.
        errors: Path of each file that cannot be read, with the reason.
        notes: Messages for the user about files and folders that are left out, one line each.
    """

    paths: Sequence[str]
    errors: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths) + len(self.errors)

    @property
    def summary(self) -> DataSummary:
        """Summary of the files that were found. They have not been read yet."""
        return DataSummary(
            name="files",
            images={"used": len(self.paths)},
            left_out=count_causes(self.errors),
        )

    @property
    def ids(self) -> tuple[str, list[str]] | None:
        """The name of the ids, and the id of each row that `predict` yields."""
        return "id", file_ids([*self.paths, *(path for path, _ in self.errors)])

    @property
    def class_ids(self) -> Mapping[str, int | str]:
        """The id of each class in the data: none."""
        return {}

    def predict(
        self,
        predictor: Predictor,
        limit: int | None = None,
        *,
        tiled: bool = False,
        **options: Any,
    ) -> Iterator[Row]:
        """Predict the first `limit` files, or all if it is `None`. Yield a table row for each.

        If `tiled`, large files are predicted in parts, too, see `cnnforge.prediction.tiles`.
        `options` are the prediction options of the task.
        """
        # A slice of all would unpack all.
        paths = self.paths if limit is None else self.paths[:limit]
        if tiled:
            yield from predict_tiled(predictor, paths, **options)
        else:
            yield from predictor.predict_files(paths, **options)
        left = None if limit is None else max(0, limit - len(self.paths))
        for path, reason in islice(self.errors, left):
            yield predictor.task.unread_row(printable(path), reason)

    def picture(self, number: int) -> Image.Image:
        """Read the image of the row with this number in its own size.

        Raises:
            DataError: The file cannot be read.
        """
        return Image.fromarray(read_original(self.paths[number]))


Inputs = FileInputs | SampleInputs | PartInputs
"""Images to predict."""


def find_inputs(
    named: Sequence[str],
    *,
    image_shape: tuple[int, int, int],
    datasets: Registry[DatasetSpec],
    trained_on: RunData,
    tasks: Registry[TaskSpec] | None = None,
    in_parts: bool = False,
) -> list[Inputs]:
    """Find the images to predict.

    Args:
        named: Image files, folders of images and references to datasets, as the user wrote them.
        image_shape: (H, W, C) of the model's images.
        datasets: Registry of the datasets that plugins declare.
        trained_on: The data that the model was trained on. If `named` contains this dataset, only
            its validation samples are predicted.
        tasks: Registry of the tasks; by default those of the installed plugins.
        in_parts: Whether several workers predict the images. Datasets are then divided into parts,
            and not opened.

    Returns:
        The inputs in the order of `named`. A file that is named twice, or is also in a named
        folder, is predicted once.

    Raises:
        UsageError: A name is neither a file nor a folder nor a dataset, or it is a dataset that
            cannot be read in parts.
        DataError: No image was found.
    """
    found: list[Inputs] = []
    # A single folder has no file twice, and the paths of many files take much memory.
    seen = set[str]() if len(named) > 1 else None
    # A shell replaces `new/*.png` by the names of all files, which are one input.
    for are_files, texts in groupby(named, _is_image_path):
        if are_files:
            found.append(_new(FileInputs(list(texts)), seen))
            continue
        for text in texts:
            # Images need no table to be predicted.
            if os.path.isdir(text) and path_reader(text) in ("images", "table"):
                found.append(_new(_in_folder(text), seen))
            elif in_parts:
                found.append(open_parts(text, datasets))
            else:
                found.append(
                    open_samples(
                        text, image_shape, datasets, trained_on, need_labels=False, tasks=tasks
                    )
                )
    if not any(len(inputs) for inputs in found):
        left_out = "; ".join(note for inputs in found for note in inputs.notes)
        raise DataError(
            f"no image was found in {', '.join(map(printable, named))}"
            f"{f' ({left_out})' if left_out else ''}; images have one of these endings: "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def _in_folder(folder: str) -> FileInputs:
    listing = find_images(folder)
    return FileInputs(
        sorted(listing.paths, key=natural_key),
        tuple((file.path, file.reason) for file in listing.skipped),
        left_out_notes(listing.others, listing.runs),
    )


def _new(inputs: FileInputs, seen: set[str] | None) -> FileInputs:
    """Return the inputs without the files in `seen`, and add the files to `seen`, if it is one."""
    return FileInputs(
        Packed(path for path in inputs.paths if _first_time(path, seen)),
        tuple(error for error in inputs.errors if _first_time(error[0], seen)),
        inputs.notes,
    )


def _is_image_path(text: str) -> bool:
    if os.path.isdir(text):
        return False
    suffix = os.path.splitext(text)[1].lower()
    return suffix in IMAGE_SUFFIXES or (os.path.lexists(text) and not path_reader(text))


def _first_time(path: str, seen: set[str] | None) -> bool:
    if seen is None:
        return True
    key = os.path.abspath(path)
    if key in seen:
        return False
    seen.add(key)
    return True
