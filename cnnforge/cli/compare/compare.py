"""The command `cnnforge compare`: compares two runs, or two groups of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnforge.cli._common import (
    JsonOption,
    KernelsOption,
    PluginOption,
    TrustModelOption,
    check_file,
    find_run,
    load_plugins,
    print_json,
)
from cnnforge.utils.names import resume_command

if TYPE_CHECKING:
    from cnnforge.comparing.comparison import Comparison
    from cnnforge.comparing.samples import ComparedRun

_MAX_SHOWN = 12


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run, latest, or a folder of runs.")],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another run, or another folder of runs.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Labelled data; pictures that a run was trained on are left out.  [default: the "
            "data of A]",
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            metavar="validation|test",
            help="The part of the data: what no run was trained on, or the test part, which data "
            "may have.",
        ),
    ] = "validation",
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a web page here, too.")
    ] = None,
    kernels: KernelsOption = "auto",
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Say whether two runs differ by more than chance explains.

    Only pictures count that neither run was trained on. A folder of runs, such as several seeds of
    one configuration, is compared as a group.
    """
    from cnnforge.optimizer_options import one_of

    one_of("part", part, ("validation", "test"))
    if page is not None:
        page = check_file("--page", page, ".html", "the page is an HTML file")
    groups = [_runs_of(first), _runs_of(second)]
    _check_different(groups)
    opened = [[_open(path, kernels, plugin, data) for path in group] for group in groups]
    from cnnforge.comparing.comparison import compare_runs

    found = compare_runs(opened[0], opened[1], data, part)  # pyright: ignore[reportArgumentType]
    if page is not None:
        from cnnforge.comparing.page import write_page

        write_page(page, found)
    if json:
        print_json({**found.as_dict(), "page": None if page is None else str(page)})
        return
    _show(found)
    if page is not None:
        typer.echo(page)


def _runs_of(named: Path) -> list[Path]:
    """Return the run that the user named, or all runs in a folder that have a model."""
    from cnnforge.errors import UsageError
    from cnnforge.runs import MODEL
    from cnnforge.runs.finding import is_run, names_latest, runs_in

    folder = named.expanduser()
    if is_run(folder) or names_latest(named) or not folder.is_dir() or not runs_in(folder):
        return [find_run(named)]
    found = sorted(path for path in runs_in(folder) if (path / MODEL).is_file())
    if not found:
        raise UsageError(
            f"no run in the folder {named} has a model yet: continue one with "
            f"{resume_command(runs_in(folder)[0])}"
        )
    return found


def _check_different(groups: Sequence[Sequence[Path]]) -> None:
    from cnnforge.errors import UsageError

    places = [{path.resolve() for path in group} for group in groups]
    for path in groups[1]:
        if path.resolve() in places[0]:
            raise UsageError(
                f"{path} is on both sides of the comparison: name two different runs, see "
                "'cnnforge runs'"
            )


def _open(path: Path, kernels: str, plugin: Sequence[str] | None, data: str | None) -> ComparedRun:
    from cnnforge.cli._trained import open_trained
    from cnnforge.comparing.samples import ComparedRun
    from cnnforge.runs import RunDirectory

    trained = open_trained(path, kernels, plugin, load_plugins, data)
    options, _ = RunDirectory(path).read_config()
    return ComparedRun(path, trained.predictor, trained.data, trained.plugins, options)


def _show(found: Comparison) -> None:
    from cnnforge.cli import _render
    from cnnforge.utils.names import printable

    common = found.common
    _render.message(
        f"{common.what}: {len(common):,} of {common.total:,} pictures count; {common.trained:,} are"
        " left out, because a run was trained on them"
    )
    for note in found.notes:
        _render.message(f"note: {note}")
    metric = found.metric
    rows: list[list[object]] = [
        [group.name, metric.text(scores.value), str(run.path)]
        for group in (found.first, found.second)
        for run, scores in zip(group.runs, group.scores, strict=True)
    ]
    for group in (found.first, found.second):
        if group.spread is not None:
            rows.append([f"{group.name} mean", metric.text(group.mean), None])
            rows.append([f"{group.name} std", metric.text(group.spread), None])
    _render.table(["", metric.short, "run"], rows)
    differing = [row for row in found.classes if row.first != row.second]
    if differing:
        differing.sort(key=lambda row: -abs(row.second - row.first))
        cells = [
            [
                printable(row.name),
                f"{row.samples:,}",
                f"{row.first:.1%}",
                f"{row.second:.1%}",
                f"{100 * (row.second - row.first):+.1f}",
            ]
            for row in differing[:_MAX_SHOWN]
            if row.samples
        ]
        _render.table(["class", "n", "A", "B", "points"], cells)
    if found.flips:
        sides = [[flip for flip in found.flips if flip.better == name] for name in ("A", "B")]
        shown = [flip for side in sides for flip in side[: _MAX_SHOWN // 2]]
        cells = [[printable(text) for text in flip[1:5]] for flip in shown]
        title = f"only A is right on {len(sides[0])} pictures, only B on {len(sides[1])}"
        _render.table(["picture", "truth", "A", "B"], cells, title=title)
        if len(shown) < len(found.flips):
            _render.message(
                f"{len(found.flips) - len(shown)} more pictures; all are in the result of --json"
            )
    for title, differences in (
        ("configuration", found.configuration),
        ("environment", found.environment),
    ):
        if differences:
            cells = [[each.name, each.first, each.second] for each in differences]
            _render.table([title, "A", "B"], cells)
    _render.result(found.verdict)
