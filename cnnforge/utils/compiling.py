"""Tell the user that kernels are compiled if the first call takes long."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

# A first call that takes more seconds of processor time compiles kernels.
_SLOW = 1.0


@contextmanager
def compiling_announced(log: logging.Logger, what: str) -> Iterator[None]:
    """Log a message if the block takes long, because it then compiles kernels.

    Args:
        log: The logger.
        what: Task of the kernels, for instance `"prediction"`.
    """
    done = Event()
    Thread(target=_announce, args=[done, time.process_time(), log, what], daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _announce(done: Event, start: float, log: logging.Logger, what: str) -> None:
    while not done.wait(_SLOW / 4):
        # Processor time, because on a busy machine everything takes long.
        if time.process_time() - start > _SLOW:
            log.info("compiling the kernels of the %s (once on a machine)", what)
            return
