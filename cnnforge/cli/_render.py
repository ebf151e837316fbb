"""Print messages, tables and progress bars on a terminal.

Only this module imports rich, which takes time, so commands import this module inside functions.
Results go to stdout; messages and progress bars go to stderr. Text is not parsed as markup, so a
path such as `runs/[1]` is printed unchanged.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from types import TracebackType
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

from cnnforge.cli._streams import OutputError, escaped, shows_unicode

if TYPE_CHECKING:
    from cnnforge.cli.terminal.pictures import TerminalPicture

# Width of a table that is written to a file or a pipe: so large that no row is cut or wrapped.
_UNLIMITED = 100_000
# Width of a message that is written to a file or a pipe.
_DEFAULT_WIDTH = 80
GAP = 2
"""Number of columns between two pictures."""


# Index of this process among those that train together. Only the first one prints messages.
_rank = 0


def speak_as(rank: int) -> None:
    """Print from now on as a worker: the first one prints everything, the others only errors.

    Args:
        rank: Index of the worker.
    """
    global _rank
    _rank = rank


def message(text: str, style: str = "") -> None:
    """Print a message on stderr.

    Args:
        text: The message.
        style: A rich style such as `"bold"` or `"yellow"`.
    """
    if not _rank:
        _print(Console(stderr=True), Text(text, style=style))


def result(text: str, style: str = "", indent: int = 0) -> None:
    """Print a line of a result on stdout. A terminal shows it on several lines if it is too long.

    Args:
        text: The line.
        style: A rich style such as `"bold"` or `"yellow"`.
        indent: Number of blanks before all lines but the first.
    """
    console = Console()
    if console.is_terminal:
        text = "\n".join(
            textwrap.wrap(
                text,
                console.width,
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    console.print(Text(text, style=style), soft_wrap=True, highlight=False)


def error(text: str) -> None:
    """Print an error on stderr, as one line that begins with `error:`.

    Args:
        text: The error message.
    """
    text = f"worker {_rank}: {text}" if _rank else text
    line = Text.assemble(("error:", "bold red"), " ", " ".join(text.split()))
    _print(Console(stderr=True), line)


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return Console().is_terminal


def is_plain() -> bool:
    """Return whether stdout is not a terminal, or the user wants no colors (`NO_COLOR`).

    Commands leave out what is only to look at then.
    """
    console = Console()
    return not console.is_terminal or console.no_color


def no_pictures() -> str:
    """Return the reason why stdout cannot show pictures, one clause; empty if it can."""
    console = Console()
    if not console.is_terminal:
        return "stdout is not a terminal"
    if console.no_color:
        return "the environment variable NO_COLOR is set"
    if console.color_system not in ("256", "truecolor"):
        return "the terminal has fewer than 256 colors, as TERM and COLORTERM say"
    if not shows_unicode(console.file):
        return "the encoding of stdout has no block characters"
    return ""


def terminal_size() -> tuple[int, int]:
    """Return the numbers of columns and of lines of the terminal."""
    size = Console().size
    return size.width, size.height


def width_of(text: str) -> int:
    """Return the number of columns of a text on a terminal."""
    return cell_len(text)


def shortened(text: str, width: int) -> str:
    """Return a text that is not wider than `width` columns; its end is replaced by dots."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 2))}.."


def pictures(row: Sequence[TerminalPicture], column: int) -> None:
    """Print pictures side by side on stdout, with their captions. Call `no_pictures` first.

    Args:
        row: The pictures. Together they are not wider than the terminal.
        column: Number of columns for each, without the gap between them.
    """
    console = Console()
    for blocks in ([_half_blocks(each) for each in row], [_captions(each) for each in row]):
        for parts in zip_longest(*blocks, fillvalue=Text()):
            line = Text()
            for part in parts:
                part = part.copy()
                part.truncate(column, overflow="ellipsis", pad=True)
                line.append_text(part)
                line.append(" " * GAP)
            line.rstrip()
            console.print(line, soft_wrap=True, highlight=False)


def _half_blocks(picture: TerminalPicture) -> list[Text]:
    """Return a line for each two rows of pixels: the upper one in the color of the letter."""
    pixels: list[list[list[int]]] = picture.pixels.tolist()
    lines = []
    for number in range(0, len(pixels), 2):
        line = Text()
        # If the number of rows is odd, nothing is below the last one.
        below = pixels[number + 1] if number + 1 < len(pixels) else []
        for top, bottom in zip_longest(pixels[number], below):
            background = None if bottom is None else Color.from_rgb(*bottom)
            line.append("▀", Style(color=Color.from_rgb(*top), bgcolor=background))
        lines.append(line)
    return lines


def _captions(picture: TerminalPicture) -> list[Text]:
    return [
        Text.assemble(
            *((text, Style(color=color and Color.from_rgb(*color))) for text, color in line)
        )
        for line in picture.caption
    ]


def table_width() -> int:
    """Return the max number of columns of a table's line on stdout."""
    console = Console()
    return console.width if console.is_terminal else _UNLIMITED


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout.

    Args:
        columns: The headings.
        rows: The cells of each row. Numbers are aligned to the right; `None` is an empty cell.
        title: Text of a line above the table; "" for no such line.
    """
    rows = [list(row) for row in rows]
    console = Console()

    def shown(value: object) -> Text:
        # Escape before the widths of the columns are computed.
        return Text("" if value is None else escaped(str(value), console.file))

    if not console.is_terminal:
        console = Console(width=_UNLIMITED)
    if title:
        _print(console, Text(escaped(title, console.file), style="bold"))
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index] is not None]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        grid.add_column(
            shown(column), justify="right" if numeric else "left", overflow="fold", min_width=1
        )
    for row in rows:
        grid.add_row(*map(shown, row))
    console.print(grid)


@contextmanager
def optional(remark: str) -> Iterator[None]:
    """Print a warning, and go on, if a result cannot be written to stdout in the block.

    Args:
        remark: End of the warning: what is kept, and in which file.
    """
    try:
        yield
    except OutputError as error:
        if not error.quiet:
            message(f"warning: the result could not be printed on stdout: {error.cause}; {remark}")


class ProgressDisplay:
    """A progress bar on stderr. It is shown only on a terminal, and removed at the end.

    Use it as a context manager. `start` begins a new bar, which replaces the previous one.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[curve]}", markup=False, style="cyan"),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressDisplay:
        """Show the progress bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the progress bar."""
        self._progress.stop()

    def start(self, description: str, total: int) -> None:
        """Start a new bar.

        Args:
            description: Text before the bar, for example `"epoch 1/3"`.
            total: Number of steps of the full bar.
        """
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total, note="", curve="")

    def advance(self, steps: int = 1, note: str = "", curve: str = "") -> None:
        """Advance the bar.

        Args:
            steps: Number of steps since the last call.
            note: Text after the bar, for example `"loss 0.31"`.
            curve: Text before the note, the course of a value.
        """
        if self._task is not None:
            self._progress.update(self._task, advance=steps, note=note, curve=curve)

    @property
    def shows_curves(self) -> bool:
        """Whether stderr is a terminal that shows block characters."""
        console = self._progress.console
        return console.is_terminal and shows_unicode(console.file)

    @property
    def width(self) -> int:
        """Max number of columns of a line: the width of the terminal, or 80 without a terminal."""
        console = self._progress.console
        return console.width if console.is_terminal else _DEFAULT_WIDTH

    def message(self, text: str) -> None:
        """Print a line on stderr above the bar.

        Args:
            text: The line.
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
        text = _wrapped(text, console.width)
    console.print(text, soft_wrap=True, highlight=False)


def _wrapped(text: Text, width: int) -> Text:
    """Wrap a text between words. A word longer than a line, such as a path, is not broken."""
    breaks, end = [], 0
    for line in textwrap.wrap(text.plain, width, break_long_words=False, break_on_hyphens=False):
        start = text.plain.index(line.split(" ")[0], end)
        breaks.append(start)
        end = start + len(line)
    parts = text.divide(breaks[1:])
    for part in parts:
        part.rstrip()
    return Text("\n").join(parts)
