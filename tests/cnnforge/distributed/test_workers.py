"""Workers that are threads: what they agree on, gather, and do in the training loop."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cnnforge.callbacks import Callback
from cnnforge.data import Dataset
from cnnforge.distributed.workers import ALONE, Workers
from cnnforge.errors import RunError
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks.classification import Classification
from cnnforge.training import BatchesDone, EpochEnded, Interrupted, StateStore, prepare, train
from cnnforge.utils.parts import part, part_to_read
from tests.cnnforge.training.conftest import build, samples


def threads(size: int) -> list[Workers]:
    """Workers whose sums are computed in this process."""
    given: list[Any] = [None] * size
    meeting = threading.Barrier(size, timeout=60)

    def reduce(rank: int, array: np.ndarray) -> np.ndarray:
        assert array.ndim == 1
        assert array.dtype.name in ("int32", "int64", "float32", "float64")
        given[rank] = array
        meeting.wait()
        assert len({each.shape for each in given}) == 1
        total = functools.reduce(np.add, given)
        meeting.wait()
        return total

    return [Workers(r, size, lambda array, r=r: reduce(r, array)) for r in range(size)]


def together(size: int, call: Callable[[Workers], Any]) -> list[Any]:
    """Call a function on each worker, and return the results."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(call, threads(size)))


@pytest.mark.parametrize(("count", "parts"), [(7, 3), (1, 3), (64, 2), (5, 5), (2, 7), (0, 2)])
def test_parts_are_all_images_once(count: int, parts: int) -> None:
    found = [part(count, index, parts) for index in range(parts)]
    assert [n for start, stop in found for n in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in found]
    assert max(sizes) - min(sizes) <= 1
    for index, (start, stop) in enumerate(found):
        expected = (start, stop) if stop > start else (0, 1)
        assert part_to_read(count, index, parts) == expected


def test_one_worker_returns_at_once() -> None:
    array = np.arange(5)
    assert ALONE.agree(True, False) == (True, False)
    assert ALONE.highest(7) == 7
    assert ALONE.own_of_batches(array, 2) is array
    assert ALONE.own(array).tolist() == array.tolist()
    assert ALONE.gather(array, 5) is array
    assert ALONE.from_first({"a": (1,)}) == {"a": (1,)}
    assert ALONE.devices == 1
    ALONE.wait()


def test_any_worker_can_raise_a_flag() -> None:
    for raised in range(3):
        found = together(3, lambda it, raised=raised: it.agree(it.rank == raised, False))
        assert found == [(True, False)] * 3
    assert together(3, lambda it: it.highest(it.rank * 10)) == [20] * 3
    assert together(2, lambda it: it.same(4)) == [True] * 2
    assert together(2, lambda it: it.same(it.rank)) == [False] * 2


def test_the_first_worker_tells_the_others() -> None:
    value = {"ä": [1, None, 0.1], "rates": [1e-300]}
    found = together(3, lambda it: it.from_first(value if it.is_first else None))
    assert found == [value] * 3
    own = [np.array([1.5, np.nan, -0.0], np.float32), np.array([3], np.uint8), np.zeros((0, 2))]
    got = together(
        2, lambda it: it.arrays_from_first(own if it.is_first else [each + 1 for each in own])
    )
    for arrays in got:
        for array, expected in zip(arrays, own, strict=True):
            assert array.dtype == expected.dtype
            assert array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_gathered_rows_are_in_order_and_have_the_same_bits(dtype: str, count: int) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (count, 3)).astype(dtype)
    if dtype.startswith("float"):
        rows[0, 0] = -0.0
    indices = np.arange(count)
    for found in together(3, lambda it: it.gather(rows[it.own(indices)], count)):
        assert found.tobytes() == rows.tobytes()


def test_each_worker_reads_its_part_of_each_batch() -> None:
    indices = np.arange(10, 25)
    found = together(3, lambda it: it.own_of_batches(indices, 7).tolist())
    # The batches are 10..16, 17..23 and 24. Two workers have no part of the last one.
    assert found == [
        [10, 11, 17, 18, 24],
        [12, 13, 19, 20, 24],
        [14, 15, 16, 21, 22, 23, 24],
    ]


class Slower(Callback):
    """Halves the learning rate."""

    def __init__(self) -> None:
        self.calls = 0

    def epoch_ended(self, epoch: Any) -> None:
        self.calls += 1
        epoch.learning_rate = epoch.learning_rate / 2

    def state(self) -> dict[str, Any]:
        return {"calls": self.calls}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset("toy", ("a", "b", "c"), samples(40, 0), samples(7, 1), "0" * 64)


@pytest.fixture
def trained(
    data: Dataset, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Any]]:
    """Train on two workers, each on its part alone; return what happened on each."""
    monkeypatch.setattr("cnnforge.data.prefetch.MAX_BYTES", 1)
    prepare(0)
    models = [build(), build()]
    task = Classification(data.classes)

    def trained(stop_at: dict[int, int], **options: Any) -> list[Any]:
        def one(workers: Workers) -> Any:
            asked = iter(range(1_000_000))
            events: list[Any] = []
            store = StateStore(tmp_path / f"states-{workers.rank}")
            callback = Slower()
            result = train(
                models[workers.rank],
                task,
                data,
                epochs=2,
                batch_size=8,
                optimizer=OptimizerOptions(learning_rate=0.01),
                store=store,
                listeners=[events.append],
                callbacks={"slower": callback},
                should_stop=lambda: next(asked) >= stop_at.get(workers.rank, 1_000_000),
                workers=workers,
                **options,
            )
            return result, events, store, callback

        return together(2, one)

    return trained


def test_a_signal_to_one_worker_stops_both_at_the_same_batch(trained: Any) -> None:
    first, second = trained({1: 2})
    for result, *_ in (first, second):
        assert result.interrupted
        assert (result.state.epoch, result.state.batch) == (0, 3)
    assert first[2].has_states
    assert not second[2].has_states
    assert [type(event) for event in first[1][-1:]] == [Interrupted]
    assert second[1] == []


def test_only_the_first_worker_saves_and_calls_callbacks(trained: Any) -> None:
    first, second = trained({})
    assert not first[0].interrupted
    assert first[3].calls == 2
    assert second[3].calls == 0
    assert first[0].state.callbacks == second[0].state.callbacks == {"slower": {"calls": 2}}
    rates = [[row.learning_rate for row in each[0].state.history] for each in (first, second)]
    assert rates[0] == rates[1]
    assert rates[0][1] == pytest.approx(0.005)
    assert [event.batch for event in first[1] if isinstance(event, BatchesDone)] == [
        *(1, 2, 3, 4, 5),
        *(1, 2, 3, 4, 5),
    ]
    # The validation is that of all images on both, though each has predicted a part of them.
    (ended,) = [e for e in first[1] if isinstance(e, EpochEnded)][-1:]
    assert set(ended.metrics.values) >= {"val_loss", "val_accuracy"}


def test_workers_that_resume_from_different_states_are_refused(data: Dataset) -> None:
    prepare(0)
    models = [build(), build()]
    task = Classification(data.classes)
    done = train(models[0], task, data, epochs=1, batch_size=8).state

    def one(workers: Workers) -> str:
        given = done if workers.is_first else None
        with pytest.raises(RunError) as raised:
            train(
                models[workers.rank],
                task,
                data,
                epochs=2,
                batch_size=8,
                resume_from=given,
                workers=workers,
            )
        return str(raised.value)

    for message in together(2, one):
        assert "all machines see" in message
