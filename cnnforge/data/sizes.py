"""Choose one size for all images of a dataset."""

from __future__ import annotations

from collections.abc import Mapping

from cnnforge.data.dataset import DataOptions


def choose_size(
    sizes: Mapping[tuple[int, int], int], options: DataOptions
) -> tuple[tuple[int, int], str]:
    """Choose the size to which all images are resized.

    By default this is the median height and the median width of the images. If one of them is
    greater than `options.max_size`, both are reduced by the same factor.

    Args:
        sizes: Number of images of each (height, width), at least one.
        options: Options of the dataset.

    Returns:
        The (height, width), and a note for the user; the note is empty if no image is resized.
    """
    chosen = options.image_size
    if chosen is None:
        median = _median(sizes)
        chosen = _bounded(median, options.max_size_for(median))
    total = sum(sizes.values())
    resized = total - sizes.get(chosen, 0)
    if not resized:
        return chosen, ""
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    seen = _times(by_area[0])
    if len(by_area) > 1:
        seen += f" to {_times(by_area[-1])}"
    note = f"{resized} of {total} images are resized to {_times(chosen)}: their size is {seen}"
    if options.image_size is None and options.max_size is not None:
        note += "; choose another size with --image-size HEIGHTxWIDTH"
    return chosen, note


def _median(sizes: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    height, width = (_weighted_median(sizes, axis) for axis in (0, 1))
    return height, width


def _weighted_median(sizes: Mapping[tuple[int, int], int], axis: int) -> int:
    # The lower median: the size of an image, and never a mean of two sizes.
    left = (sum(sizes.values()) + 1) // 2
    for size, count in sorted((size[axis], count) for size, count in sizes.items()):
        left -= count
        if left <= 0:
            return size
    raise ValueError("there are no images")


def _bounded(size: tuple[int, int], max_size: int | None) -> tuple[int, int]:
    longest = max(size)
    if max_size is None or longest <= max_size:
        return size
    height, width = (max(1, round(side * max_size / longest)) for side in size)
    return height, width


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
