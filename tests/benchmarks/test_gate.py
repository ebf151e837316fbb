"""The cases of `make bench` and `make bench-gate`, and the thresholds that are kept for them."""

from pathlib import Path

import cases  # pyright: ignore[reportMissingImports]
import layer_cases  # pyright: ignore[reportMissingImports]
import pytest

from cnnforge.benchmarking import work
from cnnforge.benchmarking.gate import PASSES, compare_names
from cnnforge.benchmarking.thresholds import file_name, read_thresholds

THRESHOLDS = sorted((Path(layer_cases.__file__).parent / "thresholds").glob("*.toml"))


@pytest.fixture(scope="module")
def every_case():
    return layer_cases.every_case()


@pytest.mark.parametrize("path", THRESHOLDS, ids=lambda path: path.stem)
def test_the_thresholds_fit_the_cases(every_case, path):
    found = read_thresholds(path)
    keys = [f"{case.name}.{name}" for case in every_case for name in PASSES]
    assert compare_names(keys, found.entries) == []
    assert path.name == file_name(found.machine.cpu, "toml")


def test_every_shape_is_measured():
    every = (*cases.CONVOLUTIONS, *cases.DEPTHWISE, *cases.POOLS, *cases.DROPOUTS)
    every += cases.NORMALIZATIONS
    assert {pair.partition(".")[0] for pair in layer_cases.PAIRS} == {case.name for case in every}
    assert len({case.name for case in every}) == len(every)
    assert set(layer_cases.SHORT) <= set(layer_cases.PAIRS)


def test_what_a_case_computes(every_case):
    convolutions = {case.name: case for case in cases.CONVOLUTIONS}
    for case in every_case:
        counted = work(case.workload, case.workload.build(case.workload.reference))
        assert counted is not None
        name, kind = case.name.split(".")
        if kind == "convolution" and name in convolutions:
            assert counted["forward"].flops == convolutions[name].flops


def test_a_new_layer_needs_no_line_here(monkeypatch):
    from cnnforge.plugin_host.discovery import discover

    before = {case.name for case in layer_cases.every_case()}
    spec = discover().layers["builtin/max_pooling2d"]
    kept = {name: it for name, it in layer_cases.RECIPES.items() if it[0] != "MaxPooling2D"}
    monkeypatch.setattr(layer_cases, "RECIPES", kept)
    monkeypatch.setattr(layer_cases, "PAIRS", tuple(kept))
    names = [case.name for case in layer_cases.every_case()]
    own = [f"{spec.name}.{case.name}" for case in spec.load_benchmarks()]
    assert names[: len(kept)] == [*kept]
    assert set(names) - before == set(own)
    assert len(own) == 3
