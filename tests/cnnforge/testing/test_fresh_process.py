"""The process that opens saved models: a copy of one that has imported Keras, or a new one."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from cnnforge.testing import fresh_process

CHECK = """
    import keras
    from cnnforge.testing import LayerCase, fresh_process, layer_checks

    fresh_process.fork()

    def start():
        raise AssertionError("the copy did not open the models")

    fresh_process.start = start
    import halved_layer

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
    """Stands for a copied process."""

    def __init__(self, folder, answer):
        self.folder, self.answer = folder, answer

    def ask(self, request, timeout):
        assert request["folder"] == str(self.folder)
        if self.answer == "broken":
            raise BrokenPipeError
        if self.answer is None:
            raise TimeoutError
        (self.folder / "report.json").write_text(self.answer)


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
    monkeypatch.setattr(fresh_process, "_copies", [Copy(tmp_path, answer)])
    assert fresh_process._from_copy({"folder": str(tmp_path)}) == trusted
    assert (tmp_path / "report.json").exists() == trusted
    assert not fresh_process._copies


def test_without_a_copy(tmp_path):
    assert not fresh_process._from_copy({"folder": str(tmp_path)})


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made under Linux only")
def test_one_process_opens_the_models_of_several_layers(tmp_path, monkeypatch):
    monkeypatch.setattr(fresh_process, "_ready", [])
    assert fresh_process._in_fresh_process(tmp_path, 0, json.JSONDecoder) == []
    ((process, _),) = fresh_process._ready
    (tmp_path / "report.json").unlink()
    assert fresh_process._in_fresh_process(tmp_path, 0, json.JSONDecoder) == []
    assert fresh_process._waiting() is process
    (tmp_path / "report.json").unlink()
    # A fault of a copy may be one of copying, so the process itself opens the models, and ends.
    with pytest.raises(AssertionError, match=r"ends with status 1: FileNotFoundError: .*0\.npz"):
        fresh_process._in_fresh_process(tmp_path, 1, json.JSONDecoder)
    assert process.returncode == 1
    assert fresh_process._ready == []


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made under Linux only")
def test_a_process_that_has_many_files_open(tmp_path, monkeypatch):
    import resource

    monkeypatch.setattr(fresh_process, "_ready", [])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 1200:
        pytest.skip("this user cannot open 1200 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(1200, limits[0]), limits[1]))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert fresh_process._in_fresh_process(tmp_path, 0, json.JSONDecoder) == []
        # A copy has opened the models, so the process still waits.
        assert len(fresh_process._ready) == 1
    finally:
        for descriptor in opened:
            os.close(descriptor)
        fresh_process._end_waiting()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_process_of_another_environment_is_not_used(monkeypatch):
    monkeypatch.setattr(fresh_process, "_ready", [])
    first = fresh_process.start()
    assert fresh_process._waiting() is first
    monkeypatch.setenv("ACME", "1")
    second = fresh_process._waiting()
    assert second is not first
    assert first.returncode is not None
    assert fresh_process._ready[0][0] is second
    second.kill()
    second.communicate()


def test_a_second_start_ends_the_process_that_waits(monkeypatch):
    monkeypatch.setattr(fresh_process, "_ready", [])
    first = fresh_process.start()
    second = fresh_process.start()
    assert first.returncode is not None
    assert [process for process, _ in fresh_process._ready] == [second]
    fresh_process._end_waiting()
    assert second.returncode is not None
