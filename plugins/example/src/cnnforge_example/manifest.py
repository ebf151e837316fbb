"""Declare the layers and the model that this plugin adds to cnnforge.

Every command of cnnforge imports this module. So this module must not import large packages, which
would make every command slow.
"""

from __future__ import annotations

from cnnforge.plugin import LayerSpec, ModelSpec, hookimpl

CNNFORGE_PLUGIN_API = 1


@hookimpl
def cnnforge_layers() -> list[LayerSpec]:
    """Declare the layers of this plugin."""
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
        LayerSpec(
            name="blur_pool2d",
            target="cnnforge_example.blur_pool.layer:BlurPool2D",
            summary="2D pooling after a blur, which prevents aliasing",
            cases="cnnforge_example.blur_pool.cases:CASES",
        ),
        LayerSpec(
            name="squeeze_excite",
            target="cnnforge_example.squeeze_excite.layer:SqueezeExcite",
            summary="squeeze and excitation: a factor for each channel of an image",
            cases="cnnforge_example.squeeze_excite.cases:CASES",
        ),
        LayerSpec(
            name="involution2d",
            target="cnnforge_example.involution.layer:Involution2D",
            summary="2D involution: a window of weights for each pixel",
            cases="cnnforge_example.involution.cases:CASES",
        ),
    ]


@hookimpl
def cnnforge_models() -> list[ModelSpec]:
    """Declare a small network that uses both layers of this plugin."""
    return [
        ModelSpec(
            name="gabor_net",
            target="cnnforge_example.model:build",
            summary="Gabor feature detectors and two separable blocks: small images",
        )
    ]
