"""The declarations of the plugin.

Every command of cnnforge imports this module, so it must import no large packages.
"""

from __future__ import annotations

from cnnforge.plugin import LayerSpec, ModelSpec, hookimpl

CNNFORGE_PLUGIN_API = 1


@hookimpl
def cnnforge_layers() -> list[LayerSpec]:
    """Declare the layers."""
    return [
        LayerSpec(
            name="gabor_conv2d",
            target="cnnforge_example.gabor:GaborConv2D",
            summary="2D convolution with Gabor functions, whose parameters are learned",
            cases="cnnforge_example.cases:GABOR",
        ),
        LayerSpec(
            name="separable_block2d",
            target="cnnforge_example.separable:SeparableBlock2D",
            summary="depthwise 3x3 and pointwise convolution, bias and ReLU in one kernel",
            cases="cnnforge_example.cases:SEPARABLE",
        ),
    ]


@hookimpl
def cnnforge_models() -> list[ModelSpec]:
    """Declare a small network of both layers."""
    return [
        ModelSpec(
            name="gabor_net",
            target="cnnforge_example.model:build",
            summary="Gabor feature detectors and two separable blocks: small images",
        )
    ]
