"""Define what a reader of boxes finds in a picture: its objects, and its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from cnnforge.data.dataset import BoxFinding, SkippedFile
from cnnforge.data.picture_dataset import PictureFile


class Box(NamedTuple):
    """An object in a picture, as the data describe it.

    Attributes:
        class_name: Name of its class.
        corners: Left, top, right and bottom side: `x1 y1 x2 y2`. The left and the top edge of the
            picture are 0, and right and bottom are exclusive, so `x2 - x1` is the width. The unit
            is a pixel, or the width and the height of the picture, see `DetectionSource`. A number
            that cannot be read is NaN.
        place: Its place in the data, such as `"labels/7.txt, line 3"`.
        crowd: Whether it is a group of objects, which counts neither as found nor as missed.
    """

    class_name: str
    corners: tuple[float, float, float, float]
    place: str
    crowd: bool = False


class AnnotatedPicture(NamedTuple):
    """A picture with its objects.

    Attributes:
        file: The image file; `class_name` is `None`.
        objects: The objects; a picture without objects is data, too.
        size: Height and width of the picture as the data say; `None` if they do not say it.
    """

    file: PictureFile
    objects: Sequence[Box]
    size: tuple[int, int] | None = None


class DetectionSource(NamedTuple):
    """Data for object detection, as a reader found them.

    Attributes:
        name: Name of the dataset.
        root: Folder that contains the pictures; it is not part of the names in the fingerprint.
        pictures: The pictures. If one is named twice for the same split, its objects are joined.
        classes: The names of the classes.
        fractions: Whether the corners of boxes are fractions of the width and the height.
        form: Name of the format, for messages.
        skipped: Files that cannot be used, such as a picture that is missing.
        findings: Objects that the reader has left out or changed.
        notes: Messages for the user.
        class_ids: Id that the data give each class, by name; empty if they give none.
    """

    name: str
    root: str
    pictures: Sequence[AnnotatedPicture]
    classes: Sequence[str]
    fractions: bool
    form: str
    skipped: Sequence[SkippedFile] = ()
    findings: Sequence[BoxFinding] = ()
    notes: Sequence[str] = ()
    class_ids: Mapping[str, int | str] = MappingProxyType({})
