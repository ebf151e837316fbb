"""Open MNIST: 70,000 handwritten digits. The file is downloaded once.

The file is that of `keras.datasets`, whose source names its SHA-256.
"""

from __future__ import annotations

from cnnforge.data import DataOptions, Dataset
from cnnforge.errors import UsageError
from cnnforge_plugins.datasets.npz import open_npz
from cnnforge_plugins.datasets.shared.download import RemoteFile, download_folder, fetch

FILE = RemoteFile(
    "mnist.npz",
    ("https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",),
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    11490434,
)
"""The file with `x_train`, `y_train`, `x_test` and `y_test`."""


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open the digits: 60,000, of which a part is for validation, and 10,000 for a test.

    Args:
        argument: Must be `None`, since the dataset takes no argument.
        options: Options of the dataset.

    Returns:
        The dataset. Its classes are `"0"` to `"9"`.

    Raises:
        UsageError: If there is an argument.
        DataError: If the file cannot be downloaded; the message says where to put it.
    """
    if argument is not None:
        raise UsageError(
            f"mnist takes no argument, got {argument!r}: write mnist, or npz:FILE or idx:FOLDER "
            "for files of your own"
        )
    path = fetch(FILE, download_folder("mnist"))
    return open_npz("mnist", str(path), options, classes=[str(digit) for digit in range(10)])
