"""Notice that a Ray cluster no longer answers.

One process of a Ray cluster, the global control service, knows all others. If it is gone for a
minute, Ray ends the command with exit code 1 and without a message. A call that asks it does not
return before.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from cnnforge.distributed.addresses import check_address
from cnnforge.errors import CnnforgeError

LOOK = 2.0
"""Seconds between two looks."""

# The command ends before Ray does it. To disconnect takes up to 20 s.
_LOST = 20.0
# The command could not end, because it waits for Ray.
_LATE = 45.0


class ClusterWatch:
    """Looks whether a cluster answers.

    Args:
        address: `HOST:PORT` of the global control service. If it is empty, the cluster always
            answers.
        show: Function that shows a line: that the cluster is lost, if the command does not end.
    """

    def __init__(self, address: str, show: Callable[[str], None]) -> None:
        self._address = address
        self._place = check_address(address) if address else None
        self._show = show
        # The time since which nothing has answered.
        self._since: float | None = None
        self._told = False

    def look(self) -> bool:
        """Return whether something accepts connections at the address, after up to two seconds."""
        if self._place is None:
            return True
        try:
            socket.create_connection(self._place, timeout=LOOK).close()
        except OSError:
            if self._since is None:
                self._since = time.monotonic()
            if not self._told and self._silence() > _LATE:
                self._told = True
                self._show(f"error: {self._message()}")
            return False
        self._since = None
        return True

    def check(self) -> None:
        """Check that the cluster is not lost.

        Raises:
            CnnforgeError: Nothing has answered for 20 seconds.
        """
        if self._silence() > _LOST:
            raise CnnforgeError(self._message())

    def _silence(self) -> float:
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _message(self) -> str:
        return (
            f"the Ray cluster is lost: nothing has answered at {self._address} for "
            f"{self._silence():.0f} s"
        )
