"""The built-in layers pass the kit that is offered to everybody."""

import pytest

from cnnforge.testing import layer_checks

LAYERS = (
    "average_pooling2d",
    "batch_normalization",
    "conv2d",
    "conv_block2d",
    "depthwise_conv2d",
    "dropout",
    "global_average_pooling2d",
    "max_pooling2d",
)
# A process of its own takes seconds: for the layer that others are most like, and the fused one.
SAVED = ("conv2d", "conv_block2d")
CHECKS = [
    pytest.param(check, id=f"{layer}-{check}")
    for layer in LAYERS
    for check in layer_checks(f"builtin/{layer}")
    if check.kind != "save_and_load" or layer in SAVED
]


@pytest.mark.parametrize("check", CHECKS)
def test_layer(check):
    check()


def test_every_layer_is_here():
    from cnnforge.plugin_host.discovery import discover

    declared = [spec.name for spec in discover().layers.values() if spec.plugin == "builtin"]
    assert sorted(declared) == sorted(LAYERS)
