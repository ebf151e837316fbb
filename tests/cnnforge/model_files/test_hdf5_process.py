"""Another process reads HDF5 content first: nothing hangs, crashes or fills the memory here."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import h5py
import numpy as np
import pytest

from cnnforge.cli import main
from cnnforge.errors import RunError
from cnnforge.model_files import hdf5_process
from cnnforge.model_files.content import check_keras_file, check_weights_file

ENDLESS = r"is damaged \(HDF5 does not end after 1 s\)$"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_process, "_SECONDS", 1)


def weights(about: Callable[[h5py.Group], object] = lambda group: None) -> bytes:
    """Return the content of a `.weights.h5` file with one layer, as Keras writes it."""
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        group = root.create_group("layers/dense/vars")
        group.attrs["name"] = "dense"
        group.create_dataset("0", data=np.zeros((2, 3), np.float32))
        about(group)
    return file.getvalue()


def endless() -> bytes:
    """Return weights for which HDF5 does not end.

    The name of the layer is in a "global heap collection": 16 bytes of its own, and for each object
    8 bytes and the length. HDF5 goes on by the length, and this one is 0 after it is rounded up.
    """
    content = weights()
    at = content.index(b"GCOL") + 24
    assert content[at : at + 13] == b"\5\0\0\0\0\0\0\0dense"
    return content[:at] + b"\xff" * 8 + content[at + 8 :]


def unpacked_to(size: int) -> bytes:
    """Return weights with an array of 4 MB, whose packed values have another size."""
    packer = zlib.compressobj(1)
    chunk = b"".join(packer.compress(bytes(1 << 22)) for _ in range(size >> 22)) + packer.flush()

    def add(group: h5py.Group) -> None:
        array = group.create_dataset("1", (1 << 20,), "f4", chunks=(1 << 20,), compression="gzip")
        array.id.write_direct_chunk((0,), chunk)

    return weights(add)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.weights.h5"
    path.write_bytes(weights())
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.weights.h5"
    path.write_bytes(endless())
    return path


def process() -> int:
    """Return the number of the process that reads."""
    assert hdf5_process._reader.process is not None
    return hdf5_process._reader.process.pid


def test_content_for_which_hdf5_does_not_end(good: Path, bad: Path) -> None:
    with pytest.raises(RunError, match=f"^{bad} cannot be read as weights .* file {ENDLESS}"):
        check_weights_file(bad)
    check_weights_file(good)


def test_such_content_in_a_keras_file(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", endless())
    with pytest.raises(RunError, match=rf"model\.weights\.h5 {ENDLESS}"):
        check_keras_file(path)


def test_the_command_says_it_in_one_line(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lenet", "--init-from", str(bad), "--epochs", "1"]) == 1
    assert f"{bad} cannot be read" in capsys.readouterr().err.splitlines()[-1]


def test_content_that_fills_the_memory(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.weights.h5"
    path.write_bytes(unpacked_to(600 << 20))
    with pytest.raises(RunError, match=r"the file is damaged \(OSError: .*(filter|memory)"):
        check_weights_file(path)
    check_weights_file(good)
    path.write_bytes(unpacked_to(4 << 20))
    check_weights_file(path)


def test_all_values_and_attributes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"

    def add(group: h5py.Group) -> None:
        group.create_dataset("1", (4, 300), "f4", chunks=(4, 3), compression="gzip")[...] = 1

    content = weights(add)
    start = content.rindex(b"\x78\x5e" if b"\x78\x5e" in content else b"\x78\x9c")
    path.write_bytes(content[:start] + b"\0" * 8 + content[start + 8 :])
    with pytest.raises(RunError, match=r"the file is damaged \(OSError"):
        check_weights_file(path)


def test_the_process_stays(good: Path) -> None:
    check_weights_file(good)
    first = process()
    for _ in range(3):
        check_weights_file(good)
    assert process() == first


# Content that was read before may have damaged the memory, so that good content lets HDF5 crash.
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_was_ended_starts_again(good: Path, number: int) -> None:
    check_weights_file(good)
    first = process()
    os.kill(first, number)
    check_weights_file(good)
    assert process() != first


def test_a_file_that_replaces_a_damaged_one_is_read(good: Path) -> None:
    content = good.read_bytes()
    for _ in range(3):
        good.write_bytes(content[:-300])
        with pytest.raises(RunError, match="is damaged"):
            check_weights_file(good)
        good.write_bytes(content)
        check_weights_file(good)


def test_threads_wait_for_each_other(good: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"\0" * 1000)

    def problem(number: int) -> str:
        try:
            check_weights_file((good, damaged)[number % 2])
        except RunError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(problem, range(60)))
    assert all(("damaged.weights.h5 cannot" in each) == bool(i % 2) for i, each in enumerate(found))
    assert not any(found[::2])


def test_ctrl_c_ends_the_process(good: Path, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hdf5_process, "_SECONDS", 100)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            check_weights_file(bad)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hdf5_process._reader.process is None
    check_weights_file(good)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), 11)", r"is damaged \(HDF5 crashes with the exit code -11\)$"),
        ("os.kill(os.getpid(), 9)", "be checked: the process that reads it was ended twice; free"),
        ("import no_such_module", "be checked: the process that reads it was ended twice; free"),
        ("time.sleep(100)", r"is damaged \(HDF5 does not end after 1 s\)$"),
    ],
)
def test_how_the_process_may_end(
    code: str, message: str, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"import os, sys, time; sys.stdin.readline(); {code}"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    hdf5_process._reader.end()
    monkeypatch.setattr(hdf5_process, "_start", start)
    monkeypatch.setattr(hdf5_process, "_MORE_SECONDS", -9 if "sleep" in code else 600)
    with pytest.raises(RunError, match=message) as caught:
        check_weights_file(good)
    assert "\n" not in str(caught.value)


def test_a_process_that_cannot_start(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5_process._reader.end()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(RunError, match=r"cannot be checked: no process can be started, .*python"):
        check_weights_file(good)
    monkeypatch.undo()
    check_weights_file(good)

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RunError, match="cannot be checked: no process can be started, can't start"):
        check_weights_file(good)


def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A module of this name in the working directory is not imported.
    Path("h5py.py").write_text("1 / 0\n")
    hdf5_process._reader.end()
    for name in ("a\nb.weights.h5", "\udcff.weights.h5", "é😀.weights.h5"):
        Path(name).write_bytes(weights())
        check_weights_file(Path(name))


COPY = """
    import json, os, sys
    from pathlib import Path
    from cnnforge.model_files import hdf5_process
    from cnnforge.model_files.content import check_weights_file

    path = Path(sys.argv[1])
    assert hdf5_process._reader.process is None
    check_weights_file(path)
    first = hdf5_process._reader.process.pid
    copy = os.fork()
    if not copy:
        assert hdf5_process._reader.process is None
        check_weights_file(path)
        assert hdf5_process._reader.process.pid != first
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 7
    check_weights_file(path)
    assert hdf5_process._reader.process.pid == first
    assert not {"h5py", "keras", "tensorflow"} & set(sys.modules)
    modules = Path(f"/proc/{first}/maps")
    assert not modules.exists() or "tensorflow" not in modules.read_text()
    print(first)
"""


def test_a_copy_of_this_process_has_its_own(good: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(COPY), str(good)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    # The process ends with the one that has started it.
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
