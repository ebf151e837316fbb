"""Spoiled files for the readers of models, weights and plans."""

from pathlib import Path

import pytest
from fuzz_models import TARGETS
from fuzz_suite import check_target
from fuzz_target import Target


# Kernels are compiled for minutes.
@pytest.mark.parametrize(
    "target", [each for each in TARGETS if each.kind != "compiled"], ids=lambda each: each.name
)
def test_spoiled_files(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_target(target, tmp_path, monkeypatch)
