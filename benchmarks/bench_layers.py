"""Time built-in layers and the Keras layers that they replace (``make bench`` runs this)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from layer_cases import SHORT, every_case

ROUNDS, SHORT_ROUNDS = 31, 15
# Maximum seconds for all rounds of one case. A slow case has fewer rounds.
LIMIT, SHORT_LIMIT = 8.0, 3.0
CASES = [
    pytest.param(case, id=case.name, marks=[pytest.mark.short] if case.name in SHORT else [])
    for case in every_case()
]


@pytest.mark.parametrize("case", CASES)
def test_layer(
    layer_benchmark: Callable[..., Any],
    results: Callable[..., None],
    pytestconfig: pytest.Config,
    case: Any,
) -> None:
    if pytestconfig.getoption("cnnforge_gate"):
        short = pytestconfig.getoption("short")
        rounds, limit = (SHORT_ROUNDS, SHORT_LIMIT) if short else (ROUNDS, LIMIT)
        layer_benchmark(case, rounds=rounds, limit=limit)
    else:
        from cnnforge.benchmarking import first_calls

        first = first_calls(case)
        results(layer_benchmark(case, rounds=21, limit=5, first=first, torch=True))
