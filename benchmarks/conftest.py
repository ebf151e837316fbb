"""The short form of the gate, and the table of results that ``make bench`` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).with_name("results")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="a few cases, in a minute or three")


def pytest_configure(config: pytest.Config) -> None:
    from cnnforge.cli._import_keras import import_keras

    import_keras()  # It sets how waiting threads wait, before OpenMP is loaded.
    config.addinivalue_line("markers", "short: measured with --short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("short"):
        left_out = [it for it in items if it.get_closest_marker("short") is None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [it for it in items if it not in left_out]


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], None]]:
    """Return `keep(measurement)`; a session that keeps all writes `results/<cpu>.csv`."""
    from dataclasses import asdict

    from layer_cases import every_case

    from cnnforge import benchmarking
    from cnnforge.benchmarking.thresholds import file_name
    from cnnforge.utils.environment import environment

    kept: list[Any] = []
    judged = request.config.getoption("cnnforge_gate") is not None
    peaks = None if judged else benchmarking.measure_peaks()

    yield kept.append
    names = [it.case.name for it in kept if it is not None]
    if peaks is not None and names == [it.name for it in every_case()]:
        machine = environment()
        cases = [benchmarking.to_json(it, peaks) for it in kept]
        text = benchmarking.csv_text({"machine": machine, "peaks": asdict(peaks), "cases": cases})
        RESULTS.mkdir(exist_ok=True)
        name = f"{machine['cpu']['model']} {machine['cpu']['target']}"
        (RESULTS / file_name(name, "csv")).write_text(text, encoding="utf-8")
