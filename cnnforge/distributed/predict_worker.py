"""Read and predict groups of images in the processes of workers. Nothing here needs Ray."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnnforge.data import ImageSource, Placing, SkippedFile, UnreadableImage
from cnnforge.data.images import check_image
from cnnforge.errors import one_line
from cnnforge.prediction.model import load_predictor
from cnnforge.prediction.read_images import ReadImages, group_size, read_images
from cnnforge.utils.processors import THREAD_VARIABLES

if TYPE_CHECKING:
    from cnnforge.conversion import Kernels

Batch = Mapping[str, np.ndarray]
"""Columns of n groups or of n pieces of groups, (n,) arrays by name."""


@dataclass(frozen=True)
class PredictionJob:
    """The model and the options with which workers predict images.

    Attributes:
        run: Absolute path of the run directory.
        image_shape: (H, W, C) of the model's images.
        placing: The way in which an image of another size fills the model's image.
        values: All prediction options of the task.
        kernels: See `cnnforge.load`.
        plugins: See `cnnforge.load`.
        trust_model: See `cnnforge.load`.
    """

    run: str
    image_shape: tuple[int, int, int]
    placing: Placing
    values: Mapping[str, Any]
    kernels: Kernels = "auto"
    plugins: tuple[str, ...] = ()
    trust_model: bool = False


class Group(NamedTuple):
    """Images that one worker reads.

    Attributes:
        read: Function that yields them. `pickle` must be able to write it.
        folder: The folder to which relative paths belong.
        checked: Whether the reasons for unreadable images are those of `check_image`, as they are
            for a dataset.
    """

    read: Callable[[], Iterator[ImageSource | SkippedFile]]
    folder: str
    checked: bool = False


class Failure(NamedTuple):
    """The reason why a worker cannot predict.

    Attributes:
        message: One line.
    """

    message: str


def read_groups(batch: Batch, job: PredictionJob) -> Iterator[dict[str, Any]]:
    """Read groups of images, in pieces for one call of the model each.

    Args:
        batch: `number`, int, and `group`, a pickled `Group`.
        job: The model and its options.

    Yields:
        For each piece: the `number` of its group, the number of the `piece`, whether it is the
        `last` one of its group, and `content`: pickled `ReadImages`, or a pickled `Failure`.
    """
    for number, content in zip(batch["number"], batch["group"], strict=True):
        try:
            yield from _pieces(int(number), pickle.loads(content), job)
        except Exception as error:
            yield _batch(int(number), 0, True, _failure(error))


def _pieces(number: int, group: Group, job: PredictionJob) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):
        os.chdir(group.folder)
    images, size = group.read(), group_size(job.image_shape)
    piece, ahead = 0, list(islice(images, size))
    while ahead or not piece:
        now, ahead = ahead, list(islice(images, size))
        read = read_images(now, job.image_shape, job.placing)
        if group.checked:
            read = read._replace(reasons=list(map(_checked_reason, now, read.reasons)))
        yield _batch(number, piece, not ahead, read)
        piece += 1


def _checked_reason(source: ImageSource | SkippedFile, reason: str | None) -> str | None:
    if reason is None or isinstance(source, SkippedFile):
        return reason
    try:
        check_image(source)
    except UnreadableImage as error:
        return error.reason
    return reason


class PredictGroups:
    """The model of a run in a worker. It predicts what `read_groups` has read.

    Args:
        job: The model and its options.
        threads: Number of threads that the worker may use.
    """

    def __init__(self, job: PredictionJob, threads: int) -> None:
        # The kernels read these variables when they are imported.
        for name in THREAD_VARIABLES:
            os.environ[name] = str(threads)
        self._job = job
        self._failure: Failure | None = None
        try:
            self._predictor, _ = load_predictor(
                job.run, kernels=job.kernels, plugins=job.plugins, trust_model=job.trust_model
            )
        except Exception as error:
            # The death of a worker would start another one, again and again.
            self._failure = _failure(error)

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Predict pieces of groups.

        Args:
            batch: The columns that `read_groups` yields.

        Returns:
            The same columns; `content` has a pickled list of rows, or a pickled `Failure`.
        """
        found = [self._predicted(pickle.loads(content)) for content in batch["content"]]
        return {**batch, "content": [pickle.dumps(each, pickle.HIGHEST_PROTOCOL) for each in found]}

    def _predicted(self, read: ReadImages | Failure) -> Any:
        if isinstance(read, Failure):
            return read
        if self._failure is not None:
            return self._failure
        try:
            return list(self._predictor.predict_read(read, self._job.values))
        except Exception as error:
            return _failure(error)


def _batch(number: int, piece: int, last: bool, content: ReadImages | Failure) -> dict[str, Any]:
    packed = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return {"number": [number], "piece": [piece], "last": [last], "content": [packed]}


def _failure(error: Exception) -> Failure:
    return Failure(f"{one_line(error)} (worker process {os.getpid()} on {socket.gethostname()})")
