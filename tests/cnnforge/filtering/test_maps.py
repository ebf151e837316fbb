"""Feature maps equal those of an independent implementation, to the last bit of a pixel."""

import math
from importlib.resources import files

import numpy as np
import pytest
from scipy.ndimage import correlate

from cnnforge.data.images import read_image
from cnnforge.errors import UsageError
from cnnforge.filtering.detectors import DETECTORS, Detector, find_detector
from cnnforge.filtering.maps import feature_map
from cnnforge_plugins.inference.filtering import convolve

RANDOM = np.random.default_rng(5)
GRAY = RANDOM.integers(0, 256, (33, 46, 1), np.uint8)
COLOR = RANDOM.integers(0, 256, (20, 17, 3), np.uint8)
PHOTOGRAPH = files("skimage").joinpath("data", "rocket.jpg")


def expected(image: np.ndarray, detector: Detector) -> np.ndarray:
    """The values of the map with stride 1 and same padding, in float64."""
    maps = [
        correlate(image[..., c].astype(np.float64), detector.matrix, mode="constant")
        for c in range(image.shape[2])
    ]
    return np.stack(maps, -1) / detector.divisor


def to_pixels(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def photograph() -> np.ndarray:
    return read_image(str(PHOTOGRAPH), (427, 640, 3))


@pytest.mark.parametrize("image", [GRAY, COLOR, photograph()], ids=["gray", "color", "photograph"])
@pytest.mark.parametrize("name", DETECTORS)
def test_built_in_detectors_equal_those_of_scipy(name: str, image: np.ndarray) -> None:
    detector = DETECTORS[name]
    made = feature_map(image, detector, convolve)
    want = expected(image, detector)
    np.testing.assert_array_equal(made.values, want)
    np.testing.assert_array_equal(made.pixels, to_pixels(want))
    below, above = made.clipped
    assert below == (np.rint(want) < 0).mean()
    assert above == (np.rint(want) > 255).mean()


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_own_detectors(size: int, stride: int, padding: str) -> None:
    matrix = RANDOM.integers(-9, 10, (size, size)).astype(np.float64)
    detector = Detector("own", matrix, divisor=4.0)
    made = feature_map(COLOR, detector, convolve, stride=stride, padding=padding)  # pyright: ignore
    whole = expected(COLOR, detector)
    starts = []
    for length in COLOR.shape[:2]:
        if padding == "valid":
            starts.append(size // 2)
        else:
            count = -(-length // stride)
            before = max(0, (count - 1) * stride + size - length) // 2
            starts.append(size // 2 - before)
    rows, columns = made.values.shape[:2]
    want = whole[starts[0] :: stride, starts[1] :: stride][:rows, :columns]
    np.testing.assert_array_equal(made.values, want)
    if padding == "valid":
        assert (rows, columns) == tuple(-(-(n - size + 1) // stride) for n in COLOR.shape[:2])


def test_relu_and_pooling() -> None:
    detector = DETECTORS["edge"]
    made = feature_map(GRAY, detector, convolve, relu=True, pool=2)
    values = np.maximum(expected(GRAY, detector), 0)[:32, :46]
    want = np.maximum.reduce([values[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    np.testing.assert_array_equal(made.values, want)


def test_a_detector_with_colors_adds_them_up() -> None:
    matrix = RANDOM.integers(-5, 6, (3, 3, 3)).astype(np.float64)
    made = feature_map(COLOR, Detector("learned", matrix), convolve)
    want = sum(
        correlate(COLOR[..., c].astype(np.float64), matrix[..., c], mode="constant")
        for c in range(3)
    )
    np.testing.assert_array_equal(made.values[..., 0], want)
    with pytest.raises(UsageError, match="is for color pictures, and the picture has gray"):
        feature_map(GRAY, Detector("learned", matrix), convolve)


def test_what_does_not_fit_is_refused() -> None:
    small = GRAY[:2, :2]
    with pytest.raises(UsageError, match="has 2x2 pixels, and the detector 3x3"):
        feature_map(small, DETECTORS["edge"], convolve, padding="valid")
    with pytest.raises(UsageError, match="smaller than a square of 3x3"):
        feature_map(small, DETECTORS["edge"], convolve, pool=3)


def test_only_the_numbers_of_the_course_brighten() -> None:
    totals = {name: detector.total for name, detector in DETECTORS.items()}
    assert totals.pop("course") == 36
    assert {name for name, total in totals.items() if total == 0} == {"edge", "sobel-x", "sobel-y"}
    assert {total for total in totals.values()} == {0, 1}


def test_fractions_are_exact(tmp_path) -> None:
    made = find_detector("0.1 0.2 0.1; 0 1/4 0; -.5, 0, 1e-1")
    assert made.divisor == 20
    np.testing.assert_array_equal(made.matrix, [[2, 4, 2], [0, 5, 0], [-10, 0, 2]])
    # The common denominator has more than 64 bits.
    primes = (9973, 9967, 9949, 9941, 9931, 9929, 9923, 9907, 9901)
    made = find_detector(
        "; ".join(" ".join(f"1/{n}" for n in primes[at : at + 3]) for at in (0, 3, 6))
    )
    assert made.divisor == float(math.prod(primes))
    file = tmp_path / "own.txt"
    file.write_text("\ufeff0 1 0\r\n1 -4 1\r\n\r\n0 1 0\r\n", encoding="utf-8")
    found = find_detector(str(file))
    assert found.name == "own"
    np.testing.assert_array_equal(found.matrix, DETECTORS["edge"].matrix)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("egde", "did you mean 'edge'"),
        (
            "nothing-like-it",
            "'nothing-like-it' is neither a detector nor a file; choose one of edge, ",
        ),
        ("1 2; 3 4", "has 2 rows and 2 columns: give 3, 5 or 7 rows"),
        ("1 2 3; 4 5; 6 7 8", "has 3 rows and 2 or 3 columns"),
        (" ; ", "is empty"),
        ("0 1 0; 1 x 1; 0 1 0", "has 'x', which is not a number"),
        ("0 1 0; 1 nan 1; 0 1 0", "has 'nan', which is not a number"),
        ("0 1 0; 1 1/0 1; 0 1 0", "has '1/0', which is not a number"),
        ("0 1 0; 1 1e9 1; 0 1 0", "numbers from -1000 to 1000"),
        ("word and word; 1", "has 'word', which is not a number"),
    ],
)
def test_wrong_detectors(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        find_detector(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"1 " * 9000])
def test_wrong_files(tmp_path, content: bytes) -> None:
    file = tmp_path / "d.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"is empty|cannot be read|is too large"):
        find_detector(str(file))
