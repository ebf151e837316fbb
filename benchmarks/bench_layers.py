"""Every pair of layer_cases.py under pytest-benchmark; run it with ``make bench``."""

from __future__ import annotations

from typing import Any

import pytest
from layer_cases import PAIRS, PASSES


@pytest.mark.parametrize("implementation", ["numba", "keras"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("pair", PAIRS)
def test_layer(benchmark: Any, measured: Any, pair: str, which: str, implementation: str) -> None:
    from cnnforge.conversion.workloads import timed_passes

    measurement = measured(pair)
    result = next(it for it in measurement.passes if it.name == which)
    workload = measurement.case.workload
    benchmark.group = f"{pair}.{which}"
    benchmark.extra_info.update(
        shape=list(workload.shape),
        flops=result.work.flops,
        bytes=result.work.bytes,
        ratio=result.ratio and dict(zip(("median", "p20", "p80"), result.ratio, strict=True)),
    )
    kind = workload.kind if implementation == "numba" else workload.reference
    timed = timed_passes(workload, kind)
    function = timed.forward if which == "forward" else timed.full
    function()  # Traced and compiled here, not in what pytest-benchmark plans its rounds by.
    benchmark(function)
