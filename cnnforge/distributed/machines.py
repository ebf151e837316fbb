"""Find what the machines of a cluster have: processors, and the folders of the command."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cnnforge.distributed.ray_start import Cluster
from cnnforge.errors import CnnforgeError, RunError
from cnnforge.runs import RunDirectory
from cnnforge.utils.processors import usable_processors

_MOMENT = 0.1
# Max seconds until what one machine has made is visible on another one.
_VISIBLE = 10.0
# The processes of a killed worker end as soon as they notice that it is gone.
_MAX_WAIT = 30.0


@dataclass(frozen=True)
class Place:
    """The place at which the command was typed, and what every machine has to see.

    Attributes:
        folder: The working directory of the command.
        needed: Absolute paths of the data and the output.
    """

    folder: Path
    needed: Sequence[Path]

    @classmethod
    def here(cls, *needed: str | os.PathLike[str] | None) -> Place:
        """Return the place of this process.

        Args:
            *needed: Paths of the data, the output and other files. Those that do not exist here,
                such as the name of a dataset, are left out.
        """
        paths = [Path(each).expanduser() for each in needed if each]
        return cls(Path.cwd(), [each.absolute() for each in paths if each.exists()])

    def with_path(self, path: Path) -> Place:
        """Return the same place with one more path that every machine has to see."""
        return Place(self.folder, [*self.needed, path])

    def enter(self) -> str:
        """Go to the folder of the command. Return what this machine does not see, or ""."""
        end = time.monotonic() + _VISIBLE
        for path in (self.folder, *self.needed):
            # A folder in a network may show what is new seconds later.
            while not path.exists() and time.monotonic() < end:
                time.sleep(_MOMENT)
            if not path.exists():
                return (
                    f"the machine {host()} does not see {path}: all machines need the data and the "
                    "output under the same paths, for instance on a network file system"
                )
        os.chdir(self.folder)
        return ""


def host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def processors_of_a_worker(cluster: Cluster, workers: int) -> int:
    """Return the number of processors that each of some workers gets: equal parts.

    Args:
        cluster: The cluster.
        workers: Number of workers.

    Raises:
        CnnforgeError: The cluster has fewer processors than workers.
    """
    if cluster.local:
        return max(1, usable_processors() // workers)
    import ray

    sizes = [int(each["Resources"].get("CPU", 0)) for each in ray.nodes() if each["Alive"]]
    return share(sizes, workers)


def graphics_cards_of_a_worker(workers: int) -> int:
    """Return the number of graphics cards that each of some workers gets: one, or none.

    Args:
        workers: Number of workers. They get none if there are fewer cards than workers.
    """
    import ray

    cards = sum(int(each["Resources"].get("GPU", 0)) for each in ray.nodes() if each["Alive"])
    return 1 if cards >= workers else 0


def share(sizes: Sequence[int], workers: int) -> int:
    """Return the max number of processors that each of some workers can have.

    Args:
        sizes: Number of processors of each machine.
        workers: Number of workers.

    Raises:
        CnnforgeError: There are fewer processors than workers.
    """
    for part in range(max(sizes, default=0), 0, -1):
        if sum(size // part for size in sizes) >= workers:
            return part
    raise CnnforgeError(
        f"the cluster has {sum(sizes)} processors, which is too few for {workers} workers: give "
        f"--workers {sum(sizes)} or fewer, or add machines"
    )


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make a folder for the files of Ray, which is removed at the end.

    Args:
        folder: The folder that all machines see, in which it is made.

    Yields:
        Its absolute path.

    Raises:
        RunError: It cannot be made.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(
                prefix=".ray-", dir=folder, ignore_cleanup_errors=True
            )
            path = Path(stack.enter_context(made)).absolute()
        except OSError as error:
            raise RunError(
                f"the folder {folder} cannot be written to: {error.strerror or error}; name another"
                " with --output"
            ) from error
        yield path


def wait_until_free(run: Path) -> None:
    """Wait until the process of a killed worker no longer trains in a run directory.

    Args:
        run: The run directory.
    """
    end = time.monotonic() + _MAX_WAIT
    while RunDirectory(run).is_claimed and time.monotonic() < end:
        time.sleep(_MOMENT)
