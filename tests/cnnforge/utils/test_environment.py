"""The description of the machine."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from cnnforge.utils.environment import environment, git_commit, graphics, versions


def test_it_is_json_and_holds_the_callers_facts() -> None:
    found = json.loads(json.dumps(environment(seed=3, plugins=[])))
    assert found["seed"] == 3
    assert found["plugins"] == []
    assert {"keras", "tensorflow", "numba", "numpy"} <= set(found["packages"])
    assert found["cpu"]["cores"] >= found["cpu"]["usable_cores"] >= 1
    assert found["cpu"]["model"]
    assert found["threading_layer"]


def test_missing_packages_are_left_out() -> None:
    assert versions(["numpy", "no-such-package"]).keys() == {"numpy"}


def test_no_driver_means_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert graphics() == {"gpu": "none", "driver": "none"}


def test_a_driver_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert graphics() == {"gpu": ["NVIDIA H200"], "driver": "570.1"}


def test_a_driver_that_fails_means_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'no devices, sorry'\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert graphics()["gpu"] == "none"


def test_the_commit_of_a_folder(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None

    def git(*arguments: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = git_commit(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == {**clean, "dirty": True}
