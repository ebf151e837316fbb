"""The command `cnnforge plugins check`: checks the layers, datasets and models of a plugin."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json

if TYPE_CHECKING:
    from cnnforge.errors import UsageError
    from cnnforge.plugin import Spec
    from cnnforge.plugin_host.discovery import PluginRecord, Plugins
    from cnnforge.testing import Check


def check(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A layer, a dataset, a model, or a whole plugin."),
    ],
    plugin: PluginOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Run this check alone; may be given several times."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="CASE", help="Check this case only; may be given several times."),
    ] = None,
    boundscheck: Annotated[
        bool,
        typer.Option(
            "--boundscheck",
            help="Compile the functions of ops again and check each index and parallel loop.",
        ),
    ] = False,
    cuda: Annotated[
        bool,
        typer.Option(
            "--cuda", help="Run the functions for CUDA devices too, in Numba's CUDA simulator."
        ),
    ] = False,
    first: Annotated[
        bool, typer.Option("-x", "--exitfirst", help="Stop at the first failure.")
    ] = False,
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
    fork = not boundscheck and _start_processes(specs, only)
    import_keras()
    if fork:
        from cnnforge.testing import fresh_process

        fresh_process.fork()
    json = json or above.get("json", False)
    is_plugin = any(record.name == name for record in found.records)
    wanted = {"--only": only or [], "--boundscheck": list(_BOUNDS) if boundscheck else []}
    listed = partial(_checks, found=found, is_plugin=is_plugin, cuda=cuda)
    chosen = _chosen(specs, found, listed, wanted, case or [])
    if boundscheck:
        _trace_again()
    rows = []
    for row in _rows(chosen, alone=bool(only or boundscheck), show=not json):
        rows.append(row)
        if first and row["status"] == "failed":
            break
    count = Counter(row["status"] for row in rows)
    if json:
        print_json({"name": name, "passed": not count["failed"], "checks": rows})
    else:
        typer.echo()
        for spec in specs:
            typer.echo(_markdown(spec, [r for r in rows if r["name"] == spec.qualified_name]))
        typer.echo(_summary(count))
    if count["failed"]:
        raise typer.Exit(1)


# The checks that --boundscheck runs.
_BOUNDS = ("index_in_range", "races")
# The checks that tell whether a layer accesses memory as it should.
_MEMORY = (*_BOUNDS, "every_element_written")


def _start_processes(specs: Sequence[Spec], only: Sequence[str] | None) -> bool:
    """Start the processes that checks need while this one imports Keras.

    Returns:
        Whether the process that opens saved models is still to be made, as a copy of this one.
    """
    from cnnforge.plugin import LayerSpec
    from cnnforge.testing import fresh_process

    layers = [spec for spec in specs if isinstance(spec, LayerSpec)]
    if layers and (not only or "inference" in only):
        from cnnforge.utils import clean_import

        clean_import.start()
    if not layers or (only and "save_and_load" not in only):
        return False
    if fresh_process.can_fork([spec.target.partition(":")[0] for spec in layers]):
        return True
    fresh_process.start()
    return False


def _trace_again() -> None:
    from cnnforge.ops.audit import memory

    memory.enabled = False


def _chosen(
    specs: Sequence[Spec],
    found: Plugins,
    listed: Callable[[Spec], Iterable[Check]],
    wanted: dict[str, list[str]],
    cases: list[str],
) -> list[tuple[Spec, Check]]:
    """Return the checks to run; `listed` lists those of a spec.

    The names of checks in `wanted` are by the option that asks for them.

    Raises:
        UsageError: No check has a name that the user gave, or no case.
    """
    from cnnforge.testing import Check

    records = {record.name: record for record in found.records}
    checks = []
    for spec in specs:
        record = records.pop(spec.plugin, None)
        if record is not None:
            checks.append((spec, Check("plugin", "", partial(_plugin, record))))
        checks += [(spec, check) for check in listed(spec)]
    for option, names in {**wanted, "--case": cases}.items():
        known = [check.case if option == "--case" else check.kind for _, check in checks]
        for name in names:
            if name not in known:
                raise _unknown(option, name, list(dict.fromkeys(filter(None, known))))
    kinds = [name for names in wanted.values() for name in names]
    return [
        (spec, check)
        for spec, check in checks
        if check.kind in (kinds or [check.kind])
        and (not cases or not check.case or check.case in cases)
    ]


def _plugin(record: PluginRecord) -> str:
    if record.warning:
        raise AssertionError(record.warning)
    return f"{record.distribution} {record.version}" if record.distribution else record.source


def _unknown(option: str, name: str, known: list[str]) -> UsageError:
    import difflib

    from cnnforge.errors import UsageError

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"{option} {name}: no such name here; {hint}there are {', '.join(known)}")


def _rows(
    checks: Sequence[tuple[Spec, Check]], *, alone: bool, show: bool
) -> Iterator[dict[str, Any]]:
    """Run checks, and yield the result of each.

    A model is not run if a layer of its plugin accesses memory wrongly: the process could end with
    a crash, and the results would tell nothing.
    """
    from cnnforge.plugin import LayerSpec, ModelSpec
    from cnnforge.testing.printed import captured

    header = None
    damaged: dict[str, str] = {}
    for spec, check in checks:
        if show and spec is not header:
            if header is not None:
                typer.echo()
            typer.echo(f"{spec.kind} {spec.qualified_name}: {spec.summary}")
            header = spec
        printed: list[str] = []
        if isinstance(spec, ModelSpec) and spec.plugin in damaged:
            status, message = "not run", damaged[spec.plugin]
        else:
            # What a layer prints must not mix with the report.
            with captured(printed):
                status, message = check.alone() if alone else check.result()
        if status == "failed" and isinstance(spec, LayerSpec) and check.kind in _MEMORY:
            damaged.setdefault(spec.plugin, f"{check} of the layer {spec.name} failed")
        row = {"kind": spec.kind, "name": spec.qualified_name, "check": check.kind}
        row |= {"case": check.case, "status": status, "message": message}
        if show:
            typer.echo(_line(row))
        yield row


def _summary(count: Counter[str]) -> str:
    total = sum(count.values())
    text = f"{count['ok']} of {total} checks passed"
    rest = {"failed": "failed", "same": "failed for the same reason", "not run": "not run"}
    return ", ".join([text, *(f"{count[key]} {what}" for key, what in rest.items() if count[key])])


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


def _checks(spec: Spec, *, found: Plugins, is_plugin: bool, cuda: bool) -> Iterator[Check]:
    """Yield the checks of a spec; `is_plugin`: they are part of a check of the whole plugin."""
    from cnnforge import testing
    from cnnforge.plugin import AugmentationSpec, CallbackSpec, DatasetSpec, LayerSpec, ModelSpec

    # The kernels of models must be compiled, and the speed of Python tells nothing.
    python = os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"
    if isinstance(spec, LayerSpec):
        yield from testing.layer_checks(spec, speed=not python, cuda=cuda)
    elif python and isinstance(spec, ModelSpec):
        return
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


_MARKS = {"ok": "ok  ", "failed": "FAIL", "same": "fail", "not run": "--  "}


def _line(row: dict[str, Any]) -> str:
    name = f"{row['check']}-{row['case']}" if row["case"] else row["check"]
    message = f": {row['message']}" if row["message"] else ""
    return f"  {_MARKS[row['status']]} {name}{message}"


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
        return {"failed": "**FAIL**", "same": "fail"}.get(row["status"], "-")
    if row["check"] != "speed":
        return "ok"
    return row["message"].replace(" times as fast as the reference", "x")
