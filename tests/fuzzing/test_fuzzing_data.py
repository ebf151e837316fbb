"""Spoiled files for the readers of data."""

from pathlib import Path

import pytest
from fuzz_data import TARGETS
from fuzz_suite import check_target
from fuzz_target import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.name)
def test_spoiled_files(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_target(target, tmp_path, monkeypatch)
