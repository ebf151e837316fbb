"""Run a command of cnnforge as one of several workers: it ends at once if its stdin ends.

The process that has started it holds the other end of stdin, and writes nothing. So no process is
left that trains for a worker that was killed.
"""

from __future__ import annotations

import os
import sys
import threading


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    # What is saved is complete: files are written atomically.
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    from cnnforge.cli import main

    sys.exit(main())
