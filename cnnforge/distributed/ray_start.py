"""Start Ray on this machine, or connect to a cluster, for the time of one command.

Use it so:

    from cnnforge.distributed.ray_start import cluster

    with cluster(address, workers=4, startup_timeout=60) as started:
        import ray
        ...

Ray must not be imported before: it reads some settings only when it is imported. Inside, `ray` is
connected. At the end, whatever happens, all processes that were started here have ended and their
files are removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnforge.distributed.addresses import (
    AUTO,
    CLIENT,
    LOCAL,
    STARTUP_TIMEOUT,
    check_address,
    check_answers,
    check_ray,
    no_answer,
)
from cnnforge.distributed.processes import (
    Descendants,
    environment,
    private_folder,
    ray_folder,
)
from cnnforge.distributed.ray_output import Show, shown_by, to_stderr
from cnnforge.distributed.ray_token import check_token, token_settings
from cnnforge.distributed.ray_watch import LOOK, ClusterWatch
from cnnforge.errors import CnnforgeError, message_of
from cnnforge.utils.available_memory import available_memory
from cnnforge.utils.held_back import held_back_stderr
from cnnforge.utils.processors import usable_processors

_LOOPBACK = "127.0.0.1"
_MB = 2**20
# Ray shares data between processes in this memory. More is written to the disk.
_STORE = 512 * _MB
_MIN_STORE = 80 * _MB
# Seconds in which Ray ends its processes itself.
_PATIENCE = 10.0
# All errors of Ray about a process that has not started within a fixed time have these words.
_TOO_SLOW = "timed out"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster to which this process is connected.

    Attributes:
        address: The address that the user named, for instance `local`.
        processors: Number of processors that Ray may use.
        watch: It knows whether the cluster still answers.
    """

    address: str
    processors: int
    watch: ClusterWatch

    @property
    def local(self) -> bool:
        """Whether Ray was started for this command."""
        return self.address == LOCAL


@contextlib.contextmanager
def cluster(
    address: str = LOCAL,
    workers: int = 1,
    startup_timeout: float = STARTUP_TIMEOUT,
    *,
    show: Show = to_stderr,
) -> Iterator[Cluster]:
    """Start Ray on this machine, or connect to a cluster.

    A local Ray listens on the loopback interface only, and accepts only processes that have the
    token in a file of this user. Ray sends no usage statistics, and its dashboard is off.

    Args:
        address: `local`, `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        workers: Number of processors that the command needs at the same time. A local Ray offers
            one more than this, or all processors of the machine, whichever is larger.
        startup_timeout: Max time in seconds until the cluster is ready.
        show: Function that shows a line: what a worker prints, with its name, and that a worker has
            died.

    Yields:
        The cluster.

    Raises:
        UsageError: The address is not valid.
        CnnforgeError: Ray is not installed (exit code 2), it cannot be started, nothing answers at
            the address in time, or the cluster has too few processors.
    """
    check_address(address)
    check_ray()
    check_answers(address, startup_timeout)
    with contextlib.ExitStack() as stack:
        settings = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS": "0",
            "RAY_COLOR_PREFIX": "0",
            # Errors of Ray that matter are exceptions too.
            "RAY_BACKEND_LOG_LEVEL": os.environ.get("RAY_BACKEND_LOG_LEVEL", "fatal"),
        }
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            folder = stack.enter_context(private_folder())
            settings |= _local_settings(folder)
            options |= {
                "num_cpus": max(workers + 1, usable_processors()),
                "object_store_memory": _store_size(),
                "_temp_dir": ray_folder(folder),
                "_node_ip_address": _LOOPBACK,
            }
        else:
            settings |= token_settings(show)
        stack.enter_context(environment(settings))
        _prepare_ray(address)
        stack.enter_context(shown_by(show))
        processes = Descendants()
        host = _started(address, options, processes, startup_timeout)
        try:
            yield _connected(address, workers, host.watch(show))
        except BaseException:
            host.stop(_patience_after_error(address), processes)
            raise
        host.stop(_PATIENCE, processes)


def _started(
    address: str, options: Mapping[str, Any], processes: Descendants, seconds: float
) -> _Host:
    """Connect to Ray, or start it.

    Ray has limits of its own for the start of its processes. On a slow machine they are too short,
    so the start is repeated until the time of the user is over.

    Args:
        address: The address.
        options: Arguments of `ray.init`.
        processes: The processes that Ray will start.
        seconds: Max time until Ray is ready.

    Returns:
        The thread that is connected to Ray.

    Raises:
        CnnforgeError: Ray is not ready in time, or it cannot be started.
    """
    end, left = time.monotonic() + seconds, seconds
    while True:
        host = _Host(address, options)
        try:
            host.start(left)
            return host
        except TimeoutError as error:
            host.stop(_patience_after_error(address), processes)
            left = end - time.monotonic()
            if address != LOCAL or left <= 0:
                raise CnnforgeError(no_answer(address, seconds)) from error
            shutil.rmtree(options["_temp_dir"], ignore_errors=True)
        except BaseException:
            host.stop(_patience_after_error(address), processes)
            raise


def _patience_after_error(address: str) -> float:
    """Return the seconds in which Ray ends in order. Nobody waits for a local one."""
    return 0.0 if address == LOCAL else _PATIENCE


class _Host(threading.Thread):
    """The thread that connects to Ray and disconnects.

    Linux ends the processes of a local Ray when the thread that has started them ends, also when
    this process is killed. So this thread lives as long as Ray. And Ray replaces handlers of
    signals only in the main thread.

    Args:
        address: The address.
        options: Arguments of `ray.init`.
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        super().__init__(name="cnnforge-ray", daemon=True)
        self._address = address
        self._options = options
        self._ready, self._end = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._watch: ClusterWatch | None = None

    def run(self) -> None:
        """Connect, wait, and disconnect."""
        import ray

        try:
            own = {} if self._address.startswith(CLIENT) else {"job_config": _job_config()}
            ray.init(**self._options, **_QUIET, **own)
        except BaseException as error:
            self._error = error
        self._ready.set()
        while not self._end.wait(LOOK):
            if self._watch is not None:
                self._watch.look()
        with contextlib.suppress(Exception):
            ray.shutdown()

    def start(self, seconds: float) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the thread and wait until Ray is ready.

        Args:
            seconds: Max time to wait.

        Raises:
            TimeoutError: Ray is not ready in time, or not within a limit of its own.
            CnnforgeError: It cannot be started.
        """
        # Ray writes lines about its start.
        with held_back_stderr():
            super().start()
            is_ready = self._ready.wait(seconds)
        _restore_sigterm()
        if not is_ready:
            raise TimeoutError
        if self._address == LOCAL and _TOO_SLOW in str(self._error).lower():
            raise TimeoutError from self._error
        if self._error is not None:
            raise CnnforgeError(_reason(self._address, self._error)) from self._error

    def watch(self, show: Show) -> ClusterWatch:
        """Let the thread look whether the cluster answers, from now on.

        Args:
            show: Function that shows a line.
        """
        import ray

        # A client does not know the address, and its calls fail without a cluster.
        is_client = self._address.startswith(CLIENT)
        address = "" if is_client else ray.get_runtime_context().gcs_address
        self._watch = ClusterWatch(address, show)
        return self._watch

    def stop(self, seconds: float, processes: Descendants) -> None:
        """Disconnect. Kill the processes of a local Ray that do not end.

        Args:
            seconds: Max time in which they can end in order.
            processes: The processes that Ray has started.
        """
        processes.look()
        self._end.set()
        if self._ready.is_set():
            self.join(seconds)
        if self._address == LOCAL:
            processes.kill()
        if self._ready.is_set():
            self.join(_PATIENCE)
        if self.is_alive():
            # Ray would wait for the thread that is not ready when Python ends.
            import atexit

            from ray._private import worker

            atexit.unregister(worker.shutdown)


def _restore_sigterm() -> None:
    """Install Python's handler of SIGTERM again. Ray has replaced it by one of its own, in C++."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


_QUIET: Mapping[str, Any] = {
    "include_dashboard": False,
    "logging_level": logging.CRITICAL,
    "log_to_driver": True,
}


def _job_config() -> Any:
    from ray.job_config import JobConfig

    class OwnPaths(JobConfig):
        """Settings with which workers do not import modules from the working directory."""

        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return OwnPaths()


def _local_settings(folder: Path) -> dict[str, str]:
    """Write the token of a local Ray, and return the environment variables."""
    path = folder / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_AUTH_TOKEN": "",
        "RAY_ADDRESS": "",
        # Ray would give its workers a lower priority than other programs have.
        "RAY_worker_niceness": str(os.nice(0)),
        # Ray then uses the address of the loopback interface for everything.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def _prepare_ray(address: str) -> None:
    """Import Ray, and let it read the environment again if it was imported before."""
    import ray
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config

    # A program of the user that uses Ray itself.
    if ray.is_initialized():
        raise CnnforgeError("this process is connected to Ray already: call ray.shutdown() before")
    ray_constants.ENABLE_RAY_CLUSTER = address != LOCAL
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _store_size() -> int:
    """Return the number of bytes for the memory that the processes of a local Ray share."""
    free = [available_memory() or 4 * _STORE]
    with contextlib.suppress(OSError):
        status = os.statvfs("/dev/shm")
        free.append(status.f_bavail * status.f_frsize)
    return max(_MIN_STORE, min(_STORE, min(free) // 4))


def _connected(address: str, workers: int, watch: ClusterWatch) -> Cluster:
    """Check a cluster to which this process is connected."""
    import ray

    if address != LOCAL and not address.startswith(CLIENT):
        check_token(address, ray.get_runtime_context().gcs_address)
    processors = int(ray.cluster_resources().get("CPU", 0))
    if processors < workers:
        raise CnnforgeError(
            f"the Ray cluster at {address} has {processors} processors, and {workers} workers need "
            f"{workers}: use --workers {max(1, processors)}, or add machines with 'ray start'"
        )
    return Cluster(address, processors, watch)


def _reason(address: str, error: BaseException) -> str:
    """Return the message about an error of `ray.init`."""
    text = message_of(error)
    what = "Ray could not be started" if address == LOCAL else f"no connection to Ray at {address}"
    if address == AUTO and isinstance(error, ConnectionError):
        return (
            "no Ray cluster runs on this machine: start one with 'ray start --head', or leave out "
            "--address"
        )
    if "Authentication" in type(error).__name__ or "UNAUTHENTICATED" in text:
        return (
            f"the Ray cluster at {address} wants its token: set RAY_AUTH_TOKEN_PATH to the file "
            "that has it"
        )
    kind = "" if address.startswith(CLIENT) else f"{type(error).__name__}: "
    return f"{what}: {kind}{text[:300]}"
