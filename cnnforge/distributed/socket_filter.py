"""A filter of Linux that lets only this machine connect to a server which a library starts.

The kernel drops all packets to the socket of the server that do not come from the loopback
interface. Connections that the server accepts inherit the filter. See
https://docs.kernel.org/networking/filter.html. Everything here is for Linux only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np

# Operations of a filter, as in `linux/bpf_common.h`: load a byte, load a word of 4 bytes, and,
# compare and jump, return the number of bytes that are let through.
_BYTE, _WORD, _AND, _JUMP, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x06
# Offset of the IP header.
_IP = 0xFFF00000
# (operation, instructions to leave out if equal, and if not, value)
_FILTER = (
    (_BYTE, 0, 0, _IP),
    (_AND, 0, 0, 0xF0),
    (_JUMP, 0, 2, 0x40),
    # IP version 4: the source address begins with 127.
    (_BYTE, 0, 0, _IP + 12),
    (_JUMP, 8, 9, 127),
    # IP version 6: the source address is ::1.
    (_WORD, 0, 0, _IP + 8),
    (_JUMP, 0, 7, 0),
    (_WORD, 0, 0, _IP + 12),
    (_JUMP, 0, 5, 0),
    (_WORD, 0, 0, _IP + 16),
    (_JUMP, 0, 3, 0),
    (_WORD, 0, 0, _IP + 20),
    (_JUMP, 0, 1, 1),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)
# `struct sock_filter` and `struct sock_fprog`.
_INSTRUCTION, _PROGRAM = "=HBBI", "HP"
# Files that the library may open before its server listens.
_MORE_FILES = 1024
_PAUSE = 1000  # microseconds
_SOL_SOCKET, _SO_ACCEPTCONN, _SO_ATTACH_FILTER = 1, 30, 26
_AF_INET, _AF_INET6, _SHUT_RDWR = 2, 10, 2
_SIZE_OF_ADDRESS = 128


@contextmanager
def closed_to_other_machines(port: int) -> Iterator[list[bool]]:
    """Close the servers of a port that this process starts in the block, as soon as they listen.

    Args:
        port: The port.

    Yields:
        An empty list. It gets one item at the end: whether there is a server, and all are closed.
    """
    result: list[bool] = []
    program, _kept = _program()
    servers, is_over = np.zeros(2, np.int64), np.ones(1, np.int64)
    arguments = (port, _highest_file() + _MORE_FILES, program, servers, is_over)
    _close(*arguments)  # compiles it
    is_over[0] = 0
    # The library may hold the lock of Python while its server listens. The function needs no lock.
    thread = threading.Thread(target=_close, args=arguments, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        is_over[0] = 1
        thread.join()
    closed, still_open = servers
    result.append(bool(closed and not still_open))


def _program() -> tuple[np.ndarray, np.ndarray]:
    """Return the filter as the kernel reads it, and the array to which it points."""
    code = b"".join(struct.pack(_INSTRUCTION, *each) for each in _FILTER)
    instructions = np.frombuffer(code, np.uint8)
    pointer = struct.pack(_PROGRAM, len(_FILTER), instructions.ctypes.data)
    return np.frombuffer(pointer, np.uint8).copy(), instructions


def _highest_file() -> int:
    return max(map(int, os.listdir("/proc/self/fd")))


def _c_function(name: str, *arguments: type) -> ctypes._NamedFuncPointer:
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes, function.restype = arguments, ctypes.c_int
    return function


_int, _pointer = ctypes.c_int, ctypes.c_void_p
_getsockopt = _c_function("getsockopt", _int, _int, _int, _pointer, _pointer)
_setsockopt = _c_function("setsockopt", _int, _int, _int, _pointer, _int)
_getsockname = _c_function("getsockname", _int, _pointer, _pointer)
_getpeername = _c_function("getpeername", _int, _pointer, _pointer)
_shutdown = _c_function("shutdown", _int, _int)
_usleep = _c_function("usleep", ctypes.c_uint)


@numba.njit(nogil=True)
def _close(port, last_file, program, servers, is_over):
    """Close the servers of a port to other machines, and cut connections that came before.

    Args:
        port: The port.
        last_file: The highest number of a file of this process.
        program: (16,) uint8 `struct sock_fprog`.
        servers: (2,) int64, gets the number of servers that are closed, and of those that are not.
        is_over: (1,) int64; if it is not zero, this function looks a last time and returns.
    """
    address, size = np.zeros(_SIZE_OF_ADDRESS, np.uint8), np.zeros(1, np.int32)
    listens = np.zeros(1, np.int32)
    while True:
        is_last = is_over[0] != 0
        closed, still_open = 0, 0
        for file in range(last_file + 1):
            size[0] = _SIZE_OF_ADDRESS
            if _getsockname(file, address.ctypes, size.ctypes) != 0:
                continue
            family = address[0] + 256 * address[1]
            if family not in (_AF_INET, _AF_INET6) or 256 * address[2] + address[3] != port:
                continue
            size[0] = 4
            if _getsockopt(file, _SOL_SOCKET, _SO_ACCEPTCONN, listens.ctypes, size.ctypes) != 0:
                continue
            if listens[0]:
                failed = _setsockopt(
                    file, _SOL_SOCKET, _SO_ATTACH_FILTER, program.ctypes, program.size
                )
                closed += failed == 0
                still_open += failed != 0
                continue
            size[0] = _SIZE_OF_ADDRESS
            connected = _getpeername(file, address.ctypes, size.ctypes) == 0
            if connected and not _is_loopback(address):
                _shutdown(file, _SHUT_RDWR)
        servers[0], servers[1] = closed, still_open
        if is_last:
            return
        _usleep(_PAUSE)


@numba.njit(nogil=True)
def _is_loopback(address):
    """Return whether an address is of the loopback interface.

    Args:
        address: (128,) uint8 `struct sockaddr_in` or `struct sockaddr_in6`.
    """
    if address[0] == _AF_INET:
        return address[4] == 127
    # ::1, or an address of version 4: 10 bytes of 0 and 2 of 255 before it.
    if address[8:18].any():
        return False
    if address[18] == 255 and address[19] == 255:
        return address[20] == 127
    return not address[18:23].any() and address[23] == 1
