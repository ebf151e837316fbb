"""Keep other machines from the workers of a training if all workers are on this machine.

TensorFlow's server of each worker listens on all addresses of its machine. No option changes that,
and the server does not check who connects.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator

from cnnforge.distributed.processes import environment
from cnnforge.distributed.tf_config import Cluster

# TensorFlow reads it when it starts a server: whether other sockets may listen on its port.
_REUSE = "TF_GRPC_REUSE_PORT"
# They are open as long as TensorFlow's servers: until the process ends.
_RESERVED: list[socket.socket] = []


@contextlib.contextmanager
def closed_unless_needed(cluster: Cluster, tell: Callable[[str], None]) -> Iterator[None]:
    """Refuse connections of other machines to the server that TensorFlow starts in the block.

    If a worker may be on another machine, nothing is refused.

    Args:
        cluster: The processes.
        tell: Function that shows a line to the user: that the server cannot be closed.
    """
    if not is_on_loopback(cluster):
        yield
        return
    port = cluster.host_and_port(cluster.rank)[1]
    if sys.platform.startswith("linux"):
        from cnnforge.distributed.socket_filter import close_servers, reserved

        # With an old kernel, the port is open until the server has started.
        with contextlib.suppress(OSError):
            _RESERVED.append(reserved(port))
        with environment({_REUSE: "1" if _RESERVED else "0"}):
            yield
        if close_servers(port, *_RESERVED):
            return
    else:
        yield
    tell(
        f"warning: while training runs, other machines can connect to port {port} of this one, "
        "and this system cannot prevent it: use a firewall, or a network that is closed to others"
    )


def is_on_loopback(cluster: Cluster) -> bool:
    """Return whether all processes have addresses of the loopback interface.

    Args:
        cluster: The processes.
    """
    places = (cluster.host_and_port(rank) for rank in range(len(cluster.addresses)))
    try:
        return all(
            ipaddress.ip_address(found[4][0]).is_loopback
            for place in places
            for found in socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
        )
    except (OSError, ValueError):
        return False
