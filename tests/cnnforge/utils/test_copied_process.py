"""A copy of a process answers a request, and ends."""

import os
import subprocess
import sys
import time

import pytest

from cnnforge.utils.copied_process import CopiedProcess, can_copy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a copy is made under Linux only")


def test_a_copy_has_the_modules_of_this_process():
    assert can_copy(["a_module_that_is_not_imported"])
    assert not can_copy(["sys"])
    copy = CopiedProcess(lambda request: [request, "pytest" in sys.modules, os.getpid()])
    answer = copy.ask("a request", 60)
    assert answer == ["a request", True, copy.pid]
    assert answer[2] != os.getpid()


def test_a_copy_that_gives_no_answer():
    with pytest.raises(TimeoutError, match=r"no answer after 0\.1 s"):
        CopiedProcess(time.sleep).ask(60, 0.1)
    with pytest.raises(EOFError):
        CopiedProcess(os._exit).ask(3, 60)


def test_the_copy_ends_when_its_parent_crashes():
    """Otherwise it keeps the pipes open, and whoever reads them waits for ever."""
    code = (
        "import os; from cnnforge.utils.copied_process import CopiedProcess;"
        "print(CopiedProcess(id).pid, flush=True); os.kill(os.getpid(), 9)"
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


def _is_zombie(process):
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"
