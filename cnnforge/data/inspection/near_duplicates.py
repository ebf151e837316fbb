"""Find images that look alike: saved again, resized, or slightly brighter.

Each image gets a difference hash of 64 bits (dHash, N. Krawetz, "Kind of Like That", 2013): is a
pixel of the image, reduced to 9x8 pixels, brighter than its right neighbour? Images whose hashes
differ in a few bits are candidates, and their reduced images are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from cnnforge.data.dataset import Samples
from cnnforge.data.files import ImageFiles
from cnnforge.data.images import fit

# Height and width of the reduced images.
_SHAPE = (16, 18)
_MAX_BITS = 4
# If two hashes differ in at most 4 bits, at least one of these 5 parts is equal in both.
_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
# Max mean difference of the pixels of two reduced images that have mean 0 and deviation 1.
# Copies that were saved as JPEG differ by 0.01 to 0.04, and two digits 1 of MNIST by 0.05 and more.
_MAX_DIFFERENCE = 0.045
# Images with less contrast have no structure that could be compared.
_MIN_DEVIATION = 2.0
_CHUNK_BYTES = 64 << 20
_BLOCK = 64
# If there are more pairs, those that are in one group already are left out, which takes a while.
_MANY = 10_000


def look_alike(samples: Samples, digests: Sequence[bytes]) -> list[list[int]]:
    """Group the images that look alike.

    Images of one colour are left out. If an image is alike to a second one, and this to a third,
    all three are in one group.

    Args:
        samples: N images.
        digests: The digest of each image. Exact copies are compared once, and a group of exact
            copies only is left out.

    Returns:
        The indices of the images in each group, in ascending order. The groups are in the order of
        their first image.
    """
    first: dict[bytes, int] = {}
    copies: dict[int, list[int]] = {}
    for index, digest in enumerate(digests):
        copies.setdefault(first.setdefault(digest, index), []).append(index)
    unique = np.array(list(copies), np.int64)
    small = reduced(samples, unique)
    with_structure = small.std(axis=(1, 2)) >= _MIN_DEVIATION
    unique, small = unique[with_structure], small[with_structure]
    parents = np.arange(len(unique))
    for left, right in _similar_pairs(difference_hashes(small)):
        if len(left) > _MANY:
            roots = _roots(parents)
            new = roots[left] != roots[right]
            left, right = left[new], right[new]
        near = _differences(small, left, right) <= _MAX_DIFFERENCE
        for one, other in zip(left[near].tolist(), right[near].tolist(), strict=True):
            low, high = sorted((_root(parents, one), _root(parents, other)))
            parents[high] = low
    groups: dict[int, list[int]] = {}
    for place, index in enumerate(unique.tolist()):
        groups.setdefault(_root(parents, place), []).append(index)
    found = [group for group in groups.values() if len(group) > 1]
    return sorted(sorted(index for each in group for index in copies[each]) for group in found)


def reduced(samples: Samples, indices: np.ndarray) -> np.ndarray:
    """Read images as small grayscale images: (N, 16, 18) uint8."""
    small = np.empty((len(indices), *_SHAPE), np.uint8)
    height, width = _SHAPE
    if isinstance(samples, ImageFiles):
        small_samples: Samples = samples.resized((height, width, 1))
        bytes_per_image = height * width
    else:
        small_samples = samples
        bytes_per_image = int(np.prod(samples.fetch(np.zeros(1, np.intp)).shape))
    step = max(1, min(4096, _CHUNK_BYTES // bytes_per_image))
    for start in range(0, len(indices), step):
        images = small_samples.fetch(indices[start : start + step])
        for place, image in enumerate(images, start):
            small[place] = _fitted(image)
    return small


def difference_hashes(small: np.ndarray) -> np.ndarray:
    """Return the difference hash of each reduced image, as 64-bit numbers.

    Args:
        small: (N, 16, 18) uint8.

    Returns:
        (N,) uint64.
    """
    pooled = small.reshape(len(small), 8, 2, 9, 2).astype(np.uint16).sum(axis=(2, 4))
    bits = (pooled[:, :, :-1] > pooled[:, :, 1:]).reshape(len(small), 64)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(len(small))


def _fitted(image: np.ndarray) -> np.ndarray:
    height, width = _SHAPE
    if image.shape == (height, width, 1):
        return image[:, :, 0]
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    return fit(Image.fromarray(np.ascontiguousarray(pixels)), (height, width, 1))[:, :, 0]


def _similar_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places of hashes that differ in at most `_MAX_BITS` bits. Pairs may come again."""
    for shift, bits in _BANDS if len(hashes) else ():
        keys = (hashes >> np.uint64(shift)) & np.uint64((1 << bits) - 1)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)))
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            bucket = order[start:end]
            # Compare a part of a large bucket at a time, since the result is a matrix.
            for begin in range(0, len(bucket) - 1, _BLOCK):
                rows = bucket[begin : begin + _BLOCK]
                columns = bucket[begin:]
                distances = _bit_counts(hashes[rows][:, None] ^ hashes[columns][None, :])
                near = np.triu(distances <= _MAX_BITS, 1)
                one, other = np.nonzero(near)
                if len(one):
                    yield rows[one], columns[other]


def _bit_counts(words: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    # NumPy 1 has no such function.
    table = np.array([value.bit_count() for value in range(256)], np.uint8)
    return table[words[..., None].view(np.uint8)].sum(axis=-1, dtype=np.uint8)


def _differences(small: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the mean difference of the pixels in each pair, for equal brightness and contrast."""
    result = np.empty(len(left))
    for start in range(0, len(left), 4096):
        part = slice(start, start + 4096)
        pair = _standardized(small[left[part]]) - _standardized(small[right[part]])
        result[part] = np.abs(pair).mean(axis=(1, 2))
    return result


def _standardized(small: np.ndarray) -> np.ndarray:
    centered = small - small.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return centered / centered.std(axis=(1, 2), keepdims=True)


def _roots(parents: np.ndarray) -> np.ndarray:
    while ((above := parents[parents]) != parents).any():
        parents = above
    return parents


def _root(parents: np.ndarray, place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = int(parents[place])
    return place
