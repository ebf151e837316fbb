"""Find the address of a server, and make the token that strangers need."""

from __future__ import annotations

import errno
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.serving.guard import Access

MIN_TOKEN = 16
"""Min number of characters of a token."""
# Characters that are the same in an address.
_TOKEN = re.compile(rf"[A-Za-z0-9_.~-]{{{MIN_TOKEN},}}")


@dataclass(frozen=True)
class Address:
    """An address at which a server waits for requests.

    Attributes:
        listener: A socket that is bound to it.
        access: The senders whose requests are answered.
        url: Address of the page for a browser, with the token if there is one.
    """

    listener: socket.socket
    access: Access
    url: str


def open_address(host: str, port: int, token: str | None = None) -> Address:
    """Bind a socket to an address.

    Args:
        host: Address or name of this machine. If it is not a loopback address, so that other
            machines reach it, a token is needed.
        port: Port; 0 means any that is free.
        token: The token; `None` makes one if it is needed.

    Returns:
        The address.

    Raises:
        UsageError: The host is not an address of this machine, or the token is too short.
        CnnforgeError: The port is in use, or may not be used.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError(
            f"--token must have {MIN_TOKEN} or more letters and digits without blanks, got "
            f"{len(token)} characters: leave it out, and a token is made"
        )
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host {host} is not known ({getattr(error, 'strerror', None) or error}): give an "
            "address of this machine, or leave it out"
        ) from None
    # asyncio sends small answers at once only if it sees that the protocol is TCP. Otherwise each
    # one waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A port that a stopped server has used is free at once.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen()
    except OSError as error:
        listener.close()
        raise _problem(error, host, port) from None
    local = ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback
    if token is None:
        token = "" if local else secrets.token_urlsafe(24)
    named = f"[{host}]" if ":" in host else host
    if not local and ipaddress.ip_address(str(place[0]).partition("%")[0]).is_unspecified:
        named = socket.gethostname()
    query = f"?token={token}" if token else ""
    url = f"http://{named}:{listener.getsockname()[1]}/{query}"
    return Address(listener, Access(host, token, local), url)


def _problem(error: OSError, host: str, port: int) -> CnnforgeError:
    if error.errno == errno.EADDRINUSE:
        return CnnforgeError(
            f"port {port} of {host} is in use, perhaps by another 'cnnforge serve': choose another "
            f"one, such as --port {port + 1 if port < 65535 else port - 1}, or --port 0 for any "
            "that is free"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(
            f"--host {host} is not an address of this machine: leave it out, or give "
            "--host 0.0.0.0 for all of its addresses"
        )
    if error.errno == errno.EACCES:
        return CnnforgeError(
            f"port {port} is only for programs of the administrator: choose a port from 1024, such "
            "as --port 8000"
        )
    return CnnforgeError(f"port {port} of {host} cannot be used: {error.strerror or error}")
