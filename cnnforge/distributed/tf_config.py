"""Read from the environment variable TF_CONFIG which processes train together.

SLURM's scripts, the operators of Kubernetes and Ray set it for each process. It is JSON, such as
`{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnnforge.errors import UsageError

VARIABLE = "TF_CONFIG"
_EXAMPLE = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+):(\d+)")
# A chief is the first of the workers. No other kind of process trains without a server.
_KINDS = ("chief", "worker")


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Args:
        addresses: `host:port` of each process.
        rank: Index of this process.
    """

    addresses: tuple[str, ...]
    rank: int

    def host_and_port(self, rank: int) -> tuple[str, int]:
        """Return the host and the port of a process.

        Args:
            rank: Its index.
        """
        host, _, port = self.addresses[rank].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def index_on_host(self) -> int:
        """Number of processes before this one that have the same host."""
        host = self.host_and_port(self.rank)[0]
        return sum(self.host_and_port(rank)[0] == host for rank in range(self.rank))


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """Read the processes from the environment.

    Args:
        environment: The variables of the environment.

    Returns:
        The cluster; `None` if it is not set, or has one process.

    Raises:
        UsageError: The variable has another form.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise _malformed(f"is not JSON ({error})") from error
    if value == {}:
        return None
    jobs = _get(value, "cluster", dict)
    unknown = [name for name in jobs if name not in _KINDS]
    if unknown:
        raise _malformed(f"has the job {unknown[0]!r}, and cnnforge trains with workers only")
    addresses: list[str] = []
    begins = {}
    for kind in _KINDS:
        begins[kind] = len(addresses)
        listed = jobs.get(kind, [])
        if not isinstance(listed, list):
            raise _malformed(f"has {listed!r} as the addresses of {kind!r}, which is not a list")
        addresses += listed
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            raise _malformed(f"has the address {address!r}, which is not HOST:PORT")
    if len(set(addresses)) < len(addresses):
        raise _malformed("has one address twice")
    task = _get(value, "task", dict)
    kind, index = task.get("type"), task.get("index")
    size = len(jobs.get(kind, [])) if isinstance(kind, str) else 0
    try:
        number = -1 if isinstance(index, bool) else int(index)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < size:
        raise _malformed(
            f"has the task {task!r}, which is not one of its {len(addresses)} processes"
        )
    if len(addresses) == 1:
        return None
    return Cluster(tuple(addresses), begins[str(kind)] + number)


def _get(value: Any, key: str, kind: type) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise _malformed(f"has no {key!r} with names and values")
    return found


def _malformed(fault: str) -> UsageError:
    return UsageError(
        f"the environment variable {VARIABLE} {fault}: expected such as {_EXAMPLE}; to train with "
        f"one process, unset {VARIABLE}"
    )
