"""Declare everything that the built-in plugin has: layers, data, models and the rest.

Every command imports this module, so it imports only the plugin API, and not Keras.
"""

from __future__ import annotations

from cnnforge.plugin import (
    AugmentationSpec,
    CallbackSpec,
    DatasetSpec,
    EngineSpec,
    LayerSpec,
    ModelSpec,
    TaskSpec,
    hookimpl,
)
from cnnforge_plugins.layer_specs import LAYERS

CNNFORGE_PLUGIN_API = 1

_DETECTOR_DEFAULTS = {
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 0.004,
    "weight_decay": 0.001,
    "schedule": "cosine",
    "warmup_epochs": 1,
}


@hookimpl
def cnnforge_layers() -> list[LayerSpec]:
    """Declare the layers that run on Numba kernels and can replace stock Keras layers."""
    return LAYERS


@hookimpl
def cnnforge_tasks() -> list[TaskSpec]:
    """Declare the tasks besides classification, which is part of the core."""
    return [
        TaskSpec(
            name="detection",
            target="cnnforge.tasks.detection:Detection",
            summary="boxes and classes of the objects in an image",
            default_model="detector",
        )
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
        DatasetSpec(
            name="parquet",
            target="cnnforge_plugins.datasets.parquet:load",
            summary="Parquet files of images, as on the Hugging Face hub, parquet:FILE or FOLDER",
            in_parts="cnnforge_plugins.datasets.parquet:in_parts",
        ),
        DatasetSpec(
            name="tar",
            target="cnnforge_plugins.datasets.tar:load",
            summary="tar archives of images and labels (WebDataset), tar:FILE or FOLDER",
        ),
        DatasetSpec(
            name="idx",
            target="cnnforge_plugins.datasets.idx:load",
            summary="a folder of files such as train-images-idx3-ubyte.gz, idx:FOLDER",
        ),
        DatasetSpec(
            name="npz",
            target="cnnforge_plugins.datasets.npz:load",
            summary="arrays such as x_train and y_train in a NumPy file, npz:FILE",
        ),
        DatasetSpec(
            name="mnist",
            target="cnnforge_plugins.datasets.mnist:load",
            summary="70,000 handwritten digits, 28x28 grayscale; downloaded once, 11 MB",
            downloads=True,
        ),
        DatasetSpec(
            name="fashion_mnist",
            target="cnnforge_plugins.datasets.fashion_mnist:load",
            summary="70,000 pieces of clothing, 28x28 grayscale; downloaded once, 31 MB",
            downloads=True,
        ),
        DatasetSpec(
            name="cifar10",
            target="cnnforge_plugins.datasets.cifar:load10",
            summary="60,000 photos in 10 classes, 32x32 rgb; downloaded once, 170 MB",
            downloads=True,
        ),
        DatasetSpec(
            name="cifar100",
            target="cnnforge_plugins.datasets.cifar:load100",
            summary="60,000 photos in 100 classes, 32x32 rgb; downloaded once, 169 MB",
            downloads=True,
        ),
        DatasetSpec(
            name="emoji",
            target="cnnforge_plugins.datasets.emoji:load",
            summary="1,161 emoji in 7 classes, 128x128 rgb, drawn from an installed font",
        ),
        DatasetSpec(
            name="digits_in_scenes",
            target="cnnforge_plugins.detection_data.digits_in_scenes:load",
            summary="scenes of 1 to 6 handwritten digits with boxes, 128x128 grayscale, new ones "
            "in every epoch",
            task="detection",
        ),
        DatasetSpec(
            name="emoji_in_scenes",
            target="cnnforge_plugins.detection_data.emoji_in_scenes:load",
            summary="scenes of 1 to 6 emoji with boxes, 128x128 rgb, new ones in every epoch; "
            "drawn from an installed font",
            task="detection",
        ),
        *(
            DatasetSpec(
                name=name,
                target=f"cnnforge_plugins.detection_data.{name}:load",
                summary=summary,
                task="detection",
            )
            for name, summary in (
                ("coco", "boxes in the JSON form of COCO, coco:FILE.json or FOLDER"),
                ("yolo", "pictures and label files of boxes, yolo:data.yaml or yolo:FOLDER"),
                ("voc", "boxes in the XML form of PASCAL VOC, voc:FOLDER"),
            )
        ),
        DatasetSpec(
            name="tfds",
            target="cnnforge_plugins.datasets.tfds:load",
            summary="a dataset of TensorFlow Datasets, tfds:NAME",
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
        ModelSpec(
            name="detector_backbone",
            target="cnnforge_plugins.models.detector:backbone",
            summary="the backbone of the detectors, to train it as a classification",
            max_default_size=128,
        ),
        ModelSpec(
            name="detector",
            target="cnnforge_plugins.models.detector:detector",
            summary="finds objects of 8 to 100 pixels; detector:efficientnet_lite0 for photographs",
            task="detection",
            max_default_size=320,
            weights="cnnforge_plugins.models.lite0_weights:WEIGHTS_OF_DETECTOR",
            defaults=_DETECTOR_DEFAULTS,
        ),
        ModelSpec(
            name="detector_m",
            target="cnnforge_plugins.models.detector:detector_m",
            summary="finds objects of 8 to 300 pixels on three maps",
            task="detection",
            max_default_size=320,
            defaults=_DETECTOR_DEFAULTS,
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
    module = "cnnforge_plugins.augmentations"
    return [
        AugmentationSpec(name=name, target=f"{module}.{place}:{name}", summary=summary)
        for name, place, summary in (
            ("shift", "geometry", "moves by up to 2 pixels, shift:N by N, shift:0.1 by 10 %"),
            ("flip", "geometry", "flips left to right with probability 0.5"),
            ("crop", "geometry", "enlarges a part of 80 to 100 % of height and width, crop:0.8"),
            ("rotate", "geometry", "rotates by up to 3 % of a full turn, rotate:0.03"),
            ("zoom", "geometry", "enlarges or reduces by up to 10 %, zoom:0.1"),
            ("brightness", "color", "makes lighter or darker by up to 20 %, brightness:0.2"),
            ("contrast", "color", "changes the contrast by up to 20 %, contrast:0.2"),
            ("saturation", "color", "makes colors stronger or paler, saturation:0.1"),
            ("hue", "color", "changes the hue by up to 5 % of the color circle, hue:0.1"),
            ("erasing", "erasing", "replaces a rectangle by noise, probability 0.25, erasing:0.25"),
            ("mixup", "mixing", "averages with another image, weights of Beta(0.2), mixup:0.2"),
            ("cutmix", "mixing", "pastes a part of another image, sizes of Beta(1), cutmix:1"),
            (
                "mosaic",
                "mosaic",
                "composes an image of four, for detection; probability mosaic:0.5",
            ),
            ("randaugment", "randaugment", "applies two random operations, randaugment:0.5"),
        )
    ]


@hookimpl
def cnnforge_engines() -> list[EngineSpec]:
    """Declare the inference engine, which predicts without Keras."""
    return [
        EngineSpec(
            name="numba",
            build="cnnforge_plugins.inference.builder:build",
            convolve="cnnforge_plugins.inference.filtering:convolve",
            target="cnnforge_plugins.inference.runner:open_plan",
            summary="runs a trained model on Numba kernels, without Keras",
        )
    ]
