"""The process that opens saved models: a copy of one that has imported Keras, or a new one."""

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from cnnforge.testing import fresh_process

CHECK = """
    import keras
    from cnnforge.testing import LayerCase, fresh_process, layer_checks

    assert fresh_process.can_fork(["halved_layer"])
    fresh_process.fork()

    def start():
        raise AssertionError("the copy did not open the models")

    fresh_process.start = start
    import halved_layer

    assert not fresh_process.can_fork(["halved_layer"])
    cases = [LayerCase(arguments={}, input_shape=(2, 3, 3, 1))]
    checks = layer_checks(halved_layer.Halved, cases)
    print([check.result() for check in checks if check.kind == "save_and_load"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a copy is made under Linux only")
def test_a_copy_of_a_process_opens_the_models():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHECK)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[('ok', '')]"


class Copy:
    """Stands for a copied process and the connection to it."""

    def __init__(self, folder, answer):
        self.folder, self.answer, self.killed = folder, answer, False

    def send(self, request):
        assert request["folder"] == str(self.folder)
        if self.answer == "broken":
            raise BrokenPipeError
        if self.answer is not None:
            (self.folder / "report.json").write_text(self.answer)

    def poll(self, seconds):
        return self.answer is not None

    def recv(self):
        return "done"

    def kill(self):
        self.killed = True


@pytest.mark.parametrize(
    ("answer", "trusted"),
    [
        (json.dumps(["", ""]), True),
        (json.dumps(["", "its outputs differ"]), False),
        ("[", False),
        ("broken", False),
        (None, False),
    ],
)
def test_a_copy_is_trusted_only_if_it_finds_no_fault(tmp_path, monkeypatch, answer, trusted):
    copy = Copy(tmp_path, answer)
    monkeypatch.setattr(fresh_process, "_forked", [(copy, copy)])
    assert fresh_process._from_fork({"folder": str(tmp_path)}) == trusted
    assert (tmp_path / "report.json").exists() == trusted
    assert copy.killed
    assert not fresh_process._forked


def test_without_a_copy(tmp_path):
    assert not fresh_process._from_fork({"folder": str(tmp_path)})


def test_the_copy_ends_when_its_parent_crashes():
    """Otherwise it keeps the pipes open, and whoever reads them waits for ever."""
    code = (
        "import os; from cnnforge.testing import fresh_process; fresh_process.fork();"
        "print(fresh_process._forked[0][0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9
    # `run` ends only if nobody holds the pipes. The copy has closed them, so look at it, too.
    copy = int(done.stdout)
    for _ in range(100):
        if not os.path.exists(f"/proc/{copy}") or _is_zombie(copy):
            return
        time.sleep(0.05)
    raise AssertionError("the copy of a process that has crashed still runs")


def _is_zombie(process: int) -> bool:
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"
