"""Define datasets, the samples in them, and the options for opening a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cnnforge.configuration import COLORS
from cnnforge.data.digests import Split
from cnnforge.data.images import CheckedImage
from cnnforge.data.placement import PLACINGS, Placing
from cnnforge.errors import DataError, UsageError
from cnnforge.plugin import DEFAULT_TASK
from cnnforge.utils.names import normal_name

Purpose = Literal["training", "evaluation", "prediction", "inspection"]
"""The purpose for which a dataset is opened."""


@dataclass(frozen=True)
class DataOptions:
    """Options for opening a dataset.

    Args:
        image_size: Height and width in pixels; `None`: the median size of the images, at most
            `max_size` (see `cnnforge.data.choose_size`).
        color: `"grayscale"` gives one channel and `"rgb"` three; `"auto"` gives one channel if
            every image is grayscale, and three otherwise.
        validation_fraction: Fraction of every class that is kept for validation, between 0 and 1.
            Datasets that come with a split ignore this option.
        seed: Random seed of the split.
        strict: Whether an unreadable file is an error. If not, such a file is skipped and reported.
        purpose: `"training"`, `"evaluation"`, `"prediction"` or `"inspection"`. Only training needs
            two splits and at least two classes. For the other purposes, one image of one class is
            enough, and `train` of the dataset has all samples in the order of the file or folder.
            For `"prediction"`, data without labels can be opened too, as a `Dataset` with
            `labelled=False`. For `"inspection"`, a dataset with splits of its own has the samples
            of all splits, and `inspection` of the dataset says which split each sample is in.
        max_size: Max height and width in pixels of images whose size `image_size` does not give,
            or a function that returns it for the median (height, width); `None`: no limit.
        placing: The way in which images of another size fill the images of the dataset.

    Raises:
        UsageError: If a value is not allowed.
    """

    image_size: tuple[int, int] | None = None
    color: Literal["auto", "grayscale", "rgb"] = "auto"
    validation_fraction: float = 0.2
    seed: int = 0
    strict: bool = False
    purpose: Purpose = "training"
    max_size: int | Callable[[tuple[int, int]], int] | None = None
    placing: Placing = "stretch"

    def __post_init__(self) -> None:
        if self.image_size is not None and (
            len(self.image_size) != 2 or any(int(n) != n or n < 1 for n in self.image_size)
        ):
            raise UsageError(
                f"the image size is {self.image_size!r}: give a height and a width of at least 1"
            )
        if self.color not in COLORS:
            raise UsageError(f"the color is {self.color!r}: use one of {', '.join(COLORS)}")
        if self.placing not in PLACINGS:
            raise UsageError(f"placing is {self.placing!r}: use one of {', '.join(PLACINGS)}")
        if not (0.0 < self.validation_fraction < 1.0):
            raise UsageError(
                f"the validation fraction is {self.validation_fraction!r}: "
                "use a number between 0 and 1, such as 0.2"
            )
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed!r}: use a whole number from 0 up")

    def max_size_for(self, median: tuple[int, int]) -> int | None:
        """Return `max_size` for images of this median (height, width); `None`: no limit."""
        return self.max_size(median) if callable(self.max_size) else self.max_size

    @property
    def need_labels(self) -> bool:
        """Whether a dataset without labels is an error."""
        return self.purpose != "prediction"

    @property
    def for_training(self) -> bool:
        """Whether the dataset needs two splits and at least two classes."""
        return self.purpose == "training"


class SkippedFile(NamedTuple):
    """A file that was skipped when a dataset was opened.

    Attributes:
        path: Path of the file.
        reason: The reason, in one line.
    """

    path: str
    reason: str


class BoxFinding(NamedTuple):
    """An object in a picture that could not be used as the data describe it.

    Attributes:
        place: Its place in the data, such as `"labels/7.txt, line 3"`.
        cause: The mistake. The text is the same for all objects of this kind.
        detail: The mistake of this object.
        left_out: Whether the object is left out. Otherwise it was changed.
    """

    place: str
    cause: str
    detail: str = ""
    left_out: bool = True

    @property
    def text(self) -> str:
        """The finding in one line."""
        return f"{self.place}: {self.cause}" + (f" ({self.detail})" if self.detail else "")


class Samples(Protocol):
    """Images that are read by index. They may be stored in memory or on disk.

    The targets are stored in other attributes, whose names depend on the task. A classification
    reads `labels`, (N,) int32: indices into the classes of the dataset. Samples may also have an
    attribute `ids`, a list of N texts, if the data name each sample: a submission contains them.
    Samples whose images are resized may have an attribute `sizes`, (N, 2) int64: height and width
    of the original images.

    Attributes:
        names: N texts: the origin of each sample.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return images.

        Args:
            indices: (B,) integers in 0..N-1, in any order; they may repeat.

        Returns:
            (B, H, W, C) uint8, a copy that the caller may change.
        """
        ...


@runtime_checkable
class EncodedSamples(Protocol):
    """Samples that are image files, so that their unchanged content can be copied."""

    def encoded(self, index: int) -> bytes:
        """Return the content of the image file of a sample.

        Args:
            index: Index of the sample.

        Raises:
            DataError: If it cannot be read.
        """
        ...


@runtime_checkable
class EpochSamples(Protocol):
    """Training samples that differ in every epoch, such as synthetic images."""

    def at_epoch(self, epoch: int) -> Samples:
        """Return the samples of an epoch; the same epoch always gives the same samples.

        Args:
            epoch: Index of the epoch, from 0.

        Returns:
            The samples; their number and shape are the same in every epoch.
        """
        ...


def samples_of_epoch(samples: Samples, epoch: int) -> Samples:
    """Return the training samples of an epoch.

    Args:
        samples: The training samples of a dataset.
        epoch: Index of the epoch, from 0.

    Returns:
        `samples.at_epoch(epoch)` if `samples` is an `EpochSamples`, otherwise `samples`.

    Raises:
        DataError: The number of samples in the epoch differs from `len(samples)`.
    """
    if not isinstance(samples, EpochSamples):
        return samples
    made = samples.at_epoch(epoch)
    if len(made) != len(samples):
        raise DataError(
            f"epoch {epoch + 1} has {len(made)} training samples, and the dataset has "
            f"{len(samples)}: at_epoch() must return the same number in every epoch"
        )
    return made


class ArraySamples:
    """Labelled samples in NumPy arrays.

    Args:
        images: (N, H, W, C) uint8; C is 1 or 3.
        labels: (N,) integers.
        names: N texts: the origin of each sample.
        ids: N texts: the id that the data give each sample; `None` if they give none.

    Raises:
        ValueError: If a shape or a dtype is wrong.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        ids: Sequence[str] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}: "
                "expected uint8 of shape (N, H, W, 1) or (N, H, W, 3)"
            )
        if not (len(images) == len(labels) == len(names)):
            raise ValueError(
                f"there are {len(images)} images, {len(labels)} labels and {len(names)} names: "
                "give the same number of each"
            )
        self.images = images
        self.labels = np.ascontiguousarray(labels, dtype=np.int32)
        self.names = names
        self.ids = None if ids is None else list(ids)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return a copy of the images at `indices`: (len(indices), H, W, C) uint8."""
        return self.images[np.asarray(indices, dtype=np.intp)]


class Inspection(NamedTuple):
    """Properties of the samples of a dataset that is opened to inspect it.

    Attributes:
        splits: `"train"`, `"validation"` or `"test"` for each of N samples; `""` if the data do not
            say it.
        checked: Properties of the N image files; empty if the samples are not image files.
        objects: The objects that could not be used as they are; empty if the targets are classes.
    """

    splits: Sequence[str]
    checked: Sequence[CheckedImage] = ()
    objects: Sequence[BoxFinding] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images for training and for validation, with the same classes in both.

    Args:
        name: Name of the dataset in a run, for instance `"mnist5k"` or `"images:/path"`.
        classes: The names of the classes; empty if the task has no classes. They are brought into
            their normal form, see `cnnforge.data.normal_name`.
        train: The samples to train on; they may be `EpochSamples`. If the dataset is opened for
            another purpose than training, these are all samples.
        validation: The samples to validate on; empty for other purposes than training.
        fingerprint: Hexadecimal sha256 of the data and the split.
        skipped: The files that could not be used.
        notes: Messages for the user about the data, one line each.
        labelled: Whether the samples have targets. If not, `classes` and `validation` are empty.
        task: Name of the task whose targets the samples have.
        splits: Names and digests of the samples of `train` and of `validation`. A run keeps them,
            so that its validation images are known even if data are added, moved or renamed. `None`
            if the digests are not known, for instance because the samples differ in every epoch.
        id_name: Name of the ids of the samples, for the heading of a submission; empty if the
            samples have no ids.
        skipped_ids: The ids of `skipped`, if the samples have ids; otherwise empty.
        inspection: The split and the properties of each sample of `train`, if inspection is the
            purpose and the dataset knows them; otherwise `None`.
        dropped: Names and digests of the copies that `cnnforge.data.drop_duplicates` has left out;
            `None` if it has left out no image.
        test: The samples of the test split, which are neither for training nor for validation;
            `None` if the data have no such split. They are in no other field.
        test_digests: The digest of each sample of `test`, if it is known.

    Raises:
        ValueError: If `train` or `test` is empty, or a split does not have one name per sample.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    validation: Samples
    fingerprint: str
    skipped: tuple[SkippedFile, ...] = ()
    notes: tuple[str, ...] = ()
    labelled: bool = True
    task: str = DEFAULT_TASK
    splits: tuple[Split, Split] | None = None
    id_name: str = ""
    skipped_ids: tuple[str, ...] = ()
    dropped: Split | None = None
    inspection: Inspection | None = None
    test: Samples | None = None
    test_digests: Sequence[bytes] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(normal_name, self.classes)))
        parts = (("train", self.train), ("validation", self.validation), ("test", self.test))
        for split, samples in parts:
            if samples is None:
                continue
            empty = split != "validation" and not len(samples)
            if empty or len(samples) != len(samples.names):
                raise ValueError(
                    f"{split} of dataset {self.name!r} has {len(samples)} samples and "
                    f"{len(samples.names)} names: give the same number of each, at least one"
                )

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image, read from the first one."""
        height, width, channels = self.train.fetch(np.zeros(1, np.intp)).shape[1:]
        return height, width, channels
