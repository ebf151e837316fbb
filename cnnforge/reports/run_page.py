"""Make the report of a run from the files in its directory."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnforge.errors import RunError, one_line
from cnnforge.pages import escape, page
from cnnforge.pages.parts import Section, Series, chart, facts, paragraphs, table
from cnnforge.reports.thumbnails import read_thumbnails
from cnnforge.runs import CONFIG, EVALUATION, METRICS, RunDirectory
from cnnforge.tasks import Task
from cnnforge.utils.names import resume_command
from cnnforge.utils.structured_text import read_json, well_formed

REPORT = "report.html"
_MAX_LAYERS = 400


def write_report(run: RunDirectory, task: Task) -> Path:
    """Write `report.html` into a run, or write it again.

    Args:
        run: The run, with at least one finished epoch.
        task: Task of the run.

    Returns:
        The file.

    Raises:
        RunError: The run has no finished epoch, a file is damaged, or the page could not be
            written.
    """
    run.write_text(REPORT, report(run, task))
    return run.path / REPORT


def report(run: RunDirectory, task: Task) -> str:
    """Return the report of a run as HTML; see `write_report`."""
    options, table_of_run = run.read_config()
    evaluation, history = _json(run, EVALUATION), _rows(run, METRICS)
    if not isinstance(evaluation, dict) or not history:
        raise RunError(
            f"the training of {run.path} has not ended, and only then can its report be written: "
            f"wait until it ends, or go on with {resume_command(run.path)}"
        )
    again = f"write it again with {resume_command(run.path)}"
    thumbnails = read_thumbnails(run)
    with well_formed(run.path / EVALUATION, again):
        curves = _curves(evaluation, history)
    made = task.sections(run, thumbnails)
    with well_formed(run.path / "kernels.json"):
        kernels = _kernels(run)
    with well_formed(run.path / "data.json"):
        data = _json(run, "data.json") or {}
        about_data, notes = _data(run, data), [str(note) for note in data.get("notes") or []]
        images = {str(part): f"{count:,}" for part, count in (data.get("images") or {}).items()}
    with well_formed(run.path / "environment.json"):
        environment = _environment(run)
    with well_formed(run.path / CONFIG, "restore it"):
        configuration = _configuration(options, table_of_run)
        shape = "x".join(map(str, table_of_run.get("image_shape", ())))
    with well_formed(run.path / EVALUATION, again):
        summary = _summary(run, table_of_run, evaluation, history, images, shape)
    sections = [curves, *made.sections, kernels, about_data, configuration, environment]
    links = "".join(f'<li><a href="#{each.id}">{escape(each.title)}</a></li>' for each in sections)
    body = "\n".join(
        [
            summary + _notes(notes),
            f'<nav aria-label="Sections"><ul class="links">{links}</ul></nav>',
            *(each.render() for each in sections),
        ]
    )
    return page(
        f"{run.name}: report",
        body,
        scripts=["page.js", "report.js"],
        data={"thumbnails": {str(row): uri for row, uri in thumbnails.items()}, **made.data},
    )


def _summary(
    run: RunDirectory,
    about: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    history: Sequence[Mapping[str, str]],
    images: Mapping[str, str],
    shape: str,
) -> str:
    known = {metric["name"]: metric for metric in evaluation["metrics"]}
    monitor = known[evaluation["monitor"]]
    tiles = []
    for part in ("validation", "test"):
        values = evaluation.get(part)
        if not values:
            continue
        others = [metric for metric in known.values() if metric is not monitor]
        details = ", ".join(f"{m['title']} {_value(m, values[m['name']])}" for m in others)
        tiles.append(
            f'<div class="tile"><p class="muted">{part} {escape(monitor["title"])}, '
            f"{values['samples']:,} images</p>"
            f'<p class="big">{_value(monitor, values[monitor["name"]])}</p>'
            f'<p class="muted">{escape(details)}</p></div>'
        )
    seconds = sum(_number(row.get("seconds")) for row in history)
    counts = ", ".join(f"{count} {part}" for part, count in images.items())
    pairs = [
        ("model", about.get("model", "")),
        ("data", f"{about.get('data', '')}: {counts}, {shape}" if counts else about.get("data")),
        ("epochs", f"{len(history)}, the best is {evaluation['best_epoch']}"),
        ("training", _duration(seconds)),
    ]
    return (
        f"<h1>{escape(run.name)}</h1>"
        f'<div class="columns">{"".join(tiles)}<div class="tile">{facts(pairs)}</div></div>'
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<div class="panel"><p>Notes on the data and the run</p><ul>{items}</ul></div>'


def _curves(evaluation: Mapping[str, Any], history: Sequence[Mapping[str, str]]) -> Section:
    best = float(evaluation["best_epoch"])
    charts = []
    for metric in evaluation["metrics"]:
        name = metric["name"]
        series = [
            Series(title, points, kind)
            for title, column, kind in (
                ("training", name, "second"),
                ("validation", f"val_{name}", "first"),
            )
            if (points := _column(history, column))
        ]
        if series:
            charts.append(
                chart(
                    str(metric["title"]),
                    series,
                    x_title="epoch",
                    mark=best,
                    percent=bool(metric["percent"]),
                )
            )
    rates = _column(history, "learning_rate")
    if len({rate for _, rate in rates}) > 1:
        charts.append(chart("learning rate", [Series("rate", rates)], x_title="epoch"))
    note = paragraphs([f"The vertical line is the best epoch, {best:g}."], "muted")
    return Section("curves", "Curves", f'<div class="columns">{"".join(charts)}</div>{note}')


def _kernels(run: RunDirectory) -> Section:
    layers, checks = _json(run, "kernels.json") or [], _json(run, "kernel_check.json") or []
    counts = Counter(str(layer.get("implementation")) for layer in layers)
    texts = [", ".join(f"{count} layers run on {name}" for name, count in counts.items()) + "."]
    if checks:
        failed = [check for check in checks if not check.get("passed", True)]
        texts.append(
            f"{len(checks)} layers were compared with their stock Keras layers before training: "
            + (f"{len(failed)} differ." if failed else "all agree.")
        )
    rows = [
        (
            layer.get("layer", ""),
            layer.get("kind", ""),
            layer.get("implementation", ""),
            "" if layer.get("ratio") is None else f"{layer['ratio']:.2f}",
            layer.get("reason", ""),
        )
        for layer in layers[:_MAX_LAYERS]
    ]
    headings = ["layer", "kind", "runs on", "times as fast", "reason"]
    shown = paragraphs(texts)
    if rows:
        shown += _details("All layers", table(headings, rows, caption="Layers", text=3))
    return Section("kernels", "Kernels", shown)


def _data(run: RunDirectory, data: Mapping[str, Any]) -> Section:
    pairs = [("name", data.get("name", ""))]
    images = data.get("images") or {}
    pairs += [(f"{part} images", f"{count:,}") for part, count in images.items()]
    html = facts(pairs)
    classes = data.get("classes") or {}
    if classes:
        rows = [(name, f"{count:,}") for name, count in classes.items()]
        html += _details(
            f"{len(rows)} classes", table(["class", "images"], rows, caption="Images of each class")
        )
    skipped = _rows(run, "skipped.csv")
    if skipped:
        rows = [(row.get("file", ""), row.get("reason", "")) for row in skipped[:200]]
        html += _details(
            f"{len(skipped)} files were left out",
            table(["file", "reason"], rows, caption="Files that were left out", text=2),
        )
    return Section("data", "Data", html)


def _configuration(options: Mapping[str, Any], about: Mapping[str, Any]) -> Section:
    pairs = [(name, _plain(value)) for name, value in options.items()]
    pairs += [("data fingerprint", str(about.get("fingerprint", "")))]
    return Section("configuration", "Configuration", facts(pairs))


def _environment(run: RunDirectory) -> Section:
    found = _json(run, "environment.json") or {}
    cpu = found.get("cpu") or {}
    pairs = [
        ("Python", found.get("python", "")),
        *(found.get("packages") or {}).items(),
        ("platform", found.get("platform", "")),
        ("processor", f"{cpu.get('model', '')} ({cpu.get('target', '')})" if cpu else ""),
        ("cores", cpu.get("cores", "")),
    ]
    return Section(
        "environment", "Environment", facts([pair for pair in pairs if pair[1] not in ("", None)])
    )


def _details(title: str, html: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{html}</details>"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _value(metric: Mapping[str, Any], value: Any) -> str:
    number = _number(value)
    return f"{number:.2%}" if metric["percent"] else f"{number:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _column(history: Sequence[Mapping[str, str]], name: str) -> list[tuple[float, float]]:
    return [(_number(row.get("epoch")), _number(row.get(name))) for row in history if name in row]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _json(run: RunDirectory, name: str) -> Any:
    """Read a JSON file of a run; `None` if it does not exist."""
    path = run.path / name
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or one_line(error)


def _rows(run: RunDirectory, name: str) -> list[dict[str, str]]:
    """Read the rows of a CSV file of a run; none if it does not exist."""
    path = run.path / name
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {_cause(error)}") from error
