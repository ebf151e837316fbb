"""A training ends before its first epoch if a layer fails its check."""

from typing import Any

import keras
import pytest

from cnnforge.conversion.certificate import LayerCheck
from cnnforge.errors import CnnforgeError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.training import setup


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("Conv2D", "; train with --kernels keras, and see `cnnforge doctor`"),
        ("its oracle", "; see 'cnnforge plugins check acme/gabor --plugin 'my plugin.py''"),
    ],
)
def test_a_layer_without_a_stock_layer_is_not_computed_by_keras(
    kind: str, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = LayerCheck("gabor_1", kind, "acme/gabor", (2, 3, 3, 1), "float32", (), "no luck")
    certified: Any = lambda *_, **__: [failed]  # noqa: E731
    monkeypatch.setattr(setup, "certify", certified)
    model = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten()])
    with pytest.raises(CnnforgeError, match="fails its check") as caught:
        setup._certified(model, Plugins(), ["my plugin.py"])
    assert str(caught.value).endswith(f"no luck{way_out}")
