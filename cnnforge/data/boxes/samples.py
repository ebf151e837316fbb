"""Define samples with boxes: image files, and images in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from cnnforge.data.files import ImageFiles
from cnnforge.data.stored import ImageSource

DETECTION = "detection"
"""Name of the task whose targets are boxes."""


class Objects(NamedTuple):
    """The objects in N images.

    Attributes:
        boxes: N arrays (k, 4) float64: `x1 y1 x2 y2` in pixels of the upright original image. The
            left and the top edge of the image are 0; `x2` and `y2` are exclusive.
        labels: N arrays (k,) int32: indices into the classes of the dataset.
        crowd: N arrays (k,) bool: whether the object is a group, which counts neither as found nor
            as missed.
        sizes: (N, 2) int64: height and width of the upright original images.
    """

    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    crowd: list[np.ndarray]
    sizes: np.ndarray

    def some(self, rows: np.ndarray) -> Objects:
        """Return the objects of some images.

        Args:
            rows: (n,) indices of the images.
        """
        boxes, labels, crowd = ([each[int(row)] for row in rows] for each in self[:3])
        return Objects(boxes, labels, crowd, self.sizes[np.asarray(rows, np.intp)])


class DetectionFiles(ImageFiles):
    """Samples with boxes that are image files on disk. `fetch` decodes the files that it needs.

    An image is resized with its aspect ratio, and gray borders fill the rest. The attributes
    `boxes`, `labels`, `crowd` and `sizes` are those of `Objects`.

    Args:
        files: N image files: their paths, or their places in other files.
        objects: The objects in them.
        image_shape: (H, W, C) of every fetched image.
        ids: N texts: the id that the data give each image; `None` if they give none.
        class_ids: Id that the data give each class, by name.

    Raises:
        ValueError: If there are not as many files as images with objects.
    """

    labels: Any

    def __init__(
        self,
        files: Sequence[ImageSource],
        objects: Objects,
        image_shape: tuple[int, int, int],
        ids: Sequence[str] | None = None,
        class_ids: Mapping[str, int | str] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            files, np.zeros(len(objects.sizes), np.int32), image_shape, ids, "letterbox"
        )
        self.boxes, self.labels, self.crowd, self.sizes = objects
        self.class_ids = class_ids


class DetectionArrays:
    """Samples with boxes whose images are NumPy arrays.

    The attributes `boxes`, `labels`, `crowd` and `sizes` are those of `Objects`. The original
    images are the arrays themselves.

    Args:
        images: (N, H, W, C) uint8; C is 1 or 3.
        boxes: N arrays (k, 4) of numbers: `x1 y1 x2 y2` in pixels of the images.
        labels: N arrays (k,) of integers.
        names: N texts: the origin of each sample.
        crowd: N arrays (k,) bool; by default no object is a crowd.

    Raises:
        ValueError: If a shape or a dtype is wrong.
    """

    def __init__(
        self,
        images: np.ndarray,
        boxes: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        names: Sequence[str],
        crowd: Sequence[np.ndarray] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}: "
                "expected uint8 of shape (N, H, W, 1) or (N, H, W, 3)"
            )
        if not (len(images) == len(boxes) == len(labels) == len(names)):
            raise ValueError(
                f"there are {len(images)} images, boxes of {len(boxes)}, labels of {len(labels)} "
                f"and {len(names)} names: give the same number of each"
            )
        self.images = images
        self.names = names
        self.boxes = [np.asarray(each, np.float64).reshape(-1, 4) for each in boxes]
        self.labels = [np.asarray(each, np.int32).reshape(-1) for each in labels]
        given = [np.zeros(len(each), bool) for each in labels] if crowd is None else crowd
        self.crowd = [np.asarray(each, bool).reshape(-1) for each in given]
        self.sizes = np.full((len(images), 2), images.shape[1:3], np.int64)
        for row, name in enumerate(names):
            counts = [len(each[row]) for each in (self.boxes, self.labels, self.crowd)]
            if len(set(counts)) > 1:
                raise ValueError(
                    f"{name} has {counts[0]} boxes, {counts[1]} labels and {counts[2]} values of "
                    "crowd: give the same number of each"
                )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return a copy of the images at `indices`: (len(indices), H, W, C) uint8."""
        return self.images[np.asarray(indices, dtype=np.intp)]
