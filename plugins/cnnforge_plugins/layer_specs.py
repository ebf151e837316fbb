"""Declare the layers of the built-in plugin.

Every command imports this module, so it imports only the plugin API, and not Keras.
"""

from __future__ import annotations

from cnnforge.plugin import LayerSpec

LAYERS = [
    LayerSpec(
        name="conv2d",
        target="cnnforge_plugins.layers.conv2d:Conv2D",
        summary="2D convolution on Numba kernels",
        reference="keras.layers:Conv2D",
        cases="cnnforge_plugins.layer_cases.conv2d:CASES",
        benchmarks="cnnforge_plugins.layer_cases.conv2d:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.conv2d:work",
        torch="cnnforge_plugins.layer_cases.conv2d:torch_peer",
    ),
    LayerSpec(
        name="conv_block2d",
        target="cnnforge_plugins.layers.conv_block2d:ConvBlock2D",
        summary="2D convolution, ReLU and max pooling in one Numba kernel",
        reference="cnnforge_plugins.layers.conv_block2d:StockBlock2D",
        fuses=("keras.layers:Conv2D", "keras.layers:MaxPooling2D"),
        places=(
            "cnnforge_plugins.layers.conv2d:Conv2D",
            "cnnforge_plugins.layers.conv_block2d:BlockPooling2D",
        ),
        cases="cnnforge_plugins.layer_cases.conv_block2d:CASES",
        benchmarks="cnnforge_plugins.layer_cases.conv_block2d:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.conv_block2d:work",
        torch="cnnforge_plugins.layer_cases.conv_block2d:torch_peer",
    ),
    LayerSpec(
        name="max_pooling2d",
        target="cnnforge_plugins.layers.pooling:MaxPooling2D",
        summary="2D max pooling on Numba kernels",
        reference="keras.layers:MaxPooling2D",
        cases="cnnforge_plugins.layer_cases.pooling:MAX_CASES",
        benchmarks="cnnforge_plugins.layer_cases.pooling:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.pooling:max_work",
        torch="cnnforge_plugins.layer_cases.pooling:max_torch_peer",
    ),
    LayerSpec(
        name="average_pooling2d",
        target="cnnforge_plugins.layers.pooling:AveragePooling2D",
        summary="2D average pooling on Numba kernels",
        reference="keras.layers:AveragePooling2D",
        cases="cnnforge_plugins.layer_cases.pooling:AVERAGE_CASES",
        benchmarks="cnnforge_plugins.layer_cases.pooling:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.pooling:average_work",
        torch="cnnforge_plugins.layer_cases.pooling:average_torch_peer",
    ),
    LayerSpec(
        name="depthwise_conv2d",
        target="cnnforge_plugins.layers.depthwise_conv2d:DepthwiseConv2D",
        summary="depthwise 2D convolution on Numba kernels",
        reference="keras.layers:DepthwiseConv2D",
        cases="cnnforge_plugins.layer_cases.depthwise_conv2d:CASES",
        benchmarks="cnnforge_plugins.layer_cases.depthwise_conv2d:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.depthwise_conv2d:work",
        torch="cnnforge_plugins.layer_cases.depthwise_conv2d:torch_peer",
    ),
    LayerSpec(
        name="global_average_pooling2d",
        target="cnnforge_plugins.layers.global_average_pooling2d:GlobalAveragePooling2D",
        summary="global average pooling on Numba kernels",
        reference="keras.layers:GlobalAveragePooling2D",
        cases="cnnforge_plugins.layer_cases.global_average_pooling2d:CASES",
        benchmarks="cnnforge_plugins.layer_cases.global_average_pooling2d:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.global_average_pooling2d:work",
    ),
    LayerSpec(
        name="dense",
        target="cnnforge_plugins.layers.dense:Dense",
        summary="dense layer on Numba kernels",
        reference="keras.layers:Dense",
        cases="cnnforge_plugins.layer_cases.dense:CASES",
        benchmarks="cnnforge_plugins.layer_cases.dense:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.dense:work",
        torch="cnnforge_plugins.layer_cases.dense:torch_peer",
    ),
    LayerSpec(
        name="dropout",
        target="cnnforge_plugins.layers.dropout:Dropout",
        summary="dropout in one Numba kernel, with the masks that Keras draws",
        reference="keras.layers:Dropout",
        cases="cnnforge_plugins.layer_cases.dropout:CASES",
        benchmarks="cnnforge_plugins.layer_cases.dropout:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.dropout:work",
    ),
    LayerSpec(
        name="batch_normalization",
        target="cnnforge_plugins.layers.batch_normalization:BatchNormalization",
        summary="batch normalization on Numba kernels",
        reference="keras.layers:BatchNormalization",
        cases="cnnforge_plugins.layer_cases.batch_normalization:CASES",
        benchmarks="cnnforge_plugins.layer_cases.batch_normalization:BENCHMARKS",
        work="cnnforge_plugins.layer_cases.batch_normalization:work",
        torch="cnnforge_plugins.layer_cases.batch_normalization:torch_peer",
    ),
    *(
        LayerSpec(
            name=f"batch_normalization_{second.lower()}",
            target=f"cnnforge_plugins.layers.batch_normalization_relu:BatchNormalization{second}",
            summary=f"batch normalization and the {second} after it in one Numba kernel",
            reference="cnnforge_plugins.layers.batch_normalization_relu:StockBatchNormalizationReLU",
            fuses=("keras.layers:BatchNormalization", f"keras.layers:{second}"),
            places=(
                "cnnforge_plugins.layers.batch_normalization:BatchNormalization",
                f"cnnforge_plugins.layers.batch_normalization_relu:Normalized{second}",
            ),
            cases="cnnforge_plugins.layer_cases.batch_normalization_relu:CASES",
            benchmarks="cnnforge_plugins.layer_cases.batch_normalization_relu:BENCHMARKS",
            work="cnnforge_plugins.layer_cases.batch_normalization_relu:work",
            torch="cnnforge_plugins.layer_cases.batch_normalization_relu:torch_peer",
        )
        for second in ("ReLU", "Activation")
    ),
]
