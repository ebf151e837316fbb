"""Connections to this machine that do not come over the loopback interface."""

import ipaddress
import socket

import pytest

# Addresses of documentation. A socket of UDP that is connected to them sends nothing, and has the
# address of the interface that leads to other machines.
_FAR = {socket.AF_INET: "192.0.2.200", socket.AF_INET6: "2001:db8::1"}


def outer_address(family: socket.AddressFamily = socket.AF_INET) -> str:
    """Return the address of this machine that other machines use. Without one, skip the test.

    Args:
        family: The kind of the address.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as any_socket:
            any_socket.connect((_FAR[family], 9))
            address = any_socket.getsockname()[0]
    except OSError:
        pytest.skip("this machine has no network of this kind")
    if ipaddress.ip_address(address).is_loopback:
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
