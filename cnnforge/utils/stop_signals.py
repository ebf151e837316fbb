"""Turn the signals SIGINT, SIGTERM, SIGHUP and SIGUSR1 into a request to stop.

The training loop checks for such a request.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

_EXIT_OFFSET = 128
# SIGHUP is sent when the terminal closes, and SIGUSR1 by batch systems such as SLURM before the
# time of a job is over. Windows has neither.
_SIGNALS: list[signal.Signals] = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]


class StopOnSignal:
    """Context manager that turns the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 into a request.

    SIGHUP stays ignored if the process was started so, for instance with `nohup`. A second SIGINT
    raises `KeyboardInterrupt` at once. No file is damaged then, since files are written atomically.
    Python allows signal handlers only in the main thread; in other threads, the context manager
    does nothing.

    Example:
        ```python
        with StopOnSignal() as stop:
            train(model, dataset, epochs=3, should_stop=stop)
        sys.exit(stop.exit_code)
        ```
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        """Return whether a signal was received."""
        return self._received is not None

    @property
    def exit_code(self) -> int:
        """128 plus the number of the received signal: 130, 143, 129 or 138; 0 without a signal."""
        return 0 if self._received is None else _EXIT_OFFSET + self._received

    @property
    def name(self) -> str:
        """Name of the received signal, for instance `"SIGINT"`; empty without a signal."""
        return "" if self._received is None else self._received.name

    def __enter__(self) -> StopOnSignal:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or signal.Signals(number)
