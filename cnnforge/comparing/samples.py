"""Find the samples of some data that none of several runs was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnforge.data import Dataset, Samples, Split
from cnnforge.errors import UsageError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction import Predictor, RunData, open_samples
from cnnforge.prediction.joined_samples import joined
from cnnforge.prediction.samples import NoTestPartError, Part

Key = tuple[str, bytes]
"""Name and digest of a sample."""


@dataclass(frozen=True)
class ComparedRun:
    """A run that is compared.

    Attributes:
        path: The run directory.
        predictor: Its model.
        data: The data that it was trained on.
        plugins: All loaded plugins, including those that the run names.
        options: Its options, by name.
    """

    path: Path
    predictor: Predictor
    data: RunData
    plugins: Plugins
    options: dict[str, Any]


class RunSamples(NamedTuple):
    """The samples for a run, in the order that is common to all runs.

    Attributes:
        run: The run.
        dataset: The dataset, with images of the shape of the run's model.
        samples: Samples of the dataset.
        indices: (N,) int64, indices into `samples`.
    """

    run: ComparedRun
    dataset: Dataset
    samples: Samples
    indices: np.ndarray


@dataclass(frozen=True)
class CommonSamples:
    """The samples that none of the runs was trained on.

    Attributes:
        what: Description of the data, such as `"mnist5k"`.
        total: Number of samples of the data.
        trained: Number of samples that are left out because a run was trained on them.
        of_runs: The samples for each run, in one order.
        names: The N names of the samples.
        notes: Messages for the user, one sentence each.
    """

    what: str
    total: int
    trained: int
    of_runs: Sequence[RunSamples]
    names: Sequence[str]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def common_samples(
    runs: Sequence[ComparedRun], data: str | None, part: Part = "validation"
) -> CommonSamples:
    """Find the samples that none of the runs was trained on.

    Args:
        runs: Runs of one task.
        data: Reference of labelled data; `None`: the data of the first run.
        part: `"test"` chooses the test part of the data.

    Returns:
        The samples, at least one.

    Raises:
        UsageError: The data cannot be opened, or a run was trained on each sample.
        DataError: The data cannot be read.
    """
    reference = runs[0].data.reference if data is None else data
    opened = [_open(run, reference, part) for run in runs]
    first = opened[0]
    total, what = len(first.keys), first.dataset.name
    known = set(first.keys).intersection(*(each.keys for each in opened[1:]))
    chosen = known.intersection(*(each.unseen for each in opened))
    order = [key for key in first.keys if key in chosen]
    notes = []
    if any(each.uncertain for each in opened):
        notes.append(
            "a run has not kept which images it was trained on, so its own split was made again"
        )
    others = {each.data.reference for each in runs} - {reference}
    if others:
        notes.append(
            f"not all runs were trained on {what}: these pictures may be more like those of one "
            "run; name other labelled data with --data"
        )
    if len(known) < total:
        notes.append(f"{total - len(known)} of {total} pictures cannot be read for every run")
    if not order:
        raise UsageError(
            f"each of the {total} pictures of {what} was in the training of a run, so nothing can "
            "be compared: name other labelled data with --data, or train with the same --split-seed"
        )
    return CommonSamples(
        what=what if part == "validation" else f"the test part of {what}",
        total=total,
        trained=len(known) - len(order),
        of_runs=[
            RunSamples(run, each.dataset, each.samples, np.array([each.place[k] for k in order]))
            for run, each in zip(runs, opened, strict=True)
        ],
        names=[name for name, _ in order],
        notes=tuple(notes),
    )


class _Opened(NamedTuple):
    dataset: Dataset
    samples: Samples
    keys: list[Key]
    place: dict[Key, int]
    unseen: set[Key]
    uncertain: bool


def _open(run: ComparedRun, reference: str, part: Part) -> _Opened:
    try:
        found = open_samples(
            reference,
            run.predictor.image_shape,
            run.plugins.datasets,
            run.data,
            part=part,
            tasks=run.plugins.tasks,
        )
    except UsageError as error:
        if reference != run.data.reference or isinstance(error, NoTestPartError):
            raise
        raise UsageError(
            f"the data of the run {run.path} cannot be opened: {error}; if they have moved, name "
            "their new place with --data"
        ) from error
    dataset, samples, indices = found.dataset, found.samples, found.indices
    if part == "validation" and samples is dataset.validation:
        # The data were split again. The training samples are in the data, too.
        samples, indices = joined(dataset), indices + len(dataset.train)
    keys = _keys(dataset, samples, part)
    place = {key: number for number, key in enumerate(keys)}
    kept = run.data.split
    if kept is None or not all(digest for _, digest in keys):
        return _Opened(dataset, samples, keys, place, {keys[i] for i in indices}, True)
    # The labels play no part here.
    origin = kept.find(
        Split(np.zeros(len(keys)), [name for name, _ in keys], [digest for _, digest in keys])
    )
    unseen = {keys[at] for at in np.flatnonzero(~(origin.trained | origin.dropped | origin.copies))}
    return _Opened(dataset, samples, keys, place, unseen, False)


def _keys(dataset: Dataset, samples: Samples, part: Part) -> list[Key]:
    """Return name and digest of each sample; an empty digest if it is not known."""
    names, digests = list(samples.names), [b""] * len(samples.names)
    splits = () if part == "test" else dataset.splits or ()
    if part == "test" and len(dataset.test_digests) == len(names):
        digests = list(dataset.test_digests)
    elif sum(len(split.names) for split in splits) == len(names):
        # These names do not contain the folder of the data.
        names = [name for split in splits for name in split.names]
        digests = [digest for split in splits for digest in split.digests]
    return list(zip(names, digests, strict=True))
