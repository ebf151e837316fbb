"""An op is imported in a process without frameworks."""

import sys

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
        clean_import.start()
        clean_import.start()
        assert list(clean_import._ready) == [folders]
    assert clean_import.import_error("light_op:op", folders) == ""
    assert not clean_import._ready


def test_reasons(folders):
    assert clean_import.import_error("heavy_op:op", folders) == "it imports keras"
    assert "no_such_op" in clean_import.import_error("no_such_op:op", folders)
    expected = "exit code 3 of the process that imports it"
    assert clean_import.import_error("ending_op:op", folders) == expected
