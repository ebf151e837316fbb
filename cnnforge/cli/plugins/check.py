"""The command `cnnforge plugins check`: checks the layers, datasets and models of a plugin."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json

if TYPE_CHECKING:
    from cnnforge.plugin import Spec
    from cnnforge.plugin_host.discovery import Plugins
    from cnnforge.testing import Check


def check(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A layer, a dataset, a model, or a whole plugin."),
    ],
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Check a plugin, or one thing that it declares; exit with 1 if a check fails."""
    from cnnforge.cli._import_keras import import_keras

    above = context.parent.params if context.parent else {}
    found = load_plugins([*(above.get("plugin") or ()), *(plugin or ())])
    specs = _find(found, name)
    # The checks trace many small functions and use unusual dtypes. TensorFlow warns about both. The
    # author of the plugin cannot change that, so the warnings are suppressed.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import_keras()
    json = json or above.get("json", False)
    is_plugin = any(record.name == name for record in found.records)
    rows = []
    for spec in specs:
        if not json:
            typer.echo(f"{spec.kind} {spec.qualified_name}: {spec.summary}")
        for spec_check in _checks(spec, found, is_plugin):
            row = _run(spec, spec_check)
            rows.append(row)
            if not json:
                typer.echo(_line(row))
        if not json:
            typer.echo()
    failed = [row for row in rows if row["status"] != "ok"]
    if json:
        print_json({"name": name, "passed": not failed, "checks": rows})
    else:
        for spec in specs:
            typer.echo(_markdown(spec, [r for r in rows if r["name"] == spec.qualified_name]))
        typer.echo(f"{len(rows) - len(failed)} of {len(rows)} checks passed")
    if failed:
        raise typer.Exit(1)


def _find(plugins: Plugins, name: str) -> list[Spec]:
    """Return the specs with this name, or all specs of the plugin with this name.

    Raises:
        UsageError: The plugin could not be loaded.
        UnknownNameError: No spec or plugin has the name.
        AmbiguousNameError: Several plugins declare the name.
    """
    import difflib

    from cnnforge.errors import UnknownNameError, UsageError

    specs = [spec for registry in plugins.registries.values() for spec in registry.values()]
    for record in plugins.records:
        if record.name == name and record.status != "loaded":
            raise UsageError(f"plugin {name!r} is not loaded ({record.status}): {record.cause}")
        if record.name == name:
            return [spec for spec in specs if spec.plugin == name]
    short = name.rpartition("/")[2]
    kinds = [
        registry
        for registry in plugins.registries.values()
        if any(spec.name == short for spec in registry.values())
    ]
    if kinds:
        return [registry[name] for registry in kinds]
    if "/" in name:
        known = {spec.qualified_name for spec in specs}
    else:
        known = {record.name for record in plugins.records}
        known.update(*(registry.names() for registry in plugins.registries.values()))
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
    sorts = ", ".join(registry.kind for registry in plugins.registries.values())
    raise UnknownNameError(f"there is no {sorts} or plugin named {name!r}; {hint}")


def _checks(spec: Spec, found: Plugins, is_plugin: bool) -> Iterator[Check]:
    """Yield the checks of a spec; `is_plugin`: they are part of a check of the whole plugin."""
    from cnnforge import testing
    from cnnforge.plugin import AugmentationSpec, CallbackSpec, DatasetSpec, LayerSpec, ModelSpec

    if isinstance(spec, LayerSpec):
        yield from testing.layer_checks(spec, speed=True)
    elif isinstance(spec, ModelSpec):
        yield from testing.model_checks(spec, found)
    elif isinstance(spec, DatasetSpec):
        for each in testing.dataset_checks(spec, found):
            if each.kind == "loads" and is_plugin and spec.downloads:
                text = f"not loaded: it may download files; plugins check {spec.name} loads it"
                yield testing.Check("loads", "", partial(str, text))
            else:
                yield each
    elif isinstance(spec, CallbackSpec):
        yield from testing.callback_checks(spec, found)
    elif isinstance(spec, AugmentationSpec):
        yield from testing.augmentation_checks(spec, found)
    else:
        yield testing.Check("targets", "", lambda: spec.load_all() or "")


def _run(spec: Spec, check: Check) -> dict[str, Any]:
    """Run one check and return its result. If it raises an error, the status is `failed`."""
    from cnnforge.errors import message_of, one_line

    row = {"kind": spec.kind, "name": spec.qualified_name, "check": check.kind, "case": check.case}
    try:
        return {**row, "status": "ok", "message": check()}
    except AssertionError as error:
        message = message_of(error) if str(error).strip() else one_line(error)
    except Exception as error:
        message = one_line(error)
    return {**row, "status": "failed", "message": message}


def _line(row: dict[str, Any]) -> str:
    name = f"{row['check']}-{row['case']}" if row["case"] else row["check"]
    message = f": {row['message']}" if row["message"] else ""
    return f"  {'ok  ' if row['status'] == 'ok' else 'FAIL'} {name}{message}"


def _markdown(spec: Spec, rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: one line for each check, one column for each case."""
    cases = list(dict.fromkeys(row["case"] for row in rows if row["case"]))
    columns = cases or [""]
    lines = [
        f"| {spec.qualified_name} | {' | '.join(case or 'result' for case in columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for kind in dict.fromkeys(row["check"] for row in rows):
        results = {row["case"]: row for row in rows if row["check"] == kind}
        # A check of the whole layer has no case. Its result goes into the first column.
        cells = [
            _cell(results.get(case) or results.get("" if case == columns[0] else None))
            for case in columns
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["status"] != "ok":
        return "**FAIL**"
    if row["check"] != "speed":
        return "ok"
    return row["message"].replace(" times as fast as the reference", "x")
