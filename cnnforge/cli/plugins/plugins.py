"""The command `cnnforge plugins`: lists the plugins, what they declare, and their errors.

Its sub-commands are in `check.py` and `new.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, import_error, print_json
from cnnforge.cli.plugins.check import check
from cnnforge.cli.plugins.new import new
from cnnforge.plugin import PLUGIN_API

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


def _report(found: Plugins, imports: bool) -> dict[str, Any]:
    """Return the rows of two tables, plugins and specs, in a form that can be printed as JSON."""
    return {
        "api": PLUGIN_API,
        "plugins": [
            {
                "name": record.name,
                "status": record.status,
                "distribution": record.distribution,
                "version": record.version,
                "source": record.source,
                "api": record.api,
                "cnnforge": record.bounds,
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


def _update(report: dict[str, Any]) -> str:
    """Return a line that says what an update of cnnforge would do to the plugins."""
    loaded = [row for row in report["plugins"] if row["status"] == "loaded"]
    # The built-in plugin is a part of cnnforge, and changes with it.
    others = [row for row in loaded if row["distribution"] != "cnnforge"]
    text = f"plugin API of this cnnforge: {report['api']}"
    numbered = [row["name"] for row in others if row["api"] is not None]
    silent = [row["name"] for row in others if row["api"] is None]
    if numbered:
        text += f"; a cnnforge with another number would not load {', '.join(numbered)}"
    if silent:
        text += (
            f"; it would load {', '.join(silent)}, which may then fail: give it a "
            f"CNNFORGE_PLUGIN_API = {report['api']}"
        )
    return text


def _show(report: dict[str, Any], imports: bool) -> None:
    from cnnforge.cli import _render

    columns = ["name", "status", "version", "api", "cnnforge", "source", "cause"]
    rows = [[row[key] for key in columns] for row in report["plugins"]]
    _render.table(["plugin", "status", "version", "API", *columns[4:]], rows)
    typer.echo(_update(report))
    typer.echo()
    columns = ["kind", "name", "summary"]
    rows = [[row[key] for key in columns] for row in report["specs"]]
    if imports:
        columns.append("imports")
        for row, spec in zip(rows, report["specs"], strict=True):
            row.append(spec["error"] or "ok")
    _render.table(columns, rows)
