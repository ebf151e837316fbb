"""Predict images with several workers, through Ray Data.

The images are divided into groups. Any worker reads a group, and then a worker that has opened the
model predicts it. If a worker dies, another one does the group again. The rows come in the order of
the images, one for each.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from cnnforge.data import SkippedFile
from cnnforge.distributed.addresses import CLIENT
from cnnforge.distributed.predict_worker import (
    Failure,
    Group,
    PredictGroups,
    PredictionJob,
    read_groups,
)
from cnnforge.distributed.ray_start import Cluster
from cnnforge.errors import CnnforgeError, message_of
from cnnforge.prediction import FileInputs
from cnnforge.prediction.part_inputs import PartInputs
from cnnforge.prediction.read_images import group_size
from cnnforge.tasks import Row
from cnnforge.utils.processors import usable_processors

# The processors that a worker takes with the model, and to read images. N workers of both kinds
# take N together.
_MODEL_SHARE, _READ_SHARE = 0.75, 0.25
# A group is done again so often after the death of a worker. An image that always crashes the
# decoder ends the prediction.
_RETRIES = 20
# Ray refuses numbers of retries from this version on.
_NO_RETRIES_FROM = (2, 64)
_MAX_BLOCK = 32 * 2**20
# Number of pieces that a client gets at once.
_TOGETHER = 8

# The number of a group and of a piece, whether the piece is the last one, and pickled rows.
_Content = tuple[int, int, bool, bytes]


class _Results(NamedTuple):
    """The rows for some images of a group.

    Attributes:
        last: Whether they are the last ones of the group.
        rows: The rows.
    """

    last: bool
    rows: Sequence[Row]


def predict_on(
    cluster: Cluster,
    job: PredictionJob,
    inputs: FileInputs | PartInputs,
    workers: int,
    limit: int | None = None,
) -> Generator[Row, None, None]:
    """Predict images, see `FileInputs.predict` and `SampleInputs.predict`.

    Args:
        cluster: The cluster.
        job: The model and its options.
        inputs: The images.
        workers: Number of workers that open the model.
        limit: Max number of images; `None` for all.

    Yields:
        One row per image, the same as without workers. Call `close` before the cluster is
        disconnected, if rows are left.

    Raises:
        CnnforgeError: A worker could not open the model, or a group of images has ended too many
            workers.
    """
    if isinstance(inputs, PartInputs):
        yield from _predict_parts(cluster, job, inputs, workers, limit)
        return
    paths = inputs.paths[:limit]
    size = group_size(job.image_shape)
    groups = [
        Group(partial(iter, paths[first : first + size]), os.getcwd())
        for first in range(0, len(paths), size)
    ]
    yield from _rows(cluster, job, groups, workers)
    left = None if limit is None else max(0, limit - len(inputs.paths))
    missing = [SkippedFile(*error) for error in islice(inputs.errors, left)]
    if missing:
        group = Group(partial(iter, missing), os.getcwd())
        yield from _rows(cluster, job, [group], 1)


def _predict_parts(
    cluster: Cluster, job: PredictionJob, inputs: PartInputs, workers: int, limit: int | None
) -> Iterator[Row]:
    """Yield the rows of the images that could be read, and then those of the others, by name."""
    folder = os.getcwd()
    groups = [Group(part.read, folder, checked=True) for part in inputs.parts.parts]
    unread: list[Row] = []
    count = 0
    for row in _rows(cluster, job, groups, workers):
        if row.error is not None:
            unread.append(row)
            continue
        yield row
        count += 1
        if count == limit:
            return
    unread.sort(key=lambda row: (row.name, row.error))
    yield from unread[: None if limit is None else limit - count]


def _rows(
    cluster: Cluster, job: PredictionJob, groups: Sequence[Group], workers: int
) -> Iterator[Row]:
    """Predict groups of images. Yield the rows in order."""
    if not groups:
        return
    workers = min(workers, len(groups))
    waiting: dict[tuple[int, int], _Results] = {}
    number = piece = 0
    for key, results in _results(cluster, job, groups, workers):
        # A result that comes again after the death of a worker is left out.
        if key >= (number, piece):
            waiting.setdefault(key, results)
        while (number, piece) in waiting:
            found = waiting.pop((number, piece))
            number, piece = (number + 1, 0) if found.last else (number, piece + 1)
            yield from found.rows
    if number != len(groups):
        raise CnnforgeError(
            f"the workers have predicted {number} of {len(groups)} groups of images: start the "
            "command again"
        )


def _results(
    cluster: Cluster, job: PredictionJob, groups: Sequence[Group], workers: int
) -> Iterator[tuple[tuple[int, int], _Results]]:
    """Run the groups through Ray Data. Yield the number of the group and of the piece, and rows."""
    import ray

    threads = max(1, usable_processors() // workers) if cluster.local else 1
    # Ray Data does not run in a program that is only a client of the cluster.
    run = _relayed if cluster.address.startswith(CLIENT) else _contents
    try:
        with closing(run(job, groups, workers, threads)) as contents:
            for number, piece, last, content in contents:
                value = pickle.loads(content)
                if isinstance(value, Failure):
                    raise CnnforgeError(value.message)
                yield (number, piece), _Results(last, value)
    except ray.exceptions.RayError as error:
        raise CnnforgeError(
            f"a worker died {_RETRIES} times while it predicted the same images, or the cluster "
            f"ended: {message_of(error)[:200]}"
        ) from error


def _relayed(
    job: PredictionJob, groups: Sequence[Group], workers: int, threads: int
) -> Generator[_Content, None, None]:
    """Run `_contents` in a process of the cluster."""
    import ray

    relay = ray.remote(num_cpus=0)(_Relay).remote(job, groups, workers, threads)
    while found := ray.get(relay.next.remote()):
        yield from found


class _Relay:
    """Runs `_contents` for another process."""

    def __init__(self, *arguments: Any) -> None:
        self._contents = _contents(*arguments)

    def next(self) -> list[_Content]:
        return list(islice(self._contents, _TOGETHER))


def _contents(
    job: PredictionJob, groups: Sequence[Group], workers: int, threads: int
) -> Generator[_Content, None, None]:
    """Run the groups through Ray Data. Yield what `PredictGroups` returns."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    # Ray Data writes lines about its plan.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = _MAX_BLOCK
    context.execution_options.preserve_order = True
    items = [{"number": n, "group": pickle.dumps(group)} for n, group in enumerate(groups)]
    with warnings.catch_warnings():
        # Ray 2.60 wants no numbers of retries, and has no other place for them.
        warnings.simplefilter("ignore")
        data = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(
                read_groups,
                fn_kwargs={"job": job},
                compute=TaskPoolStrategy(size=workers),
                num_cpus=_READ_SHARE,
                **_retries(max_retries=_RETRIES),
            )
            .map_batches(
                PredictGroups,
                fn_constructor_args=[job, threads],
                compute=ActorPoolStrategy(size=workers),
                num_cpus=_MODEL_SHARE,
                **_retries(max_restarts=-1, max_task_retries=_RETRIES),
            )
        )
    batches: Any = iter(data.iter_batches(batch_size=None, batch_format="numpy"))
    # Ray Data has a thread. If it still runs when the command disconnects, Ray ends the command.
    with closing(batches):
        for batch in batches:
            columns = (batch[name] for name in ("number", "piece", "last", "content"))
            for number, piece, last, content in zip(*columns, strict=True):
                yield int(number), int(piece), bool(last), content


def _retries(**numbers: int) -> dict[str, int]:
    """Return arguments for `map_batches`, if this version of Ray takes them.

    Without them, Ray does the work of a dead worker again without limit.
    """
    import ray

    version = tuple(int(part) for part in ray.__version__.split(".")[:2])
    return numbers if version < _NO_RETRIES_FROM else {}
