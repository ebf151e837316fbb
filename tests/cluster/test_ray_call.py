"""Calls in a process of Ray: what they ask, how they fail, and that they can be left."""

from collections.abc import Callable

import pytest
from local_ray import Command

Start = Callable[..., Command]

CALLING = """
import os, sys, time
from cnnforge.distributed.desk import open_desk
from cnnforge.distributed.ray_call import calling
from cnnforge.distributed.ray_start import cluster
from cnnforge.errors import CnnforgeError

def asks(desk):
    assert [desk.ask(number=number) for number in range(3)] == [0, 2, None]
    raise ValueError("it has three answers")

def never_ends(desk):
    import ray

    desk.ask(number=os.getpid())
    ray.get(ray.remote(num_cpus=9999)(len).remote(""))

def answer(asked):
    if asked["number"] == 2:
        raise CnnforgeError("no number may be two")
    numbers.append(asked["number"])
    return 2 * asked["number"]

numbers, errors = [], []
with cluster(workers=1) as ray_cluster, open_desk(answer, errors.append) as desk:
    with calling(ray_cluster.watch, "It", {function}, desk.for_others) as call:
        while not call.has_ended() and not {left}:
            desk.serve(0.1)
            {more}
        if not {left}:
            try:
                call.check()
            except CnnforgeError as error:
                errors.append(error)
print(*errors, sep="; ")
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"function": "asks", "left": "False", "more": "pass"},
            "no number may be two; It has failed: ValueError: it has three answers",
        ),
        # Ray ends a command with exit code 1 if one of its threads still uses Ray.
        ({"function": "never_ends", "left": "numbers", "more": "pass"}, ""),
        (
            {
                "function": "never_ends",
                "left": "False",
                "more": "while numbers: os.kill(numbers.pop(), 9)",
            },
            "Ray's process that directs the workers was killed, or the cluster is lost "
            "(ActorDiedError)",
        ),
    ],
    ids=["asks", "left", "killed"],
)
def test_a_call(command: Start, values: dict[str, str], expected: str) -> None:
    started = command("-c", CALLING.format(**values))
    assert started.wait() == 5, started.err
    # The message of an error ends with its place.
    assert started.out.strip().startswith(expected)
    assert started.out.strip() or not expected
    assert not started.left()
