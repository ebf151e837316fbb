"""How things look on a terminal. The only file that imports rich; import it inside functions.

Results go to stdout, messages and progress to stderr. No text is read as markup: a path such as
`runs/[1]` is printed as it is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

# Wide enough for any row: a table in a file or a pipe is not cut or wrapped.
_UNLIMITED = 100_000
# Columns of a line in a file or a pipe.
_USUAL = 80


def message(text: str, style: str = "") -> None:
    """Print a message on stderr.

    Args:
        text: What to say.
        style: A rich style such as `"bold"` or `"yellow"`.
    """
    _print(Console(stderr=True), Text(text, style=style))


def error(text: str) -> None:
    """Print an error on stderr, as one line that begins with `error:`.

    Args:
        text: What happened, what was expected, how to fix it.
    """
    line = Text.assemble(("error:", "bold red"), " ", " ".join(text.split()))
    _print(Console(stderr=True), line)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout.

    Args:
        columns: The headings.
        rows: The cells of each row. Numbers are aligned to the right; `None` is left empty.
        title: A line above the table; empty for none.
    """
    rows = [list(row) for row in rows]
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNLIMITED)
    if title:
        _print(console, Text(title, style="bold"))
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index] is not None]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        grid.add_column(
            Text(column), justify="right" if numeric else "left", overflow="fold", min_width=1
        )
    for row in rows:
        grid.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(grid)


class ProgressDisplay:
    """One progress bar on stderr, shown on a terminal only, and taken away at the end.

    Use it as a context manager; `start` begins a bar in place of the one before.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressDisplay:
        """Show the display."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the display away."""
        self._progress.stop()

    def start(self, description: str, total: int) -> None:
        """Begin a bar.

        Args:
            description: What is going on, for instance `"epoch 1/3"`.
            total: How many steps it takes.
        """
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar on.

        Args:
            steps: How many steps were done since the last call.
            note: A few words behind the bar, for instance `"loss 0.31"`.
        """
        if self._task is not None:
            self._progress.update(self._task, advance=steps, note=note)

    @property
    def width(self) -> int:
        """Columns of a line that is not to be wrapped: the terminal's, or 80 if there is none."""
        console = self._progress.console
        return console.width if console.is_terminal else _USUAL

    def message(self, text: str) -> None:
        """Print a line on stderr above the bar.

        Args:
            text: What to say.
        """
        _print(self._progress.console, Text(text))


def progress() -> ProgressDisplay:
    """Return a new progress display.

    Example:
        ```python
        with _render.progress() as display:
            display.start("epoch 1/3", total=100)
            display.advance(10, note="loss 0.31")
            display.message("epoch 1: accuracy 0.97")
        ```
    """
    return ProgressDisplay()


def _print(console: Console, text: Text) -> None:
    if console.is_terminal:
        text = _broken(text, console.width)
    console.print(text, soft_wrap=True, highlight=False)


def _broken(text: Text, width: int) -> Text:
    """Break a text between words; a path that is longer than a line stays whole."""
    breaks, end = [], 0
    for line in textwrap.wrap(text.plain, width, break_long_words=False, break_on_hyphens=False):
        start = text.plain.index(line.split(" ")[0], end)
        breaks.append(start)
        end = start + len(line)
    parts = text.divide(breaks[1:])
    for part in parts:
        part.rstrip()
    return Text("\n").join(parts)
