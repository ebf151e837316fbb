"""Call a function in a process of Ray on the machine of the command.

Libraries of Ray wait for their workers in calls that cannot be ended. They must not wait in a
thread of the command: if a thread still uses Ray when the command disconnects, Ray ends the command
at once, with exit code 1 and without a message. A process of Ray can be killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cnnforge.distributed.ray_watch import ClusterWatch
from cnnforge.errors import CnnforgeError, one_line


class Call:
    """A call that runs in another process.

    Args:
        watch: It knows whether the cluster still answers.
        result: The reference of Ray to its result.
    """

    def __init__(self, watch: ClusterWatch, result: Any) -> None:
        self._watch = watch
        self._result = result

    def has_ended(self) -> bool:
        """Return whether it has returned, raised an error, or died.

        Raises:
            CnnforgeError: The cluster is lost.
        """
        import ray

        self._watch.check()
        try:
            ended, _ = ray.wait([self._result], timeout=0)
        except Exception as error:
            raise cluster_lost(error) from error
        return bool(ended)

    def check(self) -> None:
        """Wait for the end of the call.

        Raises:
            CnnforgeError: It has raised an error, or its process has died.
        """
        import ray

        try:
            error = ray.get(self._result)
        except ray.exceptions.RayError as lost:
            raise CnnforgeError(
                "Ray's process that directs the workers was killed, or the cluster is lost "
                f"({type(lost).__name__})"
            ) from lost
        if error is not None:
            raise CnnforgeError(error)


@contextmanager
def calling(
    watch: ClusterWatch, name: str, function: Callable[..., None], *arguments: Any
) -> Iterator[Call]:
    """Call a function in a process of Ray. The process is killed at the end of the block.

    Args:
        watch: It knows whether the cluster still answers.
        name: The name of what the function runs, for messages.
        function: The function. The process imports its module.
        *arguments: Its arguments. They are pickled.

    Yields:
        The call.
    """
    import ray

    caller: Any = (
        ray.remote(_Caller).options(num_cpus=0, scheduling_strategy=on_this_machine()).remote()
    )
    try:
        yield Call(watch, caller.call.remote(name, function, arguments))
    finally:
        # The processes that it has started end with it.
        with suppress(Exception):
            ray.kill(caller)


def cluster_lost(error: Exception) -> CnnforgeError:
    """Return the error for a command whose cluster has failed.

    Args:
        error: The error of Ray.
    """
    # Ray's messages have many lines.
    return CnnforgeError(f"the cluster is lost ({type(error).__name__})")


def on_this_machine() -> Any:
    """Return where Ray starts an actor that has to live as long as the command."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class _Caller:
    """The actor."""

    def call(
        self, name: str, function: Callable[..., None], arguments: tuple[Any, ...]
    ) -> str | None:
        """Call the function. Return the message of its error, or `None`."""
        try:
            function(*arguments)
        except Exception as error:
            return f"{name} has failed: {one_line(error)}"
        return None
