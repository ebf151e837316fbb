"""Tests of the integer functions of the layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnforge_kernels.cuda.tensor_cores import layout

LANES, THREADS = np.arange(32), np.arange(layout.THREADS)


def test_swizzled_lines_fill_the_memory_of_a_tile():
    rows, chunks = np.divmod(np.arange(128 * 4), 4)
    places = layout.swizzled(rows, chunks)
    assert sorted(places) == list(range(0, 128 * 16, 4))
    assert (places // 16 == rows).all()


@pytest.mark.parametrize("chunk", range(4))
@pytest.mark.parametrize("first", range(0, 128, 8))
def test_eight_lines_have_their_chunks_in_different_banks(first, chunk):
    places = layout.swizzled(np.arange(first, first + 8), chunk)
    words = places[:, None] + np.arange(4)
    assert np.unique(words % 32).size == 32


@pytest.mark.parametrize(
    ("rows", "width", "vector"),
    [
        *((rows, 16, 4) for rows in (128, 64, 32)),
        *((16, width, vector) for width in (128, 64, 32) for vector in (1, 4)),
    ],
)
def test_copies_fill_each_word_once(rows, width, vector):
    copies = rows * width // (vector * layout.THREADS)
    words = [
        width * layout.copied_row(THREADS, k, width, vector)
        + layout.copied_column(THREADS, width, vector)
        + v
        for k in range(copies)
        for v in range(vector)
    ]
    assert sorted(np.concatenate(words)) == list(range(rows * width))


@pytest.mark.parametrize("tile", [layout.WIDE, layout.NARROW])
def test_warps_share_the_tile(tile):
    covered = np.zeros((tile.rows, tile.columns), int)
    for warp in range(layout.THREADS // 32):
        row = layout.warp_row(warp, tile.columns, tile.warp_columns, tile.warp_rows)
        column = layout.warp_column(warp, tile.columns, tile.warp_columns)
        covered[row : row + tile.warp_rows, column : column + tile.warp_columns] += 1
    assert (covered == 1).all()


def loaded(row, chunk):
    """Compute the rows and terms (matrix, lane) that ``ldmatrix`` loads for 32 lanes."""
    matrix, lane = np.divmod(np.arange(4 * 32), 32)
    giver = 8 * matrix + lane // 4
    return row(LANES)[giver].reshape(4, 32), (4 * chunk(LANES)[giver] + lane % 4).reshape(4, 32)


def test_matrices_are_fragments():
    # PTX ISA, "Matrix fragments for mma.m16n8k8" (.tf32).
    g, q = layout.fragment_row(LANES), layout.fragment_column(LANES)
    rows, terms = loaded(layout.a_matrix_row, layout.a_matrix_chunk)
    np.testing.assert_array_equal(rows, [g, g + 8, g, g + 8])
    np.testing.assert_array_equal(terms, [q, q, q + 4, q + 4])
    columns, terms = loaded(layout.b_matrix_row, layout.b_matrix_chunk)
    np.testing.assert_array_equal(columns, [g, g, g + 8, g + 8])
    np.testing.assert_array_equal(terms, [q, q + 4, q, q + 4])


DIVISORS = st.one_of(st.integers(1, 2**31 - 1), st.integers(0, 30).map(lambda k: 2**k))


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(divisor=DIVISORS, quotient=st.integers(0, 2**31), near=st.integers(-2, 2))
def test_quotient(divisor, quotient, near):
    multiplier, shift = layout.division(divisor)
    # Launches take numbers of 31 bits.
    assert 0 <= multiplier < 2**31
    value = min(max(quotient * divisor + near, 0), 2**31 - 1)
    assert layout.quotient(value, multiplier, shift) == value // divisor
    assert layout.quotient(2**31 - 1, multiplier, shift) == (2**31 - 1) // divisor


def test_clamped():
    values = np.arange(10, dtype=np.uint32)
    with np.errstate(over="ignore"):
        result = layout.clamped(values, np.uint32(6))
    np.testing.assert_array_equal(result, np.minimum(values, 6))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@pytest.mark.parametrize("before", [0, 1, 2, 4])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_phases_connect_inputs_with_outputs(size, before, taps, stride):
    # Output o reads input o * stride - before + tap. The phases must find all of these.
    found = set()
    for phase in range(min(stride, size)):
        first = int(layout.phase_first_tap(phase, before, stride))
        origin = int(layout.phase_origin(phase, before, stride))
        for row in range(int(layout.phase_size(size, phase, stride))):
            for t in range(int(layout.phase_taps(taps, first, stride))):
                found.add((phase + row * stride, row + origin - t, first + t * stride))
    outputs = range(-taps, size + before + 1)
    expected = {(o * stride - before + t, o, t) for o in outputs for t in range(taps)}
    assert found == {e for e in expected if 0 <= e[0] < size}
