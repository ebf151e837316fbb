"""SIGINT and SIGTERM ask the loop to stop; they do not tear it down."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

_EXIT_OFFSET = 128


class StopOnSignal:
    """Turns the first SIGINT or SIGTERM into a wish that the training loop looks at.

    A second SIGINT raises `KeyboardInterrupt` at once: files are written atomically, what was
    saved before stays. Outside of the main thread, where Python allows no handlers, nothing is
    changed.

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
        """Whether a signal has come."""
        return self._received is not None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number: 130 or 143; 0 where none has come."""
        return 0 if self._received is None else _EXIT_OFFSET + self._received

    @property
    def name(self) -> str:
        """The signal's name, or nothing."""
        return "" if self._received is None else self._received.name

    def __enter__(self) -> StopOnSignal:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or signal.Signals(number)
