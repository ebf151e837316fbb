"""Prepare the inputs of a model that needs images with three channels."""

from __future__ import annotations

import keras
from keras import layers


def with_three_channels(images: keras.KerasTensor) -> keras.KerasTensor:
    """Repeat the channel of gray images three times.

    Args:
        images: (N, H, W, C), C 1 or 3.

    Returns:
        (N, H, W, 3): `images` itself if it has three channels.
    """
    if images.shape[-1] != 1:
        return images
    return layers.Concatenate(name="three_channels")([images, images, images])
