"""End a training that has met a value that is not finite, and say in which layer it appeared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NoReturn

from cnnforge.data.prefetch import Chunk
from cnnforge.errors import NotFiniteError
from cnnforge.training import nonfinite
from cnnforge.training.phases import Phase
from cnnforge.training.state import TrainingState

_SEARCH_ON_ONE = "; to find the layer, go on with --resume on one device"


def _best_effort() -> contextlib.AbstractContextManager[None]:
    # Used around the search for the cause of an error. If the search itself fails, the first error
    # must still be reported, so ignore the exception of the search.
    return contextlib.suppress(Exception)


def first_in_training(
    phase: Phase,
    last: TrainingState,
    replayed: Iterator[Chunk],
    batch: int,
    should_stop: Callable[[], bool],
) -> str:
    """Find the first value that is not finite, in the batches after the last saved state.

    Args:
        phase: The phase of training.
        last: The last saved state.
        replayed: The batches after it, each a chunk of its own.
        batch: Index of the batch after which the value was met.
        should_stop: Function that ends the search if it returns true.

    Returns:
        A description of the value; empty if no such value is found. The description names the
        batch in which the value appeared, if that is an earlier batch than `batch`.
    """
    batches = ((chunk.images, chunk.targets) for chunk in replayed)
    with _best_effort():
        number, found = nonfinite.find_in_training(
            phase.trainer, phase.model, last.arrays, batches, should_stop
        )
        number += last.batch
        return f"{found}, in batch {number + 1}" if found and number != batch else found
    return ""


def first_in_validation(phase: Phase, chunks: Iterator[Chunk]) -> str:
    """Predict the validation images, and describe the first value that is not finite.

    The description is empty if no such value is found.
    """
    with _best_effort(), phase.trainer.averaged():
        images = (chunk.images for chunk in chunks)
        return nonfinite.find_in_prediction(phase.trainer, phase.model, images)
    return ""


def fail(what: str, first: str | None, *, saved: bool) -> NoReturn:
    """Raise an error about a value that is not finite.

    Args:
        what: The value.
        first: The place of the first such value; empty if it is unknown. `None` if there was no
            search for it, because each device has only a part of a batch.
        saved: Whether there is a saved state.

    Raises:
        NotFiniteError: Always.
    """
    raise NotFiniteError(
        f"{what} is not a finite number"
        + (f", first seen in {first}" if first else "")
        + ": lower the learning rate, or look for damaged images in the data"
        + ("; the last saved state is finite" if saved else "")
        + (_SEARCH_ON_ONE if first is None and saved else "")
    )
