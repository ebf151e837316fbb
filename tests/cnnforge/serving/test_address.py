"""The address of a server."""

import socket

import pytest

from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.serving.address import open_address


def test_answers_are_sent_at_once() -> None:
    address = open_address("127.0.0.1", 0)
    with address.listener:
        # asyncio looks at this number, and switches off the delay of small packets.
        assert address.listener.proto == socket.IPPROTO_TCP
        assert address.url == f"http://127.0.0.1:{address.listener.getsockname()[1]}/"
        assert (address.access.token, address.access.local) == ("", True)


def test_a_token_may_be_given_for_this_machine_too() -> None:
    address = open_address("127.0.0.1", 0, "my-own-long-token")
    with address.listener:
        assert address.url.endswith("/?token=my-own-long-token")
        assert address.access.token == "my-own-long-token"


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "with a blank inside", "mit-Umläuten-drin"]
)
def test_a_weak_token_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="--token must have 16 or more letters and digits"):
        open_address("127.0.0.1", 0, token)


def test_a_port_in_use_is_named() -> None:
    first = open_address("127.0.0.1", 0)
    with first.listener:
        port = first.listener.getsockname()[1]
        with pytest.raises(CnnforgeError, match=f"port {port} of 127.0.0.1 is in use"):
            open_address("127.0.0.1", port)
