"""The built-in layers pass the kit that is offered to everybody."""

import pytest

from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import _subject, layer_checks

LAYERS = [spec.name for spec in discover().layers.values() if spec.plugin == "builtin"]
# A process of its own takes seconds: for the layer that others are most like, and the fused one.
SAVED = ("conv2d", "conv_block2d")
CHECKS = [
    pytest.param(check, id=f"{layer}-{check}")
    for layer in LAYERS
    for check in layer_checks(f"builtin/{layer}")
    if check.kind != "save_and_load" or layer in SAVED
]


@pytest.fixture(autouse=True)
def _sizes_of_the_cases(monkeypatch):
    # The kernels have tests of their own at many sizes, and compile for each size.
    monkeypatch.setattr(_subject, "_MAX_VARIED", 0)


@pytest.mark.parametrize("check", CHECKS)
def test_layer(check):
    check()


def test_every_layer_is_here():
    assert len(LAYERS) >= 8
    assert set(SAVED) <= set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_says_what_it_is_measured_with(name):
    spec = discover().layers[f"builtin/{name}"]
    assert spec.reference
    assert spec.load_cases()
    assert spec.load_benchmarks()
    assert callable(spec.load_work())
