"""Say what a server accepts, and refuse the rest."""

from __future__ import annotations

from dataclasses import dataclass

_HEADERS = {503: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server.

    Attributes:
        bytes: Max size of a picture file in bytes.
        pixels: Max number of pixels of a picture.
        waiting: Max number of pictures that are read, wait or are predicted at the same time.
        seconds: Max time in which a client sends a request, and takes its answer.
        explain_seconds: Max time that an explanation takes.
        connections: Max number of connections.
    """

    bytes: int = 10 * 2**20
    pixels: int = 40_000_000
    waiting: int = 32
    seconds: float = 20.0
    explain_seconds: float = 180.0
    connections: int = 128


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: Status code of HTTP.
        message: The reason, in one line.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer needs."""
        return _HEADERS.get(self.status, {})
