"""Check which images of a chunk each device trains with or predicts, without a training."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from cnnforge.backends.tensorflow_replicas import ReplicaTrainer
from cnnforge.distributed.workers import Workers


def images_of(
    count: int, batch_size: int, workers: int, devices: int = 1
) -> list[list[list[tuple[list[int], int]]]]:
    """Return, by worker, step and device, the images of its part, and whether it has a part."""
    found = []
    for rank in range(workers):
        replicas: Any = SimpleNamespace(rank=rank, processes=workers, count=workers * devices)
        trainer = ReplicaTrainer.__new__(ReplicaTrainer)
        trainer._batch_size, trainer._replicas = batch_size, replicas
        counts, rows = trainer._rows(count)
        expected = [min(batch_size, count - at) for at in range(0, count, batch_size)]
        assert counts.tolist() == expected
        assert rows.shape == (len(expected), devices, 3)
        read = Workers(rank, workers).own_of_batches(np.arange(count), batch_size)
        steps = [[(read[a:b].tolist(), flag) for a, b, flag in step] for step in rows.tolist()]
        found.append(steps)
    return found


def test_seven_images_on_three_workers() -> None:
    assert images_of(7, 7, 3) == [
        [[([0, 1], 1)]],
        [[([2, 3], 1)]],
        [[([4, 5, 6], 1)]],
    ]


def test_a_last_batch_of_one_image() -> None:
    """A worker without a part computes with the image, and with the weight 0."""
    first, second = images_of(9, 4, 2)
    assert first == [[([0, 1], 1)], [([4, 5], 1)], [([8], 0)]]
    assert second == [[([2, 3], 1)], [([6, 7], 1)], [([8], 1)]]


@pytest.mark.parametrize(
    ("count", "batch_size", "workers", "devices"),
    [(7, 7, 1, 3), (2, 8, 1, 5), (2, 8, 5, 1), (13, 4, 2, 3), (1, 1, 3, 1), (10, 3, 2, 2)],
)
def test_each_image_is_in_one_part(count: int, batch_size: int, workers: int, devices: int) -> None:
    found = images_of(count, batch_size, workers, devices)
    for step in range(-(-count // batch_size)):
        parts = [part for worker in found for part in worker[step]]
        own = [image for images, has_part in parts if has_part for image in images]
        first = step * batch_size
        assert own == list(range(first, min(first + batch_size, count)))
        # No device computes with no image.
        assert all(images for images, _ in parts)


class Devices:
    """Devices that compute one after another, with the methods of a strategy."""

    def __init__(self, count: int) -> None:
        self.count, self.mirrored, self.strategy, self.calls = count, True, self, 0

    def run(self, call: Any) -> list[Any]:
        results = []
        for index in range(self.count):
            self.index = index
            results.append(call())
        return results

    def experimental_local_results(self, values: Any) -> Any:
        return values


@pytest.mark.parametrize(("count", "devices"), [(7, 3), (1, 2), (2, 5), (8, 2)])
def test_predictions_are_divided_among_devices(
    count: int, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas: Any = Devices(devices)
    sizes = []

    def model(images: Any, training: bool) -> Any:
        assert not training
        sizes.append(len(images))
        return images * 2

    context = lambda: SimpleNamespace(replica_id_in_sync_group=replicas.index)  # noqa: E731
    monkeypatch.setattr(tf.distribute, "get_replica_context", context)
    # The results of a strategy are one structure, with a value for each device in each leaf.
    monkeypatch.setattr(keras.tree, "map_structure", lambda call, value: call(value))
    trainer = ReplicaTrainer.__new__(ReplicaTrainer)
    trainer._replicas, trainer._model = replicas, model
    images = np.arange(count, dtype=np.float32)[:, None]
    found = trainer._outputs(tf.constant(images))
    np.testing.assert_array_equal(found.numpy(), images * 2)
    assert len(sizes) == devices
    assert min(sizes) >= 1
    assert max(sizes) <= -(-count // devices)
