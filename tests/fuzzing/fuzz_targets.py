"""The table of all targets."""

from __future__ import annotations

import fuzz_data
import fuzz_models
import fuzz_runs

TARGETS = [*fuzz_data.TARGETS, *fuzz_runs.TARGETS, *fuzz_models.TARGETS]
