"""Groups of images that workers read and predict, in this process and without Ray."""

import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import PicturePart, PictureParts, SkippedFile, stored_content
from cnnforge.distributed import predict_worker, ray_predict
from cnnforge.distributed.predict_worker import (
    Failure,
    Group,
    PredictGroups,
    PredictionJob,
    read_groups,
)
from cnnforge.distributed.ray_start import Cluster
from cnnforge.distributed.ray_watch import ClusterWatch
from cnnforge.errors import CnnforgeError
from cnnforge.prediction import FileInputs, Predictor
from cnnforge.prediction.part_inputs import PartInputs
from cnnforge.tasks import Row
from cnnforge.tasks.classification import Classification
from cnnforge.utils.processors import THREAD_VARIABLES

SHAPE = (3, 3, 1)
JOB = PredictionJob("run", SHAPE, "stretch", {"top_k": 2})
LOCAL = Cluster("local", 2, ClusterWatch("", print))


class Bright:
    """A model that tells bright images from dark ones."""

    image_shape = SHAPE

    def predict(self, images: np.ndarray) -> np.ndarray:
        level = images.reshape(len(images), -1).mean(1).astype(np.float32) / 255
        return np.stack([level, 1 - level], 1)


PREDICTOR = Predictor(Bright(), Classification(("bright", "dark")))


@pytest.fixture(autouse=True)
def _threads_of_this_process_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker sets these variables. Numba refuses another number after its threads have started.
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")


@pytest.fixture(autouse=True)
def _few_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_worker, "load_predictor", lambda *_, **__: (PREDICTOR, Path()))
    monkeypatch.setattr("cnnforge.prediction.read_images.MAX_BYTES", 4 * 9)


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Do the work of the workers in this process. Return the list of the numbers of groups."""
    seen: list[int] = []
    monkeypatch.setattr(ray_predict, "_results", partial(results, seen))
    return seen


def results(
    seen: list[int], cluster: Cluster, job: PredictionJob, groups: Sequence[Group], workers: int
) -> Iterator[Any]:
    model = PredictGroups(job, 1)
    found = []
    for number, group in enumerate(groups):
        seen.append(number)
        for batch in read_groups({"number": [number], "group": [pickle.dumps(group)]}, job):
            columns = model(batch)
            value = pickle.loads(columns["content"][0])
            if isinstance(value, Failure):
                raise CnnforgeError(value.message)
            key = columns["number"][0], columns["piece"][0]
            found.append((key, ray_predict._Results(columns["last"][0], value)))
    # Another order, and some results again, as after the death of a worker.
    yield from found[1:]
    yield from found


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileInputs:
    monkeypatch.chdir(tmp_path)
    for number in range(11):
        Image.new("L", (5, 4), 20 * number).save(f"{number}.png")
    Path("4.png").write_bytes(b"<html>")
    Path("9.png").unlink()
    return FileInputs(tuple(f"{n}.png" for n in range(11)), (("gone", "no such file"),))


@pytest.mark.parametrize("limit", [None, 1, 6, 11, 12, 40])
def test_files_have_the_rows_of_one_process(
    files: FileInputs, in_order: list[int], limit: int | None
) -> None:
    expected = list(files.predict(PREDICTOR, limit, top_k=2))
    found = list(ray_predict.predict_on(LOCAL, JOB, files, 2, limit))
    assert found == expected
    assert len(found) == min(limit or 12, 12)


def images(first: int, count: int) -> Iterator[Any]:
    for number in range(first, first + count):
        name = f"x.parquet/row {number}"
        if number == 6:
            yield SkippedFile(name, "the cell has no image")
        elif number == 2:
            yield stored_content(name, b"<html>")
        else:
            content = Path(f"{number % 4}.png").read_bytes()
            yield stored_content(name, content)


@pytest.mark.parametrize("limit", [None, 3, 12, 13, 14])
def test_images_of_parts_that_cannot_be_read_have_the_last_rows(
    files: FileInputs, in_order: list[int], limit: int | None
) -> None:
    parts = [PicturePart(9, partial(images, 0, 9)), PicturePart(5, partial(images, 9, 5))]
    inputs = PartInputs(PictureParts("parquet:x", parts))
    assert len(inputs) == 14
    assert inputs.summary.line == "data: 14 images"
    rows = list(ray_predict.predict_on(LOCAL, JOB, inputs, 2, limit))
    good = [number for number in range(14) if number not in (2, 6)]
    names = [f"x.parquet/row {number}" for number in [*good, 2, 6]]
    assert [row.name for row in rows] == names[:limit]
    errors = [row.error for row in rows if row.error]
    assert (
        errors
        == ["not an image that can be read; it begins with b'<html>'", "the cell has no image"][
            : len(errors)
        ]
    )
    assert len(errors) == max(0, min(limit or 14, 14) - 12)


def test_a_group_that_is_missing_is_an_error(
    files: FileInputs, in_order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ray_predict._results

    def without(*arguments: Any) -> Iterator[Any]:
        return (each for each in whole(*arguments) if each[0][0] != 1)

    monkeypatch.setattr(ray_predict, "_results", without)
    with pytest.raises(CnnforgeError, match="have predicted 1 of 3 groups of images: start the"):
        list(ray_predict.predict_on(LOCAL, JOB, files, 2))


def test_a_worker_that_cannot_open_the_model_names_itself(
    files: FileInputs, in_order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise CnnforgeError("there is no run /shared/run")

    monkeypatch.setattr(predict_worker, "load_predictor", fails)
    with pytest.raises(CnnforgeError, match=r"^there is no run /shared/run \(worker process \d+ o"):
        list(ray_predict.predict_on(LOCAL, JOB, files, 2))


def test_an_error_while_reading_is_told(in_order: list[int]) -> None:
    failing = Group(partial(_fails), "/")
    found = list(read_groups({"number": [3], "group": [pickle.dumps(failing)]}, JOB))
    (value,) = (pickle.loads(batch["content"][0]) for batch in found)
    assert isinstance(value, Failure)
    assert "the disk is gone" in value.message
    assert pickle.loads(PredictGroups(JOB, 1)(found[0])["content"][0]) == value


def _fails() -> Iterator[Row]:
    raise OSError("the disk is gone")
    yield
