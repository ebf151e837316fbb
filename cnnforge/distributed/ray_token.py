"""The token of a cluster that others have started."""

from __future__ import annotations

import contextlib
import os

from cnnforge.distributed.addresses import open_token_file, token_file
from cnnforge.distributed.ray_output import Show
from cnnforge.errors import CnnforgeError
from cnnforge.utils.names import as_argument

# Seconds in which the cluster answers one question.
_TIMEOUT = 10.0


def token_settings(show: Show) -> dict[str, str]:
    """Return the environment variables for a cluster that others have started.

    Args:
        show: Function that shows a warning about a token that others can read.
    """
    if path := open_token_file():
        show(
            "warning: other users can read the token of the cluster; type: chmod 600 "
            f"{as_argument(path)}"
        )
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN") or token_file())
    return {"RAY_AUTH_MODE": "token"} if has_token and "RAY_AUTH_MODE" not in os.environ else {}


def check_token(address: str, server: str) -> None:
    """Check that the cluster has a token if this process has one.

    A process with a token can connect to a cluster without one, but the processes of the cluster
    cannot call it. So the first object that they share would be lost.

    Args:
        address: The address that the user named.
        server: Host and port of the server of the cluster.

    Raises:
        CnnforgeError: The cluster has no token.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(server) as channel:
        # A cluster with a token refuses a request without it.
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=_TIMEOUT)
        has = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else token_file()
        raise CnnforgeError(
            f"the Ray cluster at {address} was started without a token, and {has} has one: set "
            "RAY_AUTH_MODE=disabled to use the cluster without it, or start the cluster with it"
        )
