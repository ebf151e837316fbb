"""Parts of a page as HTML: sections, tables and charts. Every text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnnforge.pages import escape


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page.

    Attributes:
        id: Name of the section in links: letters, digits and hyphens.
        title: Heading, plain text.
        html: Content, HTML.
    """

    id: str
    title: str
    html: str

    def render(self) -> str:
        """Return the HTML of the section."""
        return (
            f'<section id="{escape(self.id)}"><h2>{escape(self.title)}</h2>\n{self.html}\n'
            "</section>"
        )


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart.

    Attributes:
        name: Name in the legend.
        points: The (x, y) of its points. A `y` that is not finite makes a gap.
        kind: Class of the style sheet, which gives the line its color: `"first"` or `"second"`.
    """

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = "first"


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "", text: int = 1
) -> str:
    """Return a table.

    Args:
        headings: Headings of the columns.
        rows: The cells of each row.
        caption: Caption, plain text.
        text: Number of columns at the left that are text; the others are numbers.
    """
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in headings)
    lines = []
    for row in rows:
        first, *others = row
        cells = [f'<th scope="row">{escape(str(first))}</th>']
        for place, cell in enumerate(others, 1):
            kind = "" if place < text else ' class="number"'
            cells.append(f"<td{kind}>{escape(str(cell))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or "table")}">'
        f'<table class="facts">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Return a list of names and values."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs
    )
    return f'<dl class="facts">{items}</dl>'


def paragraphs(texts: Sequence[str], kind: str = "") -> str:
    """Return a paragraph for each text.

    Args:
        texts: Plain texts.
        kind: Class of the style sheet.
    """
    name = f' class="{kind}"' if kind else ""
    return "\n".join(f"<p{name}>{escape(each)}</p>" for each in texts)


def figure(uri: str, about: str) -> str:
    """Return a picture with a caption.

    Args:
        uri: The `data:` URI of the picture.
        about: Caption, which also describes the picture to those who do not see it.
    """
    text = escape(about)
    return (
        f'<figure><img class="wide" src="{uri}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


# Numbers of a damaged file that are larger are not drawn.
_MAX_DRAWN = 1e100
# Sizes of a chart in units of its own coordinate system.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 260, 58, 12, 12, 40


def chart(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    mark: float | None = None,
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    diagonal: bool = False,
) -> str:
    """Return a line chart as SVG, with its title and a legend.

    Args:
        title: Title, plain text.
        series: The lines.
        x_title: Title of the horizontal axis.
        mark: Position on the horizontal axis that a vertical line marks; `None` for none.
        y_range: Range of the vertical axis; `None`: that of the points.
        percent: Whether the values are fractions that are shown in percent.
        diagonal: Whether a line from the lower left to the upper right is drawn.
    """
    series = [
        Series(each.name, [_drawable(x, y) for x, y in each.points if _in_range(x)], each.kind)
        for each in series
    ]
    points = [point for each in series for point in each.points if math.isfinite(point[1])]
    if not points:
        return paragraphs([f"{title}: no values"])
    xs, ys = zip(*points, strict=True)
    x0, x1 = min(xs), max(xs)
    y_marks = _round_marks(*(y_range or (min(ys), max(ys))))
    y0, y1 = y_range or (y_marks[0], y_marks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        up = (y - y0) / (y1 - y0) if y1 > y0 else 0.5
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = []
    for y in y_marks:
        _, down = place(x0, y)
        text = f"{y:.0%}" if percent else f"{y:g}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down:.1f}" '
            f'y2="{down:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{text}</text>')
    whole = all(float(x).is_integer() for x in xs)
    for x in _whole_marks(x0, x1) if whole else _round_marks(x0, x1):
        across, _ = place(x, y0)
        text = f"{x:g}"
        parts.append(
            f'<text x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="middle">{text}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>'
    )
    if diagonal:
        (a, b), (c, d) = place(x0, y0), place(x1, y1)
        parts.append(f'<line class="mark" x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>')
    if mark is not None and _in_range(mark):
        across, _ = place(mark, y0)
        parts.append(
            f'<line class="mark" x1="{across:.1f}" x2="{across:.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/>'
        )
    for each in series:
        parts.append(_line(each, place))
    legend = "".join(
        f'<span><i class="line {each.kind}"></i> {escape(each.name)}</span>' for each in series
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <span class="legend">{legend}</span>'
        f'</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _in_range(value: float) -> bool:
    return abs(value) < _MAX_DRAWN


def _drawable(x: float, y: float) -> tuple[float, float]:
    """Return a point; its height is NaN if it cannot be drawn."""
    # Steps between denormal numbers could not be computed.
    x, y = (0.0 if abs(each) < 1 / _MAX_DRAWN else each for each in (x, y))
    return x, y if _in_range(y) else math.nan


def _line(series: Series, place: Callable[[float, float], tuple[float, float]]) -> str:
    pieces: list[list[str]] = [[]]
    for x, y in series.points:
        if math.isfinite(y):
            across, down = place(x, y)
            pieces[-1].append(f"{across:.1f},{down:.1f}")
        elif pieces[-1]:
            pieces.append([])
    made = []
    for piece in pieces:
        if len(piece) == 1:
            across, down = piece[0].split(",")
            made.append(f'<circle class="{series.kind}" cx="{across}" cy="{down}" r="3"/>')
        elif piece:
            made.append(f'<polyline class="{series.kind}" points="{" ".join(piece)}"/>')
    return "".join(made)


def _round_marks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers that cover a range, at equal steps."""
    if not high > low:
        # A single value is in the middle.
        low, high = (min(0.0, 2 * low), max(0.0, 2 * low)) if low else (-1.0, 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _whole_marks(low: float, high: float) -> list[int]:
    """Return at most ten whole numbers of a range, at equal steps."""
    step = max(1, math.ceil((high - low) / 9))
    return list(range(math.ceil(low), math.floor(high) + 1, step))
