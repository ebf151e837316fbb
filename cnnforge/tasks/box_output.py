"""Declare how a task draws, writes and merges boxes, for `cnnforge predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from cnnforge.tasks.rows import Row, Source


class BoxOutput(Protocol):
    """Writes and merges the rows of a task that predicts boxes. The rows have no error."""

    def draw(self, image: Image.Image, row: Row) -> Image.Image:
        """Draw the boxes of a row into its picture.

        Args:
            image: The upright picture in its own size.
            row: Its row.

        Returns:
            A new picture.
        """
        ...

    def coco(
        self, row: Row, image_id: int | str, class_ids: Mapping[str, int | str]
    ) -> list[dict[str, Any]]:
        """Return the boxes of a row as COCO results: `image_id`, `category_id`, `bbox`, `score`.

        Args:
            row: The row.
            image_id: Id of its image.
            class_ids: Id of each class by name. If it is empty, the classes count from 1.
        """
        ...

    def yolo(self, row: Row) -> str:
        """Return the boxes of a row as lines `class x y width height confidence` of YOLO."""
        ...

    def yolo_names(self) -> str:
        """Return the names of the classes, one on a line, in the order of the class numbers."""
        ...

    def merged(
        self,
        parts: Sequence[Row],
        places: Sequence[tuple[int, int, int, int]],
        source: Source,
        options: Mapping[str, Any],
    ) -> Row:
        """Merge the rows of overlapping parts of an image.

        Args:
            parts: The rows.
            places: Place of each part in the image, `x1 y1 x2 y2` in pixels.
            source: The image.
            options: Value of each prediction option of the task, by name.

        Returns:
            The row of the image.
        """
        ...
