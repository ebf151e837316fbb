"""The lines about workers that the user sees."""

from typing import Any

import pytest

from cnnforge.distributed.ray_output import _parsed, lines_of

DIED = (
    "A worker died or was killed while executing a task by an unexpected system error. To "
    "troubleshoot the problem, check the logs for the dead worker. Lease ID: 0 Worker ID: 5 Node "
    "ID: a Worker IP address: {} Worker port: 4 Worker PID: 321 Worker exit type: SYSTEM_ERROR"
)

DEAD = ["warning: worker process 321 died: it was killed, or it crashed"]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (
            {"pid": 7, "ip": "127.0.0.1", "actor_name": "Trainer", "lines": ["a", "  ", "b "]},
            ["Trainer (process 7): a", "Trainer (process 7): b"],
        ),
        (
            {"pid": 7, "ip": "10.0.0.2", "task_name": "read", "lines": ["a"]},
            ["read (process 7 on 10.0.0.2): a"],
        ),
        (
            {"pid": 7, "actor_name": "MapWorker(MapBatches(PredictGroups))", "lines": ["a"]},
            ["PredictGroups (process 7): a"],
        ),
        (
            {"pid": 7, "task_name": "MapBatches(read_groups)", "lines": [":task_name:x", "a"]},
            ["read_groups (process 7): a"],
        ),
        (
            {"pid": "raylet", "lines": ["Task x failed. There are 2 retries remaining", "more"]},
            [],
        ),
        (
            {"pid": "raylet", "lines": [DIED.format("127.0.0.1")]},
            ["warning: worker process 321 died: it was killed, or it crashed"],
        ),
        (
            {"pid": "raylet", "lines": [DIED.format("10.0.0.2")]},
            ["warning: worker process 321 on 10.0.0.2 died: it was killed, or it crashed"],
        ),
        (
            {"pid": "raylet", "lines": ["1 Workers killed due to memory pressure (OOM)"]},
            ["warning: Ray has killed a worker, because the memory is nearly full"],
        ),
        ({"pid": 7, "lines": ["[2026-11-29 15:49:40,004 E 18863 18863] core.cc:2: Actor"]}, []),
        ({"pid": "autoscaler", "lines": ["Tip: use `ray status`"]}, []),
    ],
)
def test_lines(data: dict[str, Any], lines: list[str]) -> None:
    assert list(lines_of(data)) == lines


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("\x1b[36m(Trainer pid=7)\x1b[0m (a) b", ["Trainer (process 7): (a) b"]),
        ("(Trainer pid=7, ip=10.0.0.2) a", ["Trainer (process 7 on 10.0.0.2): a"]),
        ("(pid=7) a", ["worker (process 7): a"]),
        (f"\x1b[33m(raylet)\x1b[0m {DIED.format('127.0.0.1')}", DEAD),
        ("(raylet) Task x failed.", []),
        ("(autoscaler +3s) Tip: use `ray status`", []),
    ],
)
def test_lines_for_a_client(line: str, lines: list[str]) -> None:
    assert list(lines_of(_parsed(line))) == lines
