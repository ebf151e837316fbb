"""The options about workers, and the start of Ray for a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cnnforge.distributed.ray_start import Cluster

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Share the work between N processes, on this machine or on a Ray cluster.",
    ),
]
"""The option `--workers`. It is the type of a parameter `workers` with default `None`."""

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="The Ray cluster of the workers: local, auto, HOST:PORT or ray://HOST:PORT.  "
        "[default: local]",
    ),
]
"""The option `--address`. It is the type of a parameter `address` with default `None`."""

StartupTimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--startup-timeout",
        metavar="TIME",
        help="End with an error if the workers are not ready after this time.  [default: 2m]",
    ),
]
"""The option `--startup-timeout`. It is the type of a parameter with default `None`."""


def check_workers(
    workers: int | None, address: str | None, startup_timeout: str | None
) -> tuple[str, float]:
    """Check the options about workers, before other work begins.

    Args:
        workers: The value of `--workers`.
        address: The value of `--address`.
        startup_timeout: The value of `--startup-timeout`.

    Returns:
        The address, and the time in seconds.

    Raises:
        UsageError: A value is not valid, or an option is given without `--workers`.
        CnnforgeError: There are workers, and Ray is not installed (exit code 2).
    """
    from cnnforge.configuration import parse_time
    from cnnforge.distributed.addresses import LOCAL, STARTUP_TIMEOUT, check_address, check_ray
    from cnnforge.errors import UsageError

    for option, value in (("--address", address), ("--startup-timeout", startup_timeout)):
        if workers is None and value is not None:
            raise UsageError(f"{option} is for several workers: add --workers N, or leave it out")
    address = address or LOCAL
    check_address(address)
    seconds = STARTUP_TIMEOUT
    if startup_timeout is not None:
        seconds = parse_time(startup_timeout, "--startup-timeout")
    if workers is not None:
        check_ray()
    return address, seconds


@contextmanager
def started(workers: int, address: str, seconds: float) -> Iterator[Cluster]:
    """Start Ray, or connect to a cluster. A Ctrl-C waits until all processes of Ray have ended.

    Args:
        workers: The value of `--workers`.
        address: The address, see `check_workers`.
        seconds: Max time until the cluster is ready.
    """
    from cnnforge.cli import _ctrl_c, _render
    from cnnforge.distributed.ray_start import cluster

    with _ctrl_c.saving(), cluster(address, workers, seconds, show=_render.message) as found:
        yield found
