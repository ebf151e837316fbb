"""The options of commands that several workers carry out with Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=10_000,
        help="Share the work among N processes with Ray, on this machine or a cluster.",
    ),
]
"""The option `--workers`. It is the type of a command's parameter with default `None`."""

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="local|auto|HOST:PORT|ray://HOST:PORT",
        help="With --workers: the Ray cluster; local starts Ray on this machine.  [default: local]",
    ),
]
"""The option `--address`. It is the type of a command's parameter with default `None`."""

StartupTimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--startup-timeout",
        metavar="TIME",
        help="Max time until all workers have started, such as 90s or 5m.  [default: 2m]",
    ),
]
"""The option `--startup-timeout`. It is the type of a command's parameter with default `None`."""


@dataclass(frozen=True)
class Workers:
    """The values of these options.

    Attributes:
        count: Number of workers.
        address: `"local"`, or the address of a cluster.
        startup_timeout: Max number of seconds until all have started.
    """

    count: int
    address: str
    startup_timeout: float


def read_workers(
    count: int | None, address: str | None, startup_timeout: str | None
) -> Workers | None:
    """Check the options, before anything is started.

    Args:
        count: Value of `--workers`, or `None`.
        address: Value of `--address`, or `None`.
        startup_timeout: Value of `--startup-timeout`, or `None`.

    Returns:
        The options; `None` without `--workers`.

    Raises:
        UsageError: An option is wrong, or needs `--workers`.
        MissingRayError: Ray is not installed.
    """
    from cnnforge.configuration import parse_time
    from cnnforge.errors import UsageError

    if count is None:
        if address is not None:
            raise UsageError(
                f"--address {address} is the cluster of several workers: add --workers N, or leave "
                "it out"
            )
        return None
    from cnnforge.distributed.addresses import LOCAL, check_address, check_ray
    from cnnforge.distributed.ray_start import STARTUP_TIMEOUT

    address = LOCAL if address is None else address
    check_address(address)
    timeout = STARTUP_TIMEOUT
    if startup_timeout is not None:
        timeout = parse_time(startup_timeout, "--startup-timeout")
    check_ray()
    return Workers(count, address, timeout)
