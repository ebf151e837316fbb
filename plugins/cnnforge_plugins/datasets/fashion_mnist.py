"""Open Fashion-MNIST: 70,000 pictures of clothing, in 10 classes.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", 2017. The SHA-256 of the files are those of the files whose MD5 the authors
name.
"""

from __future__ import annotations

from pathlib import Path

from cnnforge.data import DataOptions, Dataset
from cnnforge.errors import UsageError
from cnnforge_plugins.datasets.idx import open_idx
from cnnforge_plugins.datasets.shared.download import RemoteFile, download_folder, fetch

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
"""The names of the classes 0 to 9."""
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package `dataset-fashion-mnist`."""

_URLS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
_DIGESTS = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        26421880,
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        29515,
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        4422102,
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        5148,
    ),
}
FILES = tuple(
    RemoteFile(name, tuple(url + name for url in _URLS), digest, size)
    for name, (digest, size) in _DIGESTS.items()
)
"""The four files."""


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open the pictures: 60,000, of which a part is for validation, and 10,000 for a test.

    They are those of Debian's package `dataset-fashion-mnist` if it is installed. Otherwise they
    are downloaded once.

    Args:
        argument: Must be `None`, since the dataset takes no argument.
        options: Options of the dataset.

    Returns:
        The dataset. Its classes are `CLASSES`.

    Raises:
        UsageError: If there is an argument.
        DataError: If a file cannot be downloaded; the message says where to put it.
    """
    if argument is not None:
        raise UsageError(
            f"fashion_mnist takes no argument, got {argument!r}: write fashion_mnist, or "
            "idx:FOLDER for files of your own"
        )
    folder = DEBIAN
    if not folder.is_dir():
        folder = download_folder("fashion_mnist")
        for file in FILES:
            fetch(file, folder)
    return open_idx("fashion_mnist", str(folder), options, classes=CLASSES)
