"""Check the arguments of the functions that build models; the layout of their images."""

from __future__ import annotations

LAYOUT = "channels_last"
"""The `data_format` of every layer of a model. By default Keras takes it from `keras.json`."""


def check_sizes(
    model: str,
    input_shape: tuple[int, int, int],
    classes: int,
    min_size: int,
    *,
    min_classes: int = 2,
) -> None:
    """Check the image size and the number of classes of a model.

    Args:
        model: Name of the model, for messages.
        input_shape: (H, W, C).
        classes: Number of classes.
        min_size: Min height and width in pixels.
        min_classes: Min number of classes.

    Raises:
        ValueError: If the images are too small or there are too few classes.
    """
    height, width, _ = input_shape
    if min(height, width) < min_size:
        raise ValueError(
            f"{model} needs images of at least {min_size} x {min_size} pixels, "
            f"got {height} x {width}: give a larger --image-size"
        )
    if classes < min_classes:
        wanted = "1 class" if min_classes == 1 else f"{min_classes} classes"
        raise ValueError(f"{model} needs at least {wanted}, got {classes}")
