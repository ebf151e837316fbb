"""Show what the workers of Ray print, and which of them have died, instead of Ray's own lines."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Show = Callable[[str], None]
"""A function that shows a line of text to the user."""

_DIED = "A worker died or was killed"
_PROCESS = re.compile(r"Worker PID: (\d+)")
_HOST = re.compile(r"Worker IP address: (\S+)")
# Ray reports a worker that was killed because the machine has no memory left in another form.
_NO_MEMORY = "due to memory pressure"
_OF_RAY_DATA = re.compile(r"(?:MapWorker\()?MapBatches\((\w+)\)+")
# A line that a part of Ray in C++ writes.
_OF_RAY = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] ")
_COLOR = re.compile(r"\x1b\[\d*m")
_PREFIXED = re.compile(r"\((.*?) ?pid=(\d+)(?:, ip=([^)]+))?\) (.*)")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def to_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def lines_of(data: Mapping[str, Any]) -> Iterator[str]:
    """Turn a message of Ray about a process into lines for the user.

    Args:
        data: The message: `lines` with the texts, `pid` with the number of the process or the name
            of a part of Ray, and `ip`, `actor_name` and `task_name` if they are known.

    Yields:
        Lines that a worker has printed, with its name, and lines about dead workers. Other messages
        of Ray yield nothing.
    """
    process = data.get("pid")
    if process in ("raylet", "autoscaler", "gcs_server"):
        for line in data.get("lines", ()):
            yield from _about_workers(str(line))
        return
    name = data.get("actor_name") or data.get("task_name") or "worker"
    # Ray Data puts the name of the class or function in other names.
    name = _OF_RAY_DATA.sub(r"\1", name)
    host = data.get("ip")
    where = "" if host in (None, *_LOOPBACK, data.get("localhost")) else f" on {host}"
    for line in data.get("lines", ()):
        text = str(line).rstrip()
        # Ray's own marks in the output of a worker start with a colon.
        marks = (":actor_name:", ":task_name:", ":job_id:")
        if text and not text.startswith(marks) and not _OF_RAY.match(text):
            yield f"{name} (process {process}{where}): {text}"


def _about_workers(line: str) -> Iterator[str]:
    process, host = _PROCESS.search(line), _HOST.search(line)
    where = "" if host is None or host[1] in _LOOPBACK else f" on {host[1]}"
    if _DIED in line:
        number = process[1] if process else "?"
        yield f"warning: worker process {number}{where} died: it was killed, or it crashed"
    elif _NO_MEMORY in line:
        yield f"warning: Ray has killed a worker{where}, because the memory is nearly full"


def _parsed(line: str) -> Mapping[str, Any]:
    """Return the message that Ray has turned into a line for a client of a cluster."""
    line = _COLOR.sub("", line)
    if match := _PREFIXED.fullmatch(line):
        name, process, host, text = match.groups()
        return {"pid": process, "ip": host, "actor_name": name, "lines": [text]}
    return {"pid": "raylet", "lines": [line]}


@contextlib.contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Replace the function with which Ray prints the output of workers.

    Args:
        show: The function for each line.
    """
    from ray._private import worker
    from ray.util.client import logsclient

    def printed(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in lines_of(data):
            show(line)

    def streamed(client: Any, level: int, msg: str) -> None:
        for line in msg.splitlines():
            for text in lines_of(_parsed(line)):
                show(text)

    places = (
        (worker, "print_to_stdstream", printed),
        (logsclient.LogstreamClient, "stdstream", streamed),
    )
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, function in places:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
