"""Check a `.npz` file before NumPy reads its arrays."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from cnnforge.errors import message_of
from cnnforge.model_files.sizes import check_lengths, expands_too_much, readable

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    # NumPy takes the description of an array apart as a text of Python.
    tokenize.TokenError,
    SyntaxError,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
)
"""Errors that Python and NumPy raise for a damaged `.npz` file, besides `ValueError`."""
# Max length of an axis of an array without values. Such an array can have any other length.
_MAX_EMPTY = 10_000_000
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def check_arrays(file: Path | BinaryIO) -> None:
    """Check that a `.npz` file has plain arrays only, as large as the file says.

    Args:
        file: The file, or its content.

    Raises:
        ValueError: It is damaged, has a member that is not an array, an array of Python objects, an
            array that is not as large as its member, or expands to a much larger size.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            check_lengths(archive)
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            stored = sum(member.compress_size for member in members)
            if expands_too_much(size, stored):
                raise ValueError(f"it expands from {readable(stored)} to {readable(size)}")
            for member in members:
                _check_array(archive, member)
    except DAMAGED as error:
        raise ValueError(f"it is damaged ({message_of(error)})") from error


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} has the array format {version}")
        try:
            shape, _, dtype = _HEADERS[version](file)
        # Python's parser raises it for a text that is nested too deeply.
        except MemoryError:
            raise ValueError(f"{member.filename} has a damaged description") from None
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} has Python objects, expected numbers")
    if 0 in shape and max(shape) > _MAX_EMPTY:
        raise ValueError(f"{member.filename} has no values, and the shape {shape}")
    expected = start + math.prod(shape) * np.dtype(dtype).itemsize
    if min(shape, default=0) < 0 or expected != member.file_size:
        raise ValueError(f"{member.filename} has another size than its shape {shape}")
