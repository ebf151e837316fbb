"""`cnnforge bench`: measure plugin layers, compared with the stock layers that they replace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json

if TYPE_CHECKING:
    import keras

    from cnnforge.benchmarking import Case
    from cnnforge.conversion.certificate import LayerCheck
    from cnnforge.plugin_host.discovery import Plugins

# Default image shape (H, W, C) and number of classes of a model: those of the default data of
# `cnnforge train`, which are images of digits.
_MODEL_SHAPE = (28, 28, 1)
_CLASSES = 10
# Max number of classes in a message.
_MAX_NAMED = 10
# Images with several objects are larger.
_DETECTOR_SHAPE = (128, 128, 1)


def bench(
    layer: Annotated[
        str | None, typer.Argument(metavar="LAYER", help="A layer.  [default: all]")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:CLASS|FILE.py:CLASS",
            help="Compare LAYER with this Keras layer class.  [default: the one its spec names]",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME[:ARG]", help="Measure the layers of this model, at its shapes."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="NxHxWxC",
            help="Shape of the inputs; HxWxC takes N from --batch-size.  [default: those of the "
            "layer's cases; for a model 28x28x1, for a detector 128x128x1]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Images per call.  [default: that of training the model]"),
    ] = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=3, help="Number of measurements of each.")
    ] = 30,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a table, a row for each pass."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw the ratios and a roofline.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Compare with an earlier output of --json on this machine."
        ),
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Measure layers and the framework's own alternately, once they compute the same.

    A layer is measured with the arguments and the speed_shape of its cases, which are printed.

    Exit codes: 0 done, 1 a layer computes something else than its reference, 2 usage error, or
    --compare with another machine.
    """
    from cnnforge.errors import UsageError

    if layer is not None and model is not None:
        raise UsageError(f"got the layer {layer!r} and --model {model}: leave out one of the two")
    if reference is not None and layer is None:
        raise UsageError("--reference needs the name of a layer: cnnforge bench LAYER --reference")
    for path, suffix in ((csv, ""), (plot, ".png")):
        _check_target(path, suffix)
    plugins = load_plugins(plugin)
    # Looked up before the import of Keras, which takes seconds, to report an unknown name at once.
    if layer is not None:
        _ = plugins.layers[layer]
    if model is not None:
        _ = plugins.models[model.partition(":")[0]]

    from cnnforge.cli._import_keras import import_keras

    import_keras()
    from cnnforge import benchmarking
    from cnnforge.utils.environment import environment

    size = benchmarking.parse_shape(shape, batch_size)
    before = None if compare is None else benchmarking.read_result(compare)
    if before is not None and compare is not None:
        benchmarking.require_same_machine(before, environment(), compare)
    cases, stock = _cases(plugins, layer, reference, model, size, batch_size)
    first = _check(cases, json)
    result = _measure(cases, first, rounds)
    if stock is not None:
        _choose(result, cases, stock, plugins)
    changes = None
    if before is not None:
        changes = benchmarking.compare(before, result)
        result["changes"] = [{**vars(change), "verdict": change.verdict} for change in changes]
    problems = _write_files(result, csv, plot)
    if json:
        print_json(result)
    else:
        from cnnforge.cli.bench import tables

        tables.show(result)
        if before is not None and changes is not None:
            tables.show_changes(changes, benchmarking.remarks(before, result))
    if problems:
        from cnnforge.errors import CnnforgeError

        # Raised after the result was printed, which took minutes to measure.
        raise CnnforgeError("; ".join(problems))


def _check_target(path: Path | None, suffix: str) -> None:
    from cnnforge.errors import UsageError

    if path is None:
        return
    if suffix and path.suffix.lower() != suffix:
        raise UsageError(f"{path} does not end in {suffix}, the only format that can be written")
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(
            f"{path} cannot be written: its folder does not exist, or the path is a folder"
        )
    if not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"{path} cannot be written: the folder {path.parent} cannot be written to; name "
            "another folder"
        )


def _cases(
    plugins: Plugins,
    layer: str | None,
    reference: str | None,
    model: str | None,
    shape: tuple[int, ...] | None,
    batch_size: int | None,
) -> tuple[list[Case], keras.Model | None]:
    from dataclasses import replace

    from cnnforge import benchmarking
    from cnnforge.cli import _render
    from cnnforge.errors import CnnforgeError, UsageError

    if model is not None:
        return _model_cases(plugins, model, shape, batch_size)
    notes: list[str] = []
    if layer is not None:
        spec = plugins.layers[layer]
        if reference is not None:
            target = _target(reference)
            try:
                spec = replace(spec, reference=target)
            except ValueError as error:
                raise UsageError(f"--reference: {error}") from None
            _check_defined(reference, target)
        cases = benchmarking.layer_cases(spec, shape, batch_size)
    else:
        cases, notes = benchmarking.every_layer(plugins.layers.values(), shape, batch_size)
    for note in notes:
        _render.message(f"note: not measured: {note}")
    if not cases:
        raise CnnforgeError("no plugin declares a layer that names a reference: nothing to measure")
    return cases, None


def _target(reference: str) -> str:
    """Import the file of `FILE.py:CLASS`, and return `MODULE:CLASS`."""
    from cnnforge.errors import UsageError, one_line
    from cnnforge.plugin_host.discovery import import_file

    file, colon, name = reference.rpartition(":")
    if not colon or not file.endswith(".py"):
        return reference
    try:
        return f"{import_file(Path(file)).__name__}:{name}"
    except (Exception, SystemExit) as error:
        raise UsageError(f"--reference {reference}: {one_line(error)}") from error


def _check_defined(reference: str, target: str) -> None:
    """Check that the module of `MODULE:CLASS` can be imported, and has the class."""
    import importlib
    from difflib import get_close_matches
    from operator import attrgetter

    from cnnforge.errors import UsageError, one_line

    source, _, name = reference.rpartition(":")
    module_name = target.partition(":")[0]
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--reference {reference}: {one_line(error)}") from error
    try:
        attrgetter(name)(module)
    except AttributeError:
        classes = {key for key, value in vars(module).items() if isinstance(value, type)}
        own = {key for key in classes if getattr(module, key).__module__ == module_name}
        # A package such as keras.layers has hundreds of classes of other modules.
        found = sorted(own)[:_MAX_NAMED] or get_close_matches(name, classes)
        has = f"it has {', '.join(found)}" if found else "it has no class of its own"
        example = f"; write --reference {source}:{found[0]}" if found else ""
        raise UsageError(f"--reference: {source} has no class {name}: {has}{example}") from None


def _model_cases(
    plugins: Plugins, name: str, shape: tuple[int, ...] | None, batch_size: int | None
) -> tuple[list[Case], keras.Model]:
    from cnnforge import benchmarking
    from cnnforge.configuration import TrainingOptions
    from cnnforge.conversion import forge
    from cnnforge.errors import UsageError, one_line
    from cnnforge.plugin import DEFAULT_TASK

    short, colon, argument = name.partition(":")
    spec = plugins.models[short]
    build = spec.load()
    default = _MODEL_SHAPE if plugins.tasks.same(spec.task, DEFAULT_TASK) else _DETECTOR_SHAPE
    images = default if shape is None else shape[-3:]
    of_training = spec.defaults.get("batch_size", TrainingOptions.batch_size)
    count = shape[0] if shape is not None and len(shape) == 4 else batch_size or of_training
    try:
        stock = build(images, _CLASSES, *[argument] * bool(colon))
    except ValueError as error:
        raise UsageError(f"--shape {'x'.join(map(str, images))}: {error}") from error
    except Exception as error:
        raise UsageError(f"the model {name!r} cannot be built: {one_line(error)}") from error
    model = forge(stock, "numba", layers=plugins.layers)
    return benchmarking.model_cases(model, plugins.layers, count), stock


def _choose(
    result: dict[str, Any], cases: list[Case], stock: keras.Model, plugins: Plugins
) -> None:
    """Add to a result the choices of `--kernels auto` for all layers of a model.

    A case may measure a fused layer: one plugin layer that replaces two stock layers. If `auto`
    uses another plugin layer instead, the case gets the choice `"apart"`.
    """
    from dataclasses import asdict

    from cnnforge.conversion import decide

    batch_size = cases[0].workload.shape[0]
    decided = {
        name: decide(stock, layers=plugins.layers, batch_size=batch_size, training=training)
        for name, training in (("training", True), ("inference", False))
    }
    result["auto"] = {name: [asdict(one) for one in found] for name, found in decided.items()}
    taken = {decision.layer: decision for decision in decided["training"]}
    for row, case in zip(result["cases"], cases, strict=True):
        decision = taken[case.layers[0]]
        ours = decision.implementation == "numba"
        apart = ours and decision.provider != case.workload.spec.qualified_name
        row["auto"] = "apart" if apart else decision.implementation


def _check(cases: list[Case], json: bool) -> list[Any]:
    """Compare each layer with its reference, and end the program if a layer is wrong.

    Returns:
        The result of `first_calls` for each case. The first calls are timed here, because the
        comparison calls the layers too.
    """
    from cnnforge import benchmarking
    from cnnforge.cli import _render
    from cnnforge.conversion.certificate import certify_layer

    wrong: list[LayerCheck] = []
    first = []
    with _render.progress() as display:
        display.start("parity", len(cases))
        for case in cases:
            display.advance(0, case.name)
            first.append(benchmarking.first_calls(case))
            checked = certify_layer(case.workload)
            wrong += [] if checked.passed else [checked]
            display.advance(1)
    if not wrong:
        return first
    if json:
        print_json({"format": benchmarking.FORMAT, "checks": [check.to_json() for check in wrong]})
    for check in wrong:
        tensors = [result.tensor for result in check.results if not result.ok]
        reason = check.error or f"{', '.join(tensors)} off by more than rounding"
        shape = "x".join(map(str, check.input_shape))
        _render.message(f"{check.provider} at {shape}: {reason}", "red")
    _render.message(f"{len(wrong)} of {len(cases)} checks failed: nothing was measured")
    raise typer.Exit(1)


def _measure(cases: list[Case], first: list[Any], rounds: int) -> dict[str, Any]:
    """Measure all cases, and return the result as a dictionary that can be printed as JSON."""
    from dataclasses import asdict

    from cnnforge import benchmarking
    from cnnforge.cli import _render
    from cnnforge.utils.environment import environment

    rows = []
    with _render.progress() as display:
        display.start("measuring", len(cases) + 1)
        display.advance(0, "the peak of this machine")
        peaks = benchmarking.measure_peaks()
        display.advance(1)
        for case, seconds in zip(cases, first, strict=True):
            display.advance(0, case.name)
            measured = benchmarking.measure(case, rounds=rounds, first=seconds, torch=True)
            rows.append({**benchmarking.to_json(measured, peaks), "auto": None})
            display.advance(1)
    return {
        "format": benchmarking.FORMAT,
        "machine": environment(),
        "peaks": asdict(peaks),
        "rounds": rounds,
        "torch_missing": benchmarking.torch_missing(),
        "cases": rows,
    }


def _write_files(result: dict[str, Any], csv: Path | None, plot: Path | None) -> list[str]:
    """Write the table and the figure, and return a message for each that cannot be written."""
    from cnnforge.benchmarking import csv_text
    from cnnforge.errors import message_of
    from cnnforge.reporting.benchmark_figures import benchmark_figure
    from cnnforge.utils.atomic_files import atomic_path, write_text

    def draw(path: Path) -> None:
        with atomic_path(path) as temporary:
            benchmark_figure(temporary, result)

    problems = []
    for path, write in (
        (csv, lambda path: write_text(path, csv_text(result))),
        (plot, draw),
    ):
        try:
            if path is not None:
                write(path)
        except Exception as error:
            cause = getattr(error, "strerror", None) or message_of(error)
            problems.append(f"{path} could not be written: {cause}")
    return problems
