"""Depthwise convolutions with the 1x1 convolutions around them, against the separate layers."""

from __future__ import annotations

import numpy as np
import pytest

from cnnforge_kernels.cpu.prepared import depthwise_block
from cnnforge_kernels.cpu.prepared.depthwise import DepthwiseConvolution
from cnnforge_kernels.cpu.prepared.depthwise_block import DepthwiseBlock
from cnnforge_kernels.cpu.prepared.product import Product
from cnnforge_kernels.cpu.runtime.call_list import CallList

# Images, height, width, channels, expanded channels, filters.
SIZES = [
    (1, 14, 14, 8, 48, 8),
    (3, 9, 11, 5, 33, 7),
    (2, 7, 7, 16, 96, 24),
    (1, 1, 1, 1, 1, 1),
    (2, 40, 6, 3, 20, 3),
    (1, 30, 3, 4, 40, 4),
]
SAME = ((1, 1), (1, 1))
OPTIONS = [
    {"padding": SAME},
    {"padding": ((0, 1), (0, 1)), "strides": (2, 2)},
    {"padding": ((2, 2), (2, 2)), "dilation": (2, 2)},
    {"padding": ((5, 3), (1, 2)), "strides": (3, 1)},
]


def values(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape):
    return np.full(shape, np.nan, np.float32)


def flat(array):
    return array.reshape(-1, array.shape[-1])


def layers(size, options, activation="relu6", scale=0.5):
    _, _, _, channels, wide, filters = size
    return (
        Product(scale * values((channels, wide), 2), values((wide,), 3), activation),
        DepthwiseConvolution(values((3, 3, wide, 1), 4), None, activation=activation, **options),
        Product(scale * values((wide, filters), 5), values((filters,), 6), None),
    )


def shapes(size, *, padding, strides=(1, 1), dilation=(1, 1)):
    """The shapes of the four arrays: source, expanded, swept, target."""
    images, height, width, channels, wide, filters = size
    rows, columns = (
        (length + sum(padding[a]) - 2 * dilation[a] - 1) // strides[a] + 1
        for a, length in enumerate((height, width))
    )
    source = (images, height, width)
    target = (images, rows, columns)
    return (*source, channels), (*source, wide), (*target, wide), (*target, filters)


def check(size, options, *, expanded=True, projected=True, add=False, source=None, **more):
    expansion, depthwise, projection = layers(size, options, **more)
    places = shapes(size, **options)
    if source is None:
        source = values(places[0 if expanded else 1])
    added = values(places[3], 8) if add else None
    arrays = [source, *(poisoned(shape) for shape in places[1:])]
    calls = expansion.bind(flat(source), flat(arrays[1])) if expanded else []
    calls += depthwise.bind(arrays[1] if expanded else source, arrays[2])
    if projected:
        calls += projection.bind(
            flat(arrays[2]), flat(arrays[3]), None if added is None else flat(added)
        )
    CallList(calls)()
    target = poisoned(places[3 if projected else 2])
    block = DepthwiseBlock(
        depthwise,
        expansion=expansion if expanded else None,
        projection=projection if projected else None,
    )
    fused = CallList(block.bind(source, target, added))
    for _ in range(2):
        fused()
        # Each output is the same sum in the same order.
        np.testing.assert_array_equal(target, arrays[3 if projected else 2])
    return target


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_same_as_the_separate_layers(size, options):
    assert np.isfinite(check(size, options)).all()


@pytest.mark.parametrize(
    "parts",
    [
        {"expanded": False},
        {"projected": False},
        {"expanded": False, "projected": False},
        {"add": True},
        {"activation": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_parts_of_the_block(size, parts):
    check(size, OPTIONS[0], **parts)


def test_groups_of_one_row_and_a_large_scratch(monkeypatch):
    monkeypatch.setattr(depthwise_block, "_SCRATCH_BYTES", 1)
    check(SIZES[1], OPTIONS[0])
    check(SIZES[1], OPTIONS[1])
    monkeypatch.setattr(depthwise_block, "_SCRATCH_BYTES", 1 << 22)
    check((1, 90, 10, 4, 160, 4), OPTIONS[0])


def test_a_depth_multiplier():
    depthwise = DepthwiseConvolution(values((3, 3, 6, 2)), None, padding=SAME)
    projection = Product(values((12, 5)), None, "relu")
    source = values((2, 40, 5, 6))
    swept, expected, target = (poisoned((2, 40, 5, wide)) for wide in (12, 5, 5))
    CallList(depthwise.bind(source, swept) + projection.bind(flat(swept), flat(expected)))()
    CallList(DepthwiseBlock(depthwise, projection=projection).bind(source, target))()
    np.testing.assert_array_equal(target, expected)


def test_nan_and_infinity():
    size = SIZES[1]
    source = values(shapes(size, **OPTIONS[0])[0])
    source[0, 0, 0, 0], source[1, 4, 5, 2], source[2, 8, 10, 4] = np.inf, np.nan, -np.inf
    assert np.isnan(check(size, OPTIONS[0], source=source, activation=None)).any()


def test_wrong_shapes_are_refused():
    size = SIZES[0]
    expansion, depthwise, projection = layers(size, OPTIONS[0])
    source, expanded, swept, target = map(values, shapes(size, **OPTIONS[0]))
    block = DepthwiseBlock(depthwise, expansion=expansion, projection=projection)
    for bound, arrays, message in (
        (block, (source, target, expanded), "but the added array is"),
        (block, (source, target[:0]), "but the source is"),
        (block, (source[..., :4].copy(), target), "product"),
        (DepthwiseBlock(depthwise), (expanded, swept, swept), "a block with a projection"),
        (DepthwiseBlock(depthwise), (source, swept), "the source has 8 channels, but needs 48"),
        (DepthwiseBlock(depthwise), (expanded, target), "but the source is"),
    ):
        with pytest.raises(ValueError, match=message):
            bound.bind(*arrays)
    assert block.bind(source[:0], target[:0]) == []
