"""Questions of processes on other machines, which the process of the command answers.

A desk is a Ray actor. Processes of the cluster put questions to it, and wait for the answers. The
process of the command takes the questions, one after another, and answers them. So all decisions
are made in one place, also if Ray runs a library's controller on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from cnnforge.distributed.ray_call import cluster_lost, on_this_machine

_WAIT = 1.0
# Each process that waits for an answer holds one call.
_MAX_CALLS = 10_000


class _Desk:
    """The actor. Its methods are coroutines, so all processes can wait at a time."""

    def __init__(self) -> None:
        import asyncio

        self._questions: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._stopped = self._over = False

    async def ask(self, question: Mapping[str, Any]) -> Any:
        """Put a question, and wait for its answer."""
        import asyncio

        self._number += 1
        number = self._number
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._questions.put((number, question))
        return await self._answers[number]

    async def take(self) -> tuple[int, Any] | None:
        """Wait for a question. Return its number and the question; `None` if nobody has asked."""
        import asyncio

        try:
            return await asyncio.wait_for(self._questions.get(), _WAIT)
        except TimeoutError:
            return None

    async def answer(self, number: int, value: Any) -> None:
        """Answer a question."""
        waiting = self._answers.pop(number)
        if not waiting.done():
            waiting.set_result(value)

    async def stop(self) -> None:
        """Ask all processes to save their states and to end."""
        self._stopped = True

    async def end(self) -> None:
        """Let all processes end at once."""
        self._stopped = self._over = True

    async def state(self) -> tuple[bool, bool]:
        """Return whether `stop` was called, and whether `end` was called."""
        return self._stopped, self._over


class Desk:
    """The desk as the processes of the cluster see it. It can be sent to them.

    Args:
        actor: Handle of the actor.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def ask(self, **question: Any) -> Any:
        """Put a question, and wait for its answer."""
        import ray

        return ray.get(self._actor.ask.remote(question))

    def is_stopped(self) -> bool:
        """Return whether the process of the command wants all others to save and to end."""
        import ray

        return ray.get(self._actor.state.remote())[0]

    def is_over(self) -> bool:
        """Return whether all others are to end at once."""
        import ray

        return ray.get(self._actor.state.remote())[1]

    def stop(self) -> None:
        """Ask all processes to save their states and to end."""
        import ray

        # If the desk is lost, `OpenDesk.serve` raises an error.
        with suppress(Exception):
            ray.get(self._actor.stop.remote())

    def end(self) -> None:
        """Let all processes end at once."""
        import ray

        with suppress(Exception):
            ray.get(self._actor.end.remote())


class OpenDesk(Desk):
    """The desk as the process of the command sees it.

    Args:
        actor: Handle of the actor.
        answer: Function that gets a question and returns its answer.
        failed: Function that gets an error of `answer`.
    """

    def __init__(
        self,
        actor: Any,
        answer: Callable[[dict[str, Any]], Any],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(actor)
        self._answer = answer
        self._failed = failed
        self._taken: Any = None

    @property
    def for_others(self) -> Desk:
        """The desk that can be sent to other processes."""
        return Desk(self._actor)

    def serve(self, seconds: float) -> None:
        """Answer one question, if one is there or comes in time.

        The answer to a question whose answer raises an error is `None`.

        Args:
            seconds: Max time to wait for it.

        Raises:
            CnnforgeError: The desk is lost.
        """
        import ray

        try:
            if self._taken is None:
                self._taken = self._actor.take.remote()
            if not ray.wait([self._taken], timeout=seconds)[0]:
                return
            taken, self._taken = ray.get(self._taken), None
            if taken is None:
                return
            number, question = taken
            value = None
            try:
                value = self._answer(question)
            except Exception as error:
                self._failed(error)
            ray.get(self._actor.answer.remote(number, value))
        except Exception as error:
            raise cluster_lost(error) from error


@contextmanager
def open_desk(
    answer: Callable[[dict[str, Any]], Any], failed: Callable[[BaseException], None]
) -> Iterator[OpenDesk]:
    """Open a desk in the cluster. Its method `serve` answers the questions.

    Args:
        answer: Function that gets a question and returns its answer.
        failed: Function that gets an error of `answer`.

    Yields:
        The desk.
    """
    import ray

    actor: Any = (
        ray.remote(_Desk)
        .options(num_cpus=0, max_concurrency=_MAX_CALLS, scheduling_strategy=on_this_machine())
        .remote()
    )
    try:
        yield OpenDesk(actor, answer, failed)
    finally:
        with suppress(Exception):
            ray.kill(actor)
