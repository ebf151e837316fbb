"""Make the web page on which two runs, or two groups of runs, stand side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnforge.comparing.comparison import Comparison, Flip, Group
from cnnforge.comparing.differences import Difference
from cnnforge.comparing.history import history
from cnnforge.comparing.statistics import shown_p
from cnnforge.errors import CnnforgeError
from cnnforge.pages import escape, page
from cnnforge.pages.parts import Section, Series, chart, facts, paragraphs, table
from cnnforge.reports.thumbnails import thumbnail
from cnnforge.utils.atomic_files import write_text

_MAX_PICTURES = 48
_NAMED = 3


def write_page(path: Path, found: Comparison) -> None:
    """Write the page of a comparison.

    Args:
        path: The HTML file.
        found: The comparison.

    Raises:
        CnnforgeError: The file could not be written.
        DataError: A picture cannot be read.
    """
    try:
        write_text(path, comparison_page(found))
    except OSError as error:
        raise CnnforgeError(
            f"{path} could not be written: {error.strerror or error}; choose another file"
        ) from error


def comparison_page(found: Comparison) -> str:
    """Return the page of a comparison as HTML.

    Raises:
        DataError: A picture cannot be read.
    """
    sections = [
        _flips(found),
        _classes(found),
        _curves(found),
        _runs(found),
        Section("configuration", "Configuration", _differences("option", found.configuration)),
        Section("environment", "Environment", _differences("part", found.environment)),
    ]
    sections = [each for each in sections if each.html]
    links = "".join(f'<li><a href="#{each.id}">{escape(each.title)}</a></li>' for each in sections)
    body = "\n".join(
        [
            _summary(found),
            f'<nav aria-label="Sections"><ul class="links">{links}</ul></nav>',
            *(each.render() for each in sections),
        ]
    )
    return page("comparison of two runs", body, scripts=["page.js", "compare.js"], data={})


def _summary(found: Comparison) -> str:
    metric, common = found.metric, found.common
    tiles = []
    for group in (found.first, found.second):
        spread = "" if group.spread is None else f", std {metric.text(group.spread)}"
        count = "1 run" if len(group.runs) == 1 else f"{len(group.runs)} runs"
        names = ", ".join("/".join(run.path.parts[-2:]) for run in group.runs[:_NAMED])
        more = ", ..." if len(group.runs) > _NAMED else ""
        tiles.append(
            f'<div class="tile"><p class="muted">{group.name}: {escape(metric.title)}, {count}'
            f'{spread}</p><p class="big">{metric.text(group.mean)}</p>'
            f'<p class="muted">{escape(names + more)}</p></div>'
        )
    mean, low, high = found.difference
    scale, unit = (100, " points") if metric.percent else (1, "")
    shown = f"{scale * mean:+.2f}{unit}"
    if not math.isnan(low):
        shown += f", 95 % interval {scale * low:+.2f} to {scale * high:+.2f}"
    shown = shown.replace("-", "\u2212")
    pairs = [
        ("B minus A", shown),
        *((test.name, shown_p(test.p)) for test in found.tests),
        ("pictures", f"{len(common):,} of {common.total:,}, {common.what}"),
        ("left out", f"{common.trained:,}, because a run was trained on them"),
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    panel = f'<div class="panel"><p>Notes</p><ul>{notes}</ul></div>' if notes else ""
    return (
        f"<h1>{escape(_title(found))}</h1>"
        f'<p class="verdict"><strong>{_unbroken(found.verdict)}</strong></p>'
        f'<div class="columns">{"".join(tiles)}</div>{facts(pairs)}{panel}'
    )


def _unbroken(text: str) -> str:
    """Return a text as HTML in which no line ends inside of `p = 0.03`."""
    made = escape(text)
    for sign in ("=", escape("<")):
        made = made.replace(f"p {sign} ", f"p&nbsp;{sign}&nbsp;")
    return made


def _title(found: Comparison) -> str:
    groups = (found.first, found.second)
    names = [_name(group, 1) for group in groups]
    if names[0] == names[1]:
        names = [_name(group, 2) for group in groups]
    return f"{names[0]} and {names[1]}"


def _name(group: Group, parts: int) -> str:
    """Return the last parts of the path of a run, or of the folder of several runs."""
    path = group.runs[0].path.absolute()
    return "/".join((path if len(group.runs) == 1 else path.parent).parts[-parts:])


def _flips(found: Comparison) -> Section:
    if found.both is None:
        return Section("flips", "Pictures that flipped", "")
    only = [[flip for flip in found.flips if flip.better == name] for name in ("A", "B")]
    neither = len(found.common) - found.both - len(found.flips)
    counts = facts(
        [
            ("both are right", f"{found.both:,}"),
            ("only A is right", f"{len(only[0]):,}"),
            ("only B is right", f"{len(only[1]):,}"),
            ("neither is right", f"{neither:,}"),
        ]
    )
    if not found.flips:
        return Section("flips", "Pictures that flipped", counts)
    shown = [flip for side in only for flip in side[: _MAX_PICTURES // 2]]
    first = found.common.of_runs[0]
    pictures = first.samples.fetch(first.indices[np.array([flip.number for flip in shown])])
    items = "".join(
        _picture(flip, image, found) for flip, image in zip(shown, pictures, strict=True)
    )
    buttons = "".join(
        f'<button type="button" data-better="{value}" aria-pressed="{str(not value).lower()}">'
        f"{text}</button>"
        for value, text in (("", "All"), ("A", "Only A is right"), ("B", "Only B is right"))
    )
    left = len(found.flips) - len(shown)
    note = f" {left:,} more are in the result of --json." if left else ""
    about = paragraphs([f"{len(shown):,} of {len(found.flips):,} pictures.{note}"], "muted")
    return Section(
        "flips",
        "Pictures that flipped",
        f'{counts}<div class="choices" role="group" aria-label="Which pictures">{buttons}</div>'
        f'<div id="flipped" aria-live="polite">{about}</div>'
        f'<ul class="pictures">{items}</ul>',
    )


def _picture(flip: Flip, image: np.ndarray, found: Comparison) -> str:
    right, wrong = ("positive", "negative"), ("negative", "positive")
    a, b = right if flip.better == "A" else wrong
    name = "/".join(flip.name.split("/")[-2:])
    return (
        f'<li data-better="{flip.better}"{" class=wrong" if flip.better == "B" else ""}>'
        f'<img src="{thumbnail(image)}" alt="{escape(flip.truth)}">'
        f"<p>truth <b>{escape(flip.truth)}</b></p>"
        f"<p>{_mark(a)} A: {escape(flip.first)}</p><p>{_mark(b)} B: {escape(flip.second)}</p>"
        f'<p class="muted" title="{escape(flip.name)}">{escape(name)}</p></li>'
    )


def _mark(kind: str) -> str:
    # A sign and a word, so that colors are not needed to tell them apart.
    if kind == "positive":
        return '<span aria-label="right">\u2713</span>'
    return '<span aria-label="wrong">\u2717</span>'


def _classes(found: Comparison) -> Section:
    rows = sorted(
        (row for row in found.classes if row.samples), key=lambda row: row.first - row.second
    )
    if not rows:
        return Section("classes", "Classes", "")
    what = "recall" if found.first.scores[0].values is not None else "AP"
    cells = [
        (
            row.name,
            f"{row.samples:,}",
            f"{row.first:.1%}",
            f"{row.second:.1%}",
            f"{100 * (row.second - row.first):+.1f}".replace("-", "\u2212"),
        )
        for row in rows
    ]
    return Section(
        "classes",
        "Classes",
        table(
            ["class", "n", "A", "B", "B \u2212 A, points"],
            cells,
            caption=f"{what} of each class, those that B gains first",
        ),
    )


def _curves(found: Comparison) -> Section:
    metric, series = found.metric, []
    for group, kind in ((found.first, "first"), (found.second, "second")):
        points = history(group.runs[0].path, metric.name)
        if points:
            series.append(Series(f"{group.name}, {group.runs[0].path.name}", points, kind))
    if not series:
        return Section("curves", "Curves", "")
    made = chart(
        f"validation {metric.title}", series, x_title="epoch", percent=bool(metric.percent)
    )
    note = paragraphs(
        ["Each run measured these values on its own validation pictures while it was trained."],
        "muted",
    )
    return Section("curves", "Curves", made + note)


def _runs(found: Comparison) -> Section:
    if len(found.first.runs) == len(found.second.runs) == 1:
        return Section("runs", "Runs", "")
    rows = [
        (group.name, run.path.name, str(run.options.get("seed", "")), found.metric.text(s.value))
        for group in (found.first, found.second)
        for run, s in zip(group.runs, group.scores, strict=True)
    ]
    for group in (found.first, found.second):
        rows += _summary_rows(group, found)
    return Section(
        "runs",
        "Spread over seeds",
        table(
            ["group", "run", "seed", found.metric.title],
            rows,
            caption="All runs, on the same pictures",
            text=2,
        ),
    )


def _summary_rows(group: Group, found: Comparison) -> list[tuple[str, str, str, str]]:
    rows = [(group.name, "mean", "", found.metric.text(group.mean))]
    if group.spread is not None:
        rows.append((group.name, "std", "", found.metric.text(group.spread)))
    return rows


def _differences(heading: str, found: Sequence[Difference]) -> str:
    if not found:
        return paragraphs(["Nothing differs."])
    return table([heading, "A", "B"], found, caption="What differs", text=3)
