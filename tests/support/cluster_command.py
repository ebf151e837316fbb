"""Commands whose workers are killed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import local_ray


class Command(local_ray.Command):
    """A command whose workers train."""

    def says(self, text: str, times: int = 1) -> None:
        """Wait until a text is on its stderr."""
        end = time.monotonic() + local_ray.PATIENCE
        while self.err.count(text) < times:
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"no {text!r} in: {self.err}")
            time.sleep(0.02)

    def workers(self) -> dict[int, int]:
        """Return the processes that train, by their rank among the workers."""
        found = {}
        for process in self.titled("cnnforge.cli.workers.command"):
            try:
                lines = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            config = dict(line.partition(b"=")[::2] for line in lines).get(b"TF_CONFIG", b"{}")
            found[json.loads(config)["task"]["index"]] = process
        return found


def parent_of(process: int) -> int:
    """Return the number of the process that has started another one."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
