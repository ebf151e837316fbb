"""What pytest-benchmark does not do by itself: the machine, parity, ratios, a table of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from layer_cases import PAIRS, build, file_name

RESULTS = Path(__file__).with_name("results")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Add what pytest-benchmark leaves out: graphics card, driver, CPU features, versions."""
    from cnnforge.cli._import_keras import import_keras

    import_keras()  # It sets how waiting threads wait, before OpenMP is loaded.
    from cnnforge.utils.environment import environment

    facts = environment()
    machine_info["cnnforge"] = {
        name: facts[name] for name in ("packages", "backend", "cpu", "threading_layer")
    } | {name: facts[name] for name in ("gpu", "driver", "git")}


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Return `measured(pair)`: parity first, then both implementations in turn, once a session.

    A session that has measured every pair writes them all to `results/<cpu>.csv`.
    """
    from dataclasses import asdict

    from cnnforge.cli._import_keras import import_keras

    import_keras()
    from cnnforge import benchmarking
    from cnnforge.conversion.certificate import certify_layer
    from cnnforge.plugin_host.discovery import discover
    from cnnforge.utils.environment import environment

    layers = discover().layers
    peaks = benchmarking.measure_peaks()
    known: dict[str, Any] = {}

    def measure(pair: str) -> Any:
        if pair not in known:
            case = build(pair, layers)
            first = benchmarking.first_calls(case)
            checked = certify_layer(case.workload)
            assert checked.passed, f"{pair} differs from its reference: {checked}"
            known[pair] = benchmarking.measure(case, rounds=21, limit=5, first=first, torch=True)
        return known[pair]

    yield measure
    if set(known) == set(PAIRS) and not request.session.testsfailed:
        machine = environment()
        cases = [benchmarking.to_json(known[pair], peaks) for pair in PAIRS]
        text = benchmarking.csv_text({"machine": machine, "peaks": asdict(peaks), "cases": cases})
        RESULTS.mkdir(exist_ok=True)
        name = f"{machine['cpu']['model']} {machine['cpu']['target']}"
        (RESULTS / file_name(name, "csv")).write_text(text, encoding="utf-8")
