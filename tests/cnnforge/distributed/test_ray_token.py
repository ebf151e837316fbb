"""A token of the user for a cluster that has none. The cluster is a fake."""

import contextlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from cnnforge.distributed.ray_token import check_token
from cnnforge.errors import CnnforgeError


class RefusedError(Exception):
    """The error of a cluster that wants its token."""


@pytest.fixture(params=[False, True], ids=["without a token", "with a token"])
def wants_token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the server at `head:6379` wants a token."""

    def check_alive(message: Any, timeout: float) -> None:
        if request.param:
            raise RefusedError

    grpc = SimpleNamespace(RpcError=RefusedError, insecure_channel=contextlib.nullcontext)
    stub = SimpleNamespace(CheckAlive=check_alive)
    generated = SimpleNamespace(
        gcs_service_pb2=SimpleNamespace(CheckAliveRequest=dict),
        gcs_service_pb2_grpc=SimpleNamespace(NodeInfoGcsServiceStub=lambda channel: stub),
    )
    monkeypatch.setitem(sys.modules, "grpc", grpc)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.core", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.core.generated", generated)
    return request.param


def test_a_token_for_a_cluster_without_one(
    wants_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    check_token("head:6379", "head:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    if wants_token:
        check_token("head:6379", "head:6379")
    else:
        message = r"head:6379 was started without a token, and RAY_AUTH_TOKEN has one: set RAY_AUTH"
        with pytest.raises(CnnforgeError, match=message):
            check_token("head:6379", "head:6379")
