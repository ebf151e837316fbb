"""Spoiled files for the readers of configurations and of the files of runs and sweeps."""

from pathlib import Path

import pytest
from fuzz_runs import TARGETS
from fuzz_suite import check_target
from fuzz_target import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.name)
def test_spoiled_files(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_target(target, tmp_path, monkeypatch)
