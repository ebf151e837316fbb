"""Write numbers into event files, which TensorBoard reads. TensorBoard itself is not needed.

An event file consists of records. A record is a length, the event as a protocol buffer, and the
checksums of both. The formats are those of `tensorboard/compat/proto/event.proto` and of TFRecord.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from cnnforge.errors import RunError


class EventFile:
    """An event file. It is complete after every call of `write`.

    Args:
        folder: Existing folder in which the file is made.

    Raises:
        RunError: The file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        now = time.time()
        # TensorBoard recognises event files by this name.
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._path = folder / name
        # Field 3 of an event is the version of the format.
        self._append(_double(1, now) + _bytes(3, b"brain.Event:2"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers.

        Args:
            step: The place of the numbers on the horizontal axis, such as the number of the epoch.
            values: The numbers by name.

        Raises:
            RunError: The file cannot be written.
        """
        summary = b"".join(
            _bytes(1, _bytes(1, name.encode()) + struct.pack("<Bf", 2 << 3 | 5, value))
            for name, value in values.items()
        )
        step_field = bytes([2 << 3]) + _varint(step)
        self._append(_double(1, time.time()) + step_field + _bytes(5, summary))

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        record = length + _checksum(length) + event + _checksum(event)
        try:
            with self._path.open("ab") as file:
                file.write(record)
        except OSError as error:
            raise RunError(
                f"{self._path} cannot be written: {error.strerror or error}; leave out "
                "--tensorboard to train without it"
            ) from error


def _varint(value: int) -> bytes:
    """Encode a number that is not negative, seven bits a byte."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _double(field: int, value: float) -> bytes:
    return struct.pack("<Bd", field << 3 | 1, value)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            # The polynomial of CRC-32C, with its bits in reversed order.
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _table()


def _checksum(content: bytes) -> bytes:
    """Return the masked CRC-32C of some bytes, as TFRecord defines it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
