"""The network of a run is opened with stock layers, so that no map is hidden in a fused block."""

from pathlib import Path

import pytest

from cnnforge.conversion import forge
from cnnforge.conversion.matching import plugin_layers
from cnnforge.explaining import opening
from cnnforge.explaining.network import describe
from cnnforge.explaining.steps import divide
from cnnforge.plugin_host.discovery import discover
from cnnforge.runs import RunDirectory
from cnnforge_plugins.models.lenet import build as lenet


def test_fused_blocks_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = discover()
    forged = forge(lenet((28, 28, 1), 10), "numba")
    assert plugin_layers(forged, plugins.layers)
    assert type(forged.get_layer("pool2")).__name__ == "BlockPooling2D"
    monkeypatch.setattr(opening, "load_model", lambda path, layers: forged)
    steps = opening.open_steps(RunDirectory(tmp_path), plugins)
    found = [(it.kind, it.name, it.shape) for it in describe(steps).operations]
    assert found == [
        (it.kind, it.name, it.shape) for it in describe(divide(lenet((28, 28, 1), 10))).operations
    ]
    assert opening.image_shape(steps) == (28, 28, 1)
