"""The memory that is left: of the machine, of control groups, and of the limits of a process."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from cnnforge.utils import available_memory as module
from cnnforge.utils.available_memory import available_memory, in_words, is_out_of_memory

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return `write(files)`, which writes files of a machine without limits, and its root."""
    monkeypatch.setattr(module, "resource", None)

    def write(**files: str) -> Path:
        for name, text in {
            "proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 4096 kB\n",
            **files,
        }.items():
            path = tmp_path / name.replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_this_machine():
    left = available_memory()
    # Unknown outside Linux.
    assert left is None or left > MIB


def test_the_machine_alone(machine):
    assert available_memory(machine()) == 4 * MIB


def test_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "resource", None)
    assert available_memory(tmp_path) is None


def test_a_control_group_of_version_2(machine):
    files = {
        "proc/self/cgroup": "0::/box/inner\n",
        "sys/fs/cgroup/box/inner/memory.max": "max\n",
        "sys/fs/cgroup/box/inner/memory.current": "5\n",
        "sys/fs/cgroup/box/memory.max": f"{3 * MIB}\n",
        "sys/fs/cgroup/box/memory.current": f"{2 * MIB}\n",
        "sys/fs/cgroup/box/memory.stat": f"anon 7\ninactive_file {MIB // 2}\n",
    }
    assert available_memory(machine(**files)) == 3 * MIB // 2


def test_a_container_shows_its_group_as_the_outermost_one(machine):
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/docker/0123\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * MIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{MIB}\n",
    }
    assert available_memory(machine(**files)) == MIB


def test_a_group_of_version_1_without_a_limit(machine):
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{MIB}\n",
    }
    assert available_memory(machine(**files)) == 4 * MIB


def test_a_group_that_is_full(machine):
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{MIB}\n",
        "sys/fs/cgroup/memory.current": f"{MIB + 5}\n",
    }
    assert available_memory(machine(**files)) == 0


@pytest.mark.parametrize(
    ("limits", "left"),
    [((2 * MIB, -1), MIB), ((-1, MIB), 3 * MIB // 4), ((-1, -1), 4 * MIB), ((KIB, -1), 0)],
)
def test_limits_of_the_process(machine, monkeypatch, limits, left):
    root = machine(**{"proc/self/status": "Name: x\nVmSize:\t 1024 kB\nVmData:\t  256 kB\n"})
    fake = SimpleNamespace(
        RLIMIT_AS=0, RLIMIT_DATA=1, RLIM_INFINITY=-1, getrlimit=lambda kind: (limits[kind], -1)
    )
    monkeypatch.setattr(module, "resource", fake)
    assert available_memory(root) == left


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "1 MB"),
        (2.4e6, "2 MB"),
        (526e6, "526 MB"),
        (1.24e9, "1.2 GB"),
        (49.9e9, "50 GB"),
        (2e15, "2,000 TB"),
    ],
)
def test_in_words(size, text):
    assert in_words(size) == text


def test_an_error_of_the_backend():
    with pytest.raises(Exception, match=r"OOM|memory") as raised:
        keras.ops.zeros((10**6, 10**6, 100))
    assert is_out_of_memory(raised.value)


def test_errors_for_lack_of_memory():
    with pytest.raises(MemoryError) as raised:
        np.zeros((10**7, 10**7))
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(ValueError("memory"))
    assert not is_out_of_memory(RuntimeError("memory"))
