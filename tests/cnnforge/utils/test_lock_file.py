"""Versions that differ from those of `requirements.lock`."""

from importlib import metadata
from pathlib import Path

import pytest

from cnnforge.cli.doctor.machine import _show_lock, _versions
from cnnforge.utils.lock_file import FILE_NAME, find_lock_file, other_versions, parse_lock

ROOT = Path(__file__).parents[3]


def test_a_checkout_has_the_file():
    assert find_lock_file() == ROOT / FILE_NAME


def test_only_other_versions_are_listed(tmp_path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / FILE_NAME
    path.write_text(
        f"# keras==0\nkeras==1.0 # old\nno-such==2\nnumpy=={metadata.version('numpy')}\n"
    )
    assert parse_lock(["-e .", "a @ file:///b", "a==1", ""]) == {"a": "1"}
    (found,) = other_versions(path)
    assert found == ("keras", metadata.version("keras"), "1.0")
    lock = {"file": "the.lock", "different": [found._asdict()]}
    assert _versions(lock) == "1 installed package differs from the lock"
    _show_lock(lock)
    error = capsys.readouterr().err
    assert f"keras {found.installed} is installed, and cnnforge was tested with 1.0" in error
    assert "pip install -c the.lock keras" in error
    assert _versions({"different": []}) == "those of requirements.lock"
    _show_lock(None)
    assert capsys.readouterr().err == ""
