"""Refuse requests that a web page of somebody else sent, or a stranger in the network."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from cnnforge.errors import one_line
from cnnforge.serving.limits import Refused

_log = logging.getLogger(__name__)
FAILED = "the request failed; the terminal of the server shows why"
"""What a client is told about an error that is not its own."""

_LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
# For answers that are not pages.
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


@dataclass(frozen=True)
class Access:
    """The senders whose requests are answered.

    Attributes:
        host: The address or name that the user gave for the server.
        token: Text that every request must contain; empty if none is needed.
        local: Whether only programs of this machine reach the server.
    """

    host: str = "127.0.0.1"
    token: str = field(default="", repr=False)
    local: bool = True

    def names(self, host: str) -> bool:
        """Return whether the header `Host` of a request names this server.

        A web page of somebody else can make a name of its own point at this machine (DNS
        rebinding). The browser then sends this name.

        Args:
            host: The value of the header.
        """
        name = _without_port(host)
        if name in _LOOPBACK or name == self.host.lower():
            return True
        if self.local:
            return False
        own = socket.gethostname().lower()
        if name in (own, f"{own}.local"):
            return True
        try:
            # An address is not a name, so nobody else can make it point at this machine.
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Guard:
    """An ASGI application that refuses what `access` does not allow, and passes on the rest.

    It also answers errors of the other application, so that no client sees a traceback.

    Args:
        app: The application.
        access: The senders whose requests are answered.
    """

    def __init__(self, app: Any, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request of HTTP."""
        if scope["type"] != "http":
            return
        started = broken = False

        async def sending(message: Any) -> None:
            nonlocal started, broken
            if message["type"] == "http.response.start":
                started = True
                headers = [*message["headers"], *_HEADERS]
                if all(name != _POLICY[0] for name, _ in headers):
                    headers.append(_POLICY)
                message = {**message, "headers": headers}
            broken = True
            await send(message)
            broken = False

        try:
            self._check(scope)
            await self._app(scope, receive, sending)
            return
        except Refused as error:
            refused = error
        except asyncio.CancelledError:
            refused = Refused(503, "the server was stopped")
        except Exception as error:
            refused = Refused(500, FAILED)
            if not broken:
                _log.warning("a request failed: %s", one_line(error))
        if not started:
            await _answer(sending, refused)

    def _check(self, scope: Any) -> None:
        access, headers = self._access, _headers(scope)
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not access.names(hosts[0]):
            raise Refused(400, f"the host is {', '.join(hosts)!r}, which is not this server")
        for origin in headers.get("origin", []):
            if origin.lower().partition("://")[2] != hosts[0].lower():
                raise Refused(403, f"the request comes from a page of {origin!r}")
        if access.token and not self._has_token(scope, headers):
            raise Refused(
                401, "the token is missing or wrong: open the address that 'cnnforge serve' printed"
            )

    def _has_token(self, scope: Any, headers: Mapping[str, list[str]]) -> bool:
        given = [
            text[len("bearer ") :]
            for text in headers.get("authorization", [])
            if text.lower().startswith("bearer ")
        ]
        if scope["method"] in ("GET", "HEAD"):
            given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        wanted = self._access.token.encode()
        return any(hmac.compare_digest(each.encode("utf-8", "replace"), wanted) for each in given)


async def _answer(send: Any, refused: Refused) -> None:
    body = json.dumps({"error": refused.message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode()) for name, value in refused.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")
