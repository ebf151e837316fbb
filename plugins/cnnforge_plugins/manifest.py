"""Declare the layers, datasets, models, callbacks and augmentations of the built-in plugin.

Every command imports this module, so it imports only the plugin API, and not Keras.
"""

from __future__ import annotations

from cnnforge.plugin import (
    AugmentationSpec,
    CallbackSpec,
    DatasetSpec,
    LayerSpec,
    ModelSpec,
    hookimpl,
)

CNNFORGE_PLUGIN_API = 1


@hookimpl
def cnnforge_layers() -> list[LayerSpec]:
    """Declare the layers that run on Numba kernels and can replace stock Keras layers."""
    return [
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
    ]


@hookimpl
def cnnforge_datasets() -> list[DatasetSpec]:
    """Declare the datasets for `cnnforge train --data`."""
    return [
        DatasetSpec(
            name="mnist5k",
            target="cnnforge_plugins.datasets.mnist5k:load",
            summary="5,000 handwritten digits, 28x28 grayscale; nothing to download",
        ),
        DatasetSpec(
            name="images",
            target="cnnforge_plugins.datasets.images:load",
            summary="a folder of images with one subfolder per class, images:FOLDER",
        ),
        DatasetSpec(
            name="csv",
            target="cnnforge_plugins.datasets.csv:load",
            summary="a table with a label and the pixels of one image per row, csv:FILE",
        ),
        DatasetSpec(
            name="table",
            target="cnnforge_plugins.datasets.table:load",
            summary="a table with the file name and the label of one image per row, table:FILE",
        ),
    ]


@hookimpl
def cnnforge_models() -> list[ModelSpec]:
    """Declare the models for `cnnforge train`."""
    return [
        ModelSpec(
            name="lenet",
            target="cnnforge_plugins.models.lenet:build",
            summary="two convolutions, two poolings, two dense layers: small images",
            max_default_size=96,
        ),
        *(
            ModelSpec(
                name=f"resnet{depth}",
                target=f"cnnforge_plugins.models.resnet:resnet{depth}",
                summary=f"{depth} layers with residual connections: 32x32 images",
                max_default_size=128,
            )
            for depth in (20, 32, 56, 110)
        ),
        ModelSpec(
            name="vgg11",
            target="cnnforge_plugins.models.vgg11:build",
            summary="eight convolutions with batch normalization: 32x32 images",
            max_default_size=128,
        ),
        ModelSpec(
            name="mobilenet_small",
            target="cnnforge_plugins.models.mobilenet_small:build",
            summary="depthwise separable convolutions, few weights: 32x32 images",
            max_default_size=128,
        ),
        ModelSpec(
            name="efficientnet_lite0",
            target="cnnforge_plugins.models.efficientnet_lite0:build",
            summary="for photographs; starts from ImageNet weights with cnnforge[lite0]",
            weights="cnnforge_plugins.models.lite0_weights:WEIGHTS",
        ),
        ModelSpec(
            name="keras",
            target="cnnforge_plugins.models.keras_applications:build",
            summary="a network of keras.applications, such as keras:MobileNetV2",
            weights="cnnforge_plugins.models.keras_applications:WEIGHTS",
        ),
    ]


@hookimpl
def cnnforge_callbacks() -> list[CallbackSpec]:
    """Declare the training callbacks for `cnnforge train --callback`."""
    return [
        CallbackSpec(
            name="early_stopping",
            target="cnnforge_plugins.callbacks.patience:early_stopping",
            summary="ends training after 10 epochs without a better one, early_stopping:N after N",
        ),
        CallbackSpec(
            name="halve_on_plateau",
            target="cnnforge_plugins.callbacks.patience:halve_on_plateau",
            summary="halves the learning rate after 3 epochs without a better one, or after N",
        ),
    ]


@hookimpl
def cnnforge_augmentations() -> list[AugmentationSpec]:
    """Declare the augmentations for `cnnforge train --augment`."""
    return [
        AugmentationSpec(
            name="shift",
            target="cnnforge_plugins.augmentations.geometry:shift",
            summary="moves each image by up to 2 pixels in each direction, shift:N by up to N",
        ),
        AugmentationSpec(
            name="flip",
            target="cnnforge_plugins.augmentations.geometry:flip",
            summary="flips each image left to right with probability 0.5",
        ),
    ]
