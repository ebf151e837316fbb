"""TF_CONFIG: who trains together, and what is wrong with it."""

import json
from typing import Any

import pytest

from cnnforge.distributed.joining import Joining
from cnnforge.distributed.tf_config import Cluster, read_cluster
from cnnforge.errors import UsageError

TWO = ["a:2222", "b:2222"]


def variable(cluster: Any = None, task: Any = None) -> dict[str, str]:
    cluster = {"worker": TWO} if cluster is None else cluster
    task = {"type": "worker", "index": 1} if task is None else task
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def test_it_names_the_workers() -> None:
    assert read_cluster(variable()) == Cluster(("a:2222", "b:2222"), 1)
    chief = {"worker": ["b:1", "[::1]:2"], "chief": ["a:1"]}
    found = read_cluster(variable(chief, {"type": "worker", "index": "1"}))
    assert found == Cluster(("a:1", "b:1", "[::1]:2"), 2)
    assert found.host_and_port(2) == ("::1", 2)
    first = read_cluster(variable(chief, {"type": "chief", "index": 0}))
    assert first is not None
    assert first.rank == 0


def test_processes_of_one_host_are_counted() -> None:
    cluster = Cluster(("a:1", "b:1", "a:2", "a:3"), 3)
    assert cluster.index_on_host == 2


@pytest.mark.parametrize("text", ["", " ", "{}"])
def test_it_may_be_empty(text: str) -> None:
    assert read_cluster({"TF_CONFIG": text}) is None
    assert read_cluster({}) is None


def test_one_process_trains_alone() -> None:
    one = variable({"worker": ["a:1"]}, {"type": "worker", "index": 0})
    assert read_cluster(one) is None


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"TF_CONFIG": "a:1,b:1"}, "is not JSON"),
        ({"TF_CONFIG": "[]"}, "has no 'cluster' with names and values"),
        ({"TF_CONFIG": '{"cluster": 3}'}, "has no 'cluster' with names and values"),
        ({"TF_CONFIG": json.dumps({"cluster": {"worker": TWO}})}, "has no 'task'"),
        (variable({"ps": ["a:1"], "worker": TWO}), "has the job 'ps'"),
        (variable({"worker": "a:1"}), "which is not a list"),
        (variable({"worker": ["a:1", "b"]}), "has the address 'b', which is not HOST:PORT"),
        (variable({"worker": ["a:1", 7]}), "has the address 7, which is not HOST:PORT"),
        (variable({"worker": ["a:1", "b:70000"]}), "'b:70000', which is not HOST:PORT"),
        (variable({"worker": ["a:1", "a:1"]}), "has one address twice"),
        (variable(task={"type": "worker", "index": 2}), "which is not one of its 2 processes"),
        (variable(task={"type": "worker", "index": -1}), "which is not one of its 2 processes"),
        (variable(task={"type": "worker", "index": True}), "which is not one of its 2 processes"),
        (variable(task={"type": ["worker"], "index": 0}), "which is not one of its 2 processes"),
        (variable(task={"type": "worker"}), "which is not one of its 2 processes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(environment: dict[str, str], fault: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_cluster(environment)
    message = str(raised.value)
    assert message.startswith("the environment variable TF_CONFIG ")
    assert fault in message
    assert "unset TF_CONFIG" in message
    assert "\n" not in message


def test_devices_are_a_number_or_all() -> None:
    for devices in ("0", "-1", "x", "1.5", ""):
        with pytest.raises(UsageError, match="expected a number from 1, or all"):
            Joining.checked(devices, 1.0, {})
    assert not Joining.checked("all", 1.0, {}).alone
    assert Joining.checked(None, 1.0, {}).alone


def test_devices_and_several_processes_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="leave out --devices, or unset TF_CONFIG"):
        Joining.checked("2", 1.0, variable())
