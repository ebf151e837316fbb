"""Connections to this machine that do not come over the loopback interface."""

import socket

import pytest


def outer_address() -> str:
    """Return the address of this machine that other machines use. Without one, skip the test."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            # This sends nothing. It finds the interface that leads to other machines.
            any_socket.connect(("10.254.254.254", 9))
        except OSError:
            pytest.skip("this machine has no network")
        address = any_socket.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but that of the loopback interface")
    return address


def answers(address: str, port: int, seconds: float = 0.5) -> bool:
    """Return whether a server accepts a connection.

    Args:
        address: Its address.
        port: Its port.
        seconds: Max time to wait.
    """
    try:
        socket.create_connection((address, port), seconds).close()
    except OSError:
        return False
    return True
