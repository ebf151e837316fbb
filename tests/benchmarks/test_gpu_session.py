"""Tests of workers that die, hang, run out of time, or print other text."""

import json
import sys
import time

import pytest
from gpu import session
from gpu.ceilings import H200
from gpu.measure import Measured

ABOUT = {"gpu": "made up"}
# A small worker. Each key is the action of the worker at that row.
WORKER = """
import json, os, sys, time
asked = json.loads(sys.argv[1])
say = lambda message: print(json.dumps(message), flush=True)
print("a library says hello", flush=True)
if "nostart" in asked["keys"][0]:
    sys.exit(7)
say({"about": {"gpu": "made up"}, "ceilings": asked["ceilings"] or dict(
    bytes=1.0, float32=2.0, tf32=3.0, bfloat16=4.0)})
for key in asked["keys"]:
    say({"begin": key})
    if "dies" in key: os._exit(139)
    if "hangs" in key: time.sleep(60)
    if "stops" in key: break
    say({"row": dict(key=key, verdict="right", ours=[1, 1, 1])})
say({"done": True})
"""


def run(keys, **more):
    found, seen, started = session.Session(), [], []

    def command(left, known):
        started.append((list(left), known))
        asked = {"keys": list(left), "ceilings": vars(known) if known else None}
        return [sys.executable, "-c", WORKER, json.dumps(asked)]

    session.measure_all(found, keys, command, lambda now, row: seen.append(row), **more)
    return found, seen, started


def verdicts(found):
    return {row.key: row.verdict for row in found.rows}


def test_all_rows_are_measured(capsys):
    found, seen, started = run(["a", "b"])
    assert verdicts(found) == {"a": "right", "b": "right"}
    assert found.about == ABOUT
    assert found.ceilings.tf32 == 3.0
    assert [row and row.key for row in seen] == [None, "a", "b"]
    assert len(started) == 1
    assert found.problems == found.not_measured == []
    assert "a library says hello" in capsys.readouterr().err


def test_a_row_that_ends_its_process():
    found, _, started = run(["a", "dies", "b"])
    assert verdicts(found) == {
        "a": "right",
        "dies": "FAILED: its process ended with 139",
        "b": "right",
    }
    assert started[1][0] == ["b"]
    # The peak rates are measured once.
    assert started[1][1] == found.ceilings
    assert found.problems == ["dies: its process ended with 139"]


def test_a_row_that_hangs():
    begun = time.monotonic()
    found, _, _ = run(["hangs", "b"], patience=2.0)
    assert time.monotonic() - begun < 20
    assert verdicts(found) == {"hangs": "FAILED: no answer for 2 s", "b": "right"}


def test_a_worker_that_does_not_start():
    found, _, started = run(["nostart", "b"])
    assert found.rows == []
    assert len(started) == 2
    assert found.not_measured == ["nostart", "b"]
    assert found.problems == ["the worker: its process ended with 7"] * 2


def test_no_time_is_left():
    found, _, started = run(["a", "stops", "b"])
    assert verdicts(found) == {"a": "right"}
    assert found.not_measured == ["stops", "b"]
    assert len(started) == 1
    found, _, started = run(["a"], deadline=time.monotonic() - 1)
    assert started == []
    assert found.not_measured == ["a"]


class Device:
    def __init__(self, works=True):
        self.works = lambda: works

    def about(self):
        return ABOUT

    def ceilings(self):
        return H200


def work(measure, works=True, **more):
    said = []
    code = session.work(["a", "b"], Device(works), str.upper, measure, said.append, **more)
    return code, said


def test_messages_of_a_worker():
    code, said = work(lambda row, device, ceilings: Measured(row.lower()))
    assert code == 0
    assert said[0] == {"about": ABOUT, "ceilings": vars(H200)}
    assert [next(iter(message)) for message in said[1:]] == ["begin", "row", "begin", "row", "done"]
    code, said = work(lambda *_: Measured("a"), seconds=-1.0)
    assert [next(iter(message)) for message in said] == ["about", "done"]


def test_an_error_that_spoils_the_device_ends_the_worker():
    def broken(row, device, ceilings):
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS\n  somewhere")

    code, said = work(broken, works=False)
    assert code == 3
    verdict = "FAILED: RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS somewhere"
    assert said[-1]["row"]["verdict"] == verdict
    # After another error it continues, because a new worker costs the time of several rows.
    code, said = work(broken)
    assert code == 0
    assert [message["row"]["verdict"] for message in said if "row" in message] == [verdict] * 2


@pytest.mark.parametrize("keys", [[], ["a"]])
def test_no_worker_starts_without_rows(keys):
    _, _, started = run(keys)
    assert len(started) == len(keys)
