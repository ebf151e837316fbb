"""The command `cnnforge plugins check`: checks the layers, datasets and models of a plugin."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json

if TYPE_CHECKING:
    from cnnforge.cli.plugins.report import Report
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
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Print a line for each check that fails or is left."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check a plugin, or one thing that it declares; exit with 1 if a check fails.

    NAME is a name that `cnnforge plugins` lists, or the class of a layer.
    """
    from cnnforge.cli.plugins import report

    above = context.parent.params if context.parent else {}
    found = load_plugins([*(above.get("plugin") or ()), *(plugin or ())])
    specs = _find(found, name)
    # The checks trace many small functions and use unusual dtypes. TensorFlow warns about both. The
    # author of the plugin cannot change that, so the warnings are suppressed.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    _import_keras(specs, list(_BOUNDS) if boundscheck else only or [])
    json = json or above.get("json", False)
    is_plugin = any(record.name == name for record in found.records)
    wanted = {"--only": only or [], "--boundscheck": list(_BOUNDS) if boundscheck else []}
    listed = partial(_checks, found=found, is_plugin=is_plugin, cuda=cuda)
    chosen = _chosen(specs, found, listed, wanted, case or [])
    if boundscheck:
        _trace_again()
    rows = []
    shown = None if json else report.Report(verbose)
    for row in _rows(chosen, alone=bool(only or boundscheck), shown=shown):
        rows.append(row)
        if first and row["status"] == "failed":
            break
    if shown is not None:
        shown.end()
    count = Counter(row["status"] for row in rows)
    if json:
        print_json({"name": name, "passed": not count["failed"], "checks": rows})
    else:
        typer.echo()
        for spec in specs:
            of_spec = [row for row in rows if row["name"] == spec.qualified_name]
            if of_spec:
                typer.echo(report.table(spec, of_spec))
        typer.echo(report.summary(count))
    if count["failed"]:
        raise typer.Exit(1)


# The checks that --boundscheck runs.
_BOUNDS = ("index_in_range", "races")
# The checks that tell whether a layer ends, and accesses memory as it should.
_SAFE = ("runs", *_BOUNDS, "every_element_written")


def _import_keras(specs: Sequence[Spec], only: Sequence[str]) -> None:
    """Import Keras, and make the processes that checks of layers need.

    They are copies of this process, made at the right time: one before the import of Keras, which
    tries to import an op, and one after it, which opens saved models. So each of them begins with
    what it needs.

    Args:
        specs: The specs to check.
        only: The names of the checks to run; empty for all.
    """
    from cnnforge.cli._import_keras import import_keras
    from cnnforge.plugin import LayerSpec
    from cnnforge.testing import fresh_process
    from cnnforge.utils import clean_import
    from cnnforge.utils.copied_process import can_copy

    modules = [spec.target.partition(":")[0] for spec in specs if isinstance(spec, LayerSpec)]
    imports_op = bool(modules) and (not only or "inference" in only)
    opens_model = bool(modules) and (not only or "save_and_load" in only)
    if imports_op and clean_import.can_start():
        import_module("cnnforge.ops")
        clean_import.start()
    copies = opens_model and can_copy(modules)
    if opens_model and not copies:
        fresh_process.start()
    import_keras()
    if copies:
        import_module("cnnforge.testing.conformance")
        fresh_process.fork()


def _trace_again() -> None:
    from cnnforge.ops.audit import memory

    memory.enabled = False


def _chosen(
    specs: Sequence[Spec],
    found: Plugins,
    listed: Callable[..., Iterable[Check]],
    wanted: dict[str, list[str]],
    cases: list[str],
) -> list[tuple[Spec, Check]]:
    """Return the checks to run.

    The function `listed` lists those of a spec, with the given cases or with all. The names of
    checks in `wanted` are by the option that asks for them.

    Raises:
        UsageError: No check has a name that the user gave, or no case.
    """
    from cnnforge.testing import Check

    def checks_of(some: Sequence[Spec], **limits: Any) -> Iterator[tuple[Spec, Check]]:
        records = {record.name: record for record in found.records}
        for spec in some:
            record = records.pop(spec.plugin, None)
            if record is not None:
                yield spec, Check("plugin", "", partial(_plugin, record))
            for check in listed(spec, **limits):
                yield spec, check

    checks = list(checks_of(specs))
    for option, names in {**wanted, "--case": cases}.items():
        known = [check.case if option == "--case" else check.kind for _, check in checks]
        for name in names:
            if name not in known:
                raise _unknown(option, name, list(dict.fromkeys(filter(None, known))))
    if cases:
        # The checks of a whole layer are made with the chosen cases, too.
        have = {id(spec) for spec, check in checks if check.case in cases}
        checks = list(checks_of([spec for spec in specs if id(spec) in have], cases=cases))
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
    checks: Sequence[tuple[Spec, Check]], *, alone: bool, shown: Report | None
) -> Iterator[dict[str, Any]]:
    """Run checks, and yield the result of each.

    A model is not run if a layer of its plugin does not end or accesses memory wrongly: the process
    could hang or crash, and the results would tell nothing.
    """
    from cnnforge.plugin import LayerSpec, ModelSpec
    from cnnforge.testing.printed import captured

    damaged: dict[str, str] = {}
    for spec, check in checks:
        if shown is not None:
            shown.begin(spec)
        printed: list[str] = []
        if isinstance(spec, ModelSpec) and spec.plugin in damaged:
            status, message = "not run", damaged[spec.plugin]
        else:
            # What a layer prints must not mix with the report.
            with captured(printed):
                status, message = check.alone() if alone else check.result()
        if status == "failed" and isinstance(spec, LayerSpec) and check.kind in _SAFE:
            damaged.setdefault(spec.plugin, f"{check} of the layer {spec.name} failed")
        row = {"kind": spec.kind, "name": spec.qualified_name, "check": check.kind}
        row |= {"case": check.case, "status": status, "message": message}
        if shown is not None:
            shown.add(row)
        yield row


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
    kinds = [registry for registry in plugins.registries.values() if registry.find(short)]
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


def _checks(
    spec: Spec,
    *,
    found: Plugins,
    is_plugin: bool,
    cuda: bool,
    cases: Sequence[str] | None = None,
) -> Iterator[Check]:
    """Yield the checks of a spec; `is_plugin`: they are part of a check of the whole plugin.

    If `cases` is given, the checks of a layer are made with these cases only.
    """
    from cnnforge import testing
    from cnnforge.plugin import AugmentationSpec, CallbackSpec, DatasetSpec, LayerSpec, ModelSpec

    # The kernels of models must be compiled, and the speed of Python tells nothing.
    python = os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"
    if isinstance(spec, LayerSpec):
        some = None
        if cases is not None:
            some = [case for case in spec.load_cases() if case.name in cases]
        yield from testing.layer_checks(spec, some, speed=not python, cuda=cuda)
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
