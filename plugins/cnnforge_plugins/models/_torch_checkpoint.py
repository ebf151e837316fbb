"""Read the tensors in a checkpoint of PyTorch, without PyTorch and without running code from it.

A checkpoint is a pickle, and a pickle can call any function. This reader allows only the five names
that a dictionary of tensors needs, and none of them runs code. It reads the format that PyTorch
wrote before version 1.6: five pickles, and then the numbers of each storage.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from cnnforge.errors import message_of
from cnnforge.utils.structured_text import MALFORMED

_MAGIC = 0x1950A86A20F9469CFC6C
_FORMAT = 1001
# Max number that a pickle gives to an object; those of a large model have some thousand objects.
_MAX_OBJECTS = 1_000_000
_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def read_checkpoint(path: Path) -> Mapping[str, np.ndarray]:
    """Read all tensors of a checkpoint.

    Args:
        path: A file that `torch.save` wrote before PyTorch 1.6, with a dictionary of tensors.

    Returns:
        Arrays by name, with the axis order of PyTorch.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file has another format, is damaged, or contains something else.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        # A pickle can ask for any amount of memory.
        except (pickle.UnpicklingError, EOFError, MemoryError, *MALFORMED) as error:
            reason = message_of(error)
            raise ValueError(f"{path} is not a checkpoint of tensors: {reason}") from error


def _read(file: BinaryIO) -> Mapping[str, np.ndarray]:
    storages: dict[str, tuple[np.dtype, int]] = {}
    if _load(file, storages) != _MAGIC or _load(file, storages) != _FORMAT:
        raise pickle.UnpicklingError("its first numbers are not those of PyTorch before 1.6")
    system = _load(file, storages)
    if not system["little_endian"]:
        raise pickle.UnpicklingError("a big-endian machine wrote it")
    tensors, keys = _load(file, storages), _load(file, storages)
    numbers = {key: _numbers(file, *storages[key]) for key in keys}
    return {name: _tensor(numbers, *tensor) for name, tensor in tensors.items()}


def _load(file: BinaryIO, storages: dict[str, tuple[np.dtype, int]]) -> Any:
    begun = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        # Python makes room for all numbers up to this one, which may be gigabytes.
        if opcode.name in ("PUT", "LONG_BINPUT") and cast("int", argument) > _MAX_OBJECTS:
            raise pickle.UnpicklingError(f"it numbers an object {argument}")
    file.seek(begun)
    reader = _Reader(file)
    reader.storages = storages
    return reader.load()


class _Reader(pickle.Unpickler):
    """An unpickler that knows only the parts of a dictionary of tensors."""

    storages: dict[str, tuple[np.dtype, int]]

    def find_class(self, module: str, name: str) -> Any:
        """Return a harmless object for a name that may occur; raise an error for all others."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _described
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a dictionary of tensors")

    def persistent_load(self, pid: Any) -> str:
        """Note the type and the length of a storage, and return its key."""
        _, kind, key, _, length = pid[:5]
        self.storages[key] = (_TYPES[kind], int(length))
        return key


def _described(*arguments: Any) -> tuple[Any, ...]:
    """Return the key of the storage, the offset, the shape and the strides of a tensor."""
    return arguments[:4]


def _numbers(file: BinaryIO, dtype: np.dtype, length: int) -> np.ndarray:
    stored = int.from_bytes(file.read(8), "little")
    data = file.read(length * dtype.itemsize)
    if stored != length or len(data) != length * dtype.itemsize:
        raise EOFError("it ends too early")
    return np.frombuffer(data, dtype)


def _tensor(
    numbers: Mapping[str, np.ndarray],
    key: str,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> np.ndarray:
    data = numbers[key][offset:]
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((*shape, *strides, 0)) < 0 or offset < 0 or last >= len(data):
        raise EOFError("a tensor is larger than its storage")
    bytes_per_step = tuple(stride * data.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(data, shape, bytes_per_step, writeable=False).copy()
