"""Add the option ``--short`` and the fixture that writes the results of ``make bench``."""

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

    # Also sets how threads of OpenMP wait. OpenMP reads this when it is loaded, so call this first.
    import_keras()
    config.addinivalue_line("markers", "short: measured with --short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("short"):
        left_out = [item for item in items if item.get_closest_marker("short") is None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], None]]:
    """Yield a function to which each benchmark passes its measurement.

    If all cases were measured, `results/<cpu>.csv` is written at the end of the pytest session.
    """
    from dataclasses import asdict

    from layer_cases import every_case

    from cnnforge import benchmarking
    from cnnforge.benchmarking.thresholds import file_name
    from cnnforge.utils.environment import environment

    kept: list[Any] = []
    judged = request.config.getoption("cnnforge_gate") is not None
    peaks = None if judged else benchmarking.measure_peaks()

    yield kept.append
    names = [measured.case.name for measured in kept if measured is not None]
    if peaks is not None and names == [case.name for case in every_case()]:
        machine = environment()
        cases = [benchmarking.to_json(measured, peaks) for measured in kept]
        text = benchmarking.csv_text({"machine": machine, "peaks": asdict(peaks), "cases": cases})
        RESULTS.mkdir(exist_ok=True)
        name = f"{machine['cpu']['model']} {machine['cpu']['target']}"
        (RESULTS / file_name(name, "csv")).write_text(text, encoding="utf-8")
