"""Predict the pictures of all requests in one thread, those that wait together as one batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from cnnforge.prediction import Predictor
from cnnforge.serving.limits import Limits, Refused
from cnnforge.serving.pictures import NAME, decode
from cnnforge.tasks import Row, Source

BATCH_SIZE = 16
"""Max number of pictures that are predicted together."""


@dataclass(frozen=True, eq=False)
class _Job:
    content: bytes
    values: Mapping[str, Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Row]


class Batches:
    """Predicts pictures with a model in a thread of its own.

    While the thread predicts, further pictures arrive, and become the next batch. So a picture
    never waits for others to arrive, and many clients get a higher rate than one.

    Args:
        predictor: The model.
        limits: The limits of the server.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self._predictor, self._limits = predictor, limits
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._waiting = 0
        # A daemon, so that the program can end while native code runs.
        threading.Thread(target=self._work, name="cnnforge-predict", daemon=True).start()

    def warm_up(self) -> None:
        """Predict a gray image, alone and in a full batch, so that kernels are compiled."""
        images = np.full((BATCH_SIZE, *self._predictor.image_shape), 128, np.uint8)
        for count in (1, BATCH_SIZE):
            self._predictor.predict_images(images[:count])

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place in the queue. The picture of a request is read only after that.

        Raises:
            Refused: There is not any place.
        """
        if self._waiting >= self._limits.waiting:
            raise Refused(503, f"{self._waiting} pictures are waiting: try again in a second")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def predict(self, content: bytes, values: Mapping[str, Any]) -> Row:
        """Predict a picture.

        Args:
            content: Content of the file.
            values: Value of each prediction option of the task, by name.

        Returns:
            The row of the picture.

        Raises:
            Refused: The picture cannot be read.
        """
        loop = asyncio.get_running_loop()
        job = _Job(content, values, loop, loop.create_future())
        self._jobs.put(job)
        return await job.answer

    def _work(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            while len(jobs) < BATCH_SIZE and not self._jobs.empty():
                jobs.append(self._jobs.get())
            # A client may have gone while its picture waited.
            jobs = [job for job in jobs if not job.answer.cancelled()]
            answers = self._answers(jobs)
            for loop in {job.loop for job in jobs}:
                done = [
                    (job.answer, answer)
                    for job, answer in zip(jobs, answers, strict=True)
                    if job.loop is loop
                ]
                # The loop is closed if the server was stopped.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_deliver, done)

    def _answers(self, jobs: Sequence[_Job]) -> list[Row | Exception]:
        answers: list[Any] = [None] * len(jobs)
        images, good = [], []
        for at, job in enumerate(jobs):
            try:
                images.append(self._decoded(job.content))
                good.append(at)
            except Exception as error:
                answers[at] = error
        if not good:
            return answers
        task = self._predictor.task
        try:
            outputs = self._predictor.predict_images(np.stack([pixels for pixels, _ in images]))
            sources = [Source(NAME, size) for _, size in images]
            # Requests may have different options, so rows are made for equal ones together.
            for values in _different([jobs[at].values for at in good]):
                rows = task.rows(outputs, sources, None, values)
                for at, row in zip(good, rows, strict=True):
                    if jobs[at].values == values:
                        answers[at] = row
        except Exception as error:
            for at in good:
                answers[at] = error
        return answers

    def _decoded(self, content: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        predictor = self._predictor
        return decode(content, predictor.image_shape, predictor.task.placing, self._limits)


def _different(values: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for each in values:
        if each not in found:
            found.append(each)
    return found


def _deliver(done: Sequence[tuple[asyncio.Future[Row], Row | Exception]]) -> None:
    for future, answer in done:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
