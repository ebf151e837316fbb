"""Made-up files, well-formed but odd, for all readers of foreign bytes.

CNNFORGE_FUZZ_INPUTS is the number of files of a reader of pure bytes.
"""

import os
from pathlib import Path

import pytest
from fuzz_suite import limited_tally
from fuzz_target import Files, Target, fresh, place
from fuzz_targets import TARGETS
from hypothesis import HealthCheck, Phase, given, settings
from made_up import cases

INPUTS = int(os.environ.get("CNNFORGE_FUZZ_INPUTS", "100"))
# Keras takes longer with each file.
_FEWER = {"keras": 10}


# Kernels are compiled for minutes.
@pytest.mark.parametrize(
    "target", [each for each in TARGETS if each.kind != "compiled"], ids=lambda each: each.name
)
def test_made_up_files(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with limited_tally(target, tmp_path, monkeypatch) as tally:

        @settings(
            max_examples=max(INPUTS // _FEWER.get(target.name, 1), 1),
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            # To explain a finding takes as long as to find it.
            phases=(Phase.generate, Phase.shrink),
        )
        @given(cases(target))
        def read(files: Files) -> None:
            tally.clear()
            finding = tally.run_files(files)
            if finding:
                place(fresh(tmp_path / "smallest"), {}, files)
            assert not finding, f"{finding}; the files are in {tmp_path / 'smallest'}"

        read()
