"""An op is imported in a process without frameworks."""

import sys
import types

import pytest

from cnnforge.utils import clean_import


@pytest.fixture
def folders(tmp_path, monkeypatch):
    (tmp_path / "light_op.py").write_text("op = 1")
    (tmp_path / "heavy_op.py").write_text("import keras\nop = 1")
    (tmp_path / "ending_op.py").write_text("import os\nos._exit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    # Another test may have left a process that is ready.
    monkeypatch.setattr(clean_import, "_ready", {})
    return tuple(sys.path)


@pytest.mark.parametrize("early", [False, True])
def test_the_reason(folders, early):
    clean_import.import_error.cache_clear()
    if early:
        if sys.platform != "linux":
            pytest.skip("a copy is made under Linux only")
        clean_import.start()
        clean_import.start()
        assert list(clean_import._ready) == [folders]
    assert clean_import.import_error("light_op:op", folders) == ""
    assert not clean_import._ready


def test_t24_a_module_in_the_working_directory_is_not_imported(folders, tmp_path, monkeypatch):
    clean_import.import_error.cache_clear()
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json", "cnnforge", "light_op"):
        (here / f"{name}.py").write_text("open('marker', 'w')")
    monkeypatch.chdir(here)
    assert clean_import.import_error("light_op:op", folders) == ""
    assert not (here / "marker").exists()


def test_reasons(folders):
    assert clean_import.import_error("heavy_op:op", folders) == "it imports keras"
    assert "no_such_op" in clean_import.import_error("no_such_op:op", folders)
    expected = "exit code 3 of the process that imports it"
    assert clean_import.import_error("ending_op:op", folders) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="a copy is made under Linux only")
def test_a_copy_is_trusted_only_if_it_finds_no_fault(folders):
    # This process has the module already, so the copy finds no fault.
    sys.modules["missing_op"] = types.SimpleNamespace(op=1)
    clean_import.start()
    del sys.modules["missing_op"]
    assert clean_import.import_error("missing_op:op", folders) == ""
    clean_import.start()
    assert clean_import.import_error("ending_op:op", folders) == (
        "exit code 3 of the process that imports it"
    )
    assert not clean_import._ready


def test_a_copy_needs_a_process_without_frameworks(monkeypatch):
    for name in ("keras", "tensorflow", "torch", "jax"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert clean_import.can_start() == (sys.platform == "linux")
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace())
    assert not clean_import.can_start()
