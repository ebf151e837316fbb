"""Addresses of Ray clusters, as the option `--address` has them. Nothing here needs Ray."""

from __future__ import annotations

import os
import re
import socket
from importlib.util import find_spec
from typing import NamedTuple

from cnnforge.errors import CnnforgeError, UsageError

LOCAL = "local"
"""The address that starts Ray on this machine, for one command."""

AUTO = "auto"
"""The address of a cluster that runs on this machine."""

CLIENT = "ray://"
"""The start of an address to which a program outside of the cluster connects."""

STARTUP_TIMEOUT = 120.0
"""Default time in seconds until a cluster must be ready."""

_HOST_AND_PORT = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+):(?P<port>\d+)")


class MissingRayError(CnnforgeError):
    """Ray is not installed."""

    exit_code = 2


class HostAndPort(NamedTuple):
    """The host and the port of an address."""

    host: str
    port: int


def check_ray() -> None:
    """Check that Ray is installed.

    Raises:
        MissingRayError: It is not.
    """
    if find_spec("ray") is None:
        raise MissingRayError(
            "several workers need Ray, which is not installed; type: pip install "
            "'cnnforge[cluster]'"
        )


def check_address(address: str) -> HostAndPort | None:
    """Check the form of an address.

    Args:
        address: The value of `--address`.

    Returns:
        The host and the port that the address names; `None` for `local` and `auto`.

    Raises:
        UsageError: The address has another form.
    """
    if address in (LOCAL, AUTO):
        return None
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise UsageError(
            f"--address is {address!r}: expected local, auto, HOST:PORT such as 10.0.0.5:6379, or "
            "ray://HOST:PORT such as ray://10.0.0.5:10001"
        )
    return HostAndPort(match["host"].strip("[]"), int(match["port"]))


def check_answers(address: str, seconds: float) -> None:
    """Check that something accepts connections at an address.

    Args:
        address: The value of `--address`.
        seconds: The time to wait.

    Raises:
        UsageError: The address has another form.
        CnnforgeError: Nothing accepts a connection in this time.
    """
    place = check_address(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=seconds).close()
    except TimeoutError as error:
        raise CnnforgeError(no_answer(address, seconds)) from error
    except OSError as error:
        raise CnnforgeError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): start one with "
            "'ray start --head', or leave out --address to use this machine alone"
        ) from error


def no_answer(address: str, seconds: float) -> str:
    """Return the message about a cluster that was not ready in time.

    Args:
        address: The value of `--address`.
        seconds: The time for which it was waited.
    """
    if address == LOCAL:
        return (
            f"Ray did not start within {seconds:g} s: give it more time with --startup-timeout, "
            "or close programs that use the processors"
        )
    return (
        f"the Ray cluster at {address} did not answer within {seconds:g} s: check the address and "
        "the token (RAY_AUTH_TOKEN_PATH), or give it more time with --startup-timeout"
    )


def token_file() -> str | None:
    """Return the file in which Ray looks for the token of a cluster; `None` if it is missing."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = named or os.path.join(os.path.expanduser("~"), ".ray", "auth_token")
    return path if os.path.isfile(path) else None


def open_token_file() -> str | None:
    """Return the file with the token of a cluster if other users can read it; otherwise `None`."""
    path = token_file()
    return path if path and os.name == "posix" and os.stat(path).st_mode & 0o077 else None
