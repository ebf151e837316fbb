"""Let only this machine connect to a server that a library starts on all addresses.

Linux lets several sockets listen on one port, and a program for the socket decides which of them
gets a connection; see SO_REUSEPORT and SO_ATTACH_REUSEPORT_CBPF in socket(7). So a socket that
drops all packets listens first, and gets all that does not come from the loopback interface. The
library has to allow more sockets on its port. Everything here is for Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Sequence

# Operations of a program, as in `linux/bpf_common.h`: load a byte, load a word of 4 bytes, and,
# compare and jump, return.
_BYTE, _WORD, _AND, _JUMP, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x06
# Offset of the IP header.
_IP = 0xFFF00000
# (operation, instructions to leave out if equal, and if not, value)
_IS_LOOPBACK = (
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
)
# A filter returns the number of bytes that it lets through.
_LET_ALL_THROUGH, _DROP = (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)
# The other program returns the index of the socket that gets the connection, in the order in which
# the sockets began to listen.
_FIRST, _SECOND = (_RETURN, 0, 0, 0), (_RETURN, 0, 0, 1)
# `struct sock_filter` and `struct sock_fprog`.
_INSTRUCTION, _PROGRAM = "=HBBI", "HP"
_SO_ATTACH_FILTER, _SO_ATTACH_REUSEPORT_CBPF = 26, 51


def reserved(port: int) -> socket.socket:
    """Return a socket that gets all connections from other machines to a port, and drops them.

    The server that is to get the others must listen after this call, with SO_REUSEPORT and on all
    addresses. It is closed to other machines as long as the socket is open.

    Args:
        port: The port. No server of this process listens there.

    Raises:
        OSError: This kernel has no such programs, or the port is in use.
    """
    # As gRPC decides.
    family = socket.AF_INET6 if _has_loopback_of_6() else socket.AF_INET
    made = socket.socket(family)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("", port))
        _attach(made, _SO_ATTACH_FILTER, [_DROP])
        _attach(made, _SO_ATTACH_REUSEPORT_CBPF, [*_IS_LOOPBACK, _SECOND, _FIRST])
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def close_servers(port: int, *others: socket.socket) -> bool:
    """Close the servers of this process that listen on a port to other machines, from now on.

    Args:
        port: The port.
        *others: Sockets that stay as they are.

    Returns:
        Whether there is a server, and all are closed.
    """
    known = [each.fileno() for each in others]
    found = 0
    for server in _listening(port, known):
        with server:
            try:
                _attach(server, _SO_ATTACH_FILTER, [*_IS_LOOPBACK, _LET_ALL_THROUGH, _DROP])
            except OSError:
                return False
        found += 1
    return found > 0


def _listening(port: int, known: Sequence[int]) -> Iterator[socket.socket]:
    """Yield a copy of each socket of this process that listens on a port."""
    for name in os.listdir("/proc/self/fd"):
        # A file that is closed in the meantime, or is not a socket.
        with contextlib.suppress(OSError):
            if int(name) in known:
                continue
            copy = _copy_of(int(name))
            place = copy.getsockname() if copy.family in (socket.AF_INET, socket.AF_INET6) else ()
            listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if place and place[1] == port and listens:
                yield copy
            else:
                copy.close()


def _copy_of(number: int) -> socket.socket:
    copy = os.dup(number)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _attach(to: socket.socket, option: int, instructions: Sequence[tuple[int, ...]]) -> None:
    code = b"".join(struct.pack(_INSTRUCTION, *each) for each in instructions)
    content = ctypes.create_string_buffer(code)
    program = struct.pack(_PROGRAM, len(instructions), ctypes.addressof(content))
    to.setsockopt(socket.SOL_SOCKET, option, program)


def _has_loopback_of_6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as made:
            made.bind(("::1", 0))
    except OSError:
        return False
    return True
