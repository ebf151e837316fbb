"""The command `cnnforge plugins`: lists the plugins, what they declare, and their errors.

Its sub-commands are in `check.py` and `new.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, import_error, print_json
from cnnforge.cli.plugins.check import check
from cnnforge.cli.plugins.new import new

if TYPE_CHECKING:
    from cnnforge.plugin_host.discovery import Plugins


group = typer.Typer(name="plugins", rich_markup_mode=None)
group.command()(check)
group.command()(new)


@group.callback(invoke_without_command=True)
def plugins(
    context: typer.Context,
    plugin: PluginOption = None,
    imports: Annotated[
        bool,
        typer.Option(
            "--imports", help="Import every target too; exit with 1 if one cannot be loaded."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the plugins and what they declare, check a plugin, or create one."""
    if context.invoked_subcommand is not None:
        return
    from cnnforge.plugin_host.discovery import discover

    found = discover(plugin or ())
    report = _report(found, imports)
    if json:
        print_json(report)
    else:
        _show(report, imports)
    broken = [row for row in report["plugins"] if row["status"] in ("failed", "incompatible")]
    if imports and (broken or any(row["error"] for row in report["specs"])):
        raise typer.Exit(1)


def _report(found: Plugins, imports: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of two tables, plugins and specs, in a form that can be printed as JSON."""
    return {
        "plugins": [
            {
                "name": record.name,
                "status": record.status,
                "distribution": record.distribution,
                "version": record.version,
                "source": record.source,
                "cause": record.cause or record.warning or None,
            }
            for record in found.records
        ],
        "specs": [
            {
                "kind": registry.kind,
                "name": spec.qualified_name,
                "summary": spec.summary,
                "target": spec.target,
                "reference": getattr(spec, "reference", None),
                "error": import_error(spec) if imports else None,
            }
            for registry in found.registries.values()
            for spec in registry.values()
        ],
    }


def _show(report: dict[str, list[dict[str, Any]]], imports: bool) -> None:
    from cnnforge.cli import _render

    columns = ["name", "status", "version", "source", "cause"]
    _render.table(
        ["plugin", *columns[1:]], [[row[key] for key in columns] for row in report["plugins"]]
    )
    typer.echo()
    columns = ["kind", "name", "summary"]
    rows = [[row[key] for key in columns] for row in report["specs"]]
    if imports:
        columns.append("imports")
        for row, spec in zip(rows, report["specs"], strict=True):
            row.append(spec["error"] or "ok")
    _render.table(columns, rows)
