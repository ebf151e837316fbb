"""Check that a run can be resumed or repeated on this machine, and print the result."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnforge.cli import _render, _settings
from cnnforge.cli._common import print_json
from cnnforge.errors import UsageError
from cnnforge.utils.names import as_argument

if TYPE_CHECKING:
    from cnnforge.runs import RunDirectory
    from cnnforge.verifying.processes import CheckOptions
    from cnnforge.verifying.repeating import Difference, RepeatCheck
    from cnnforge.verifying.resuming import ResumeCheck

COMMAND = (sys.executable, "-P", "-m", "cnnforge.cli.doctor.worker")
"""The command that starts a process that trains a copy of a run."""

_WHAT = {
    "inputs": "the images that the model gets",
    "outputs": "the outputs of {}",
    "gradient": "the gradient of {}",
    "variable": "{} after the step",
}
_KIND = {
    "run to run": "from run to run",
    "process to process": "from process to process",
    "threads": "with the number of threads",
}
_CAUSE = {
    "run to run": "random numbers without a seed, or a value that changes in time",
    "process to process": "hash() of a text, id(), the order of a set, the time or a number of the "
    "process",
    "threads": "sums whose order depends on the number of threads",
}
_DIGITS = 16


def check_run(path: Path, options: CheckOptions, *, resumed: bool, json: bool) -> None:
    """Check a run, and print the result.

    Args:
        path: The run directory.
        options: Options of the check.
        resumed: Whether to check that the run can be resumed. Otherwise, that it can be repeated.
        json: Whether to print JSON.

    Raises:
        CnnforgeError: The run cannot be checked.
        typer.Exit: Something differs.
    """
    from cnnforge.runs import RunDirectory
    from cnnforge.verifying.processes import Copies
    from cnnforge.verifying.repeating import check_repeats
    from cnnforge.verifying.resuming import check_resume

    run = RunDirectory.open(path, needs=())
    _check_backend(run)
    with Copies(run, options, COMMAND) as copies:
        if resumed:
            result = check_resume(copies, _render.message)
        else:
            result = check_repeats(copies, _render.message)
    for note in result.steps.notes:
        _render.message(f"note: {note}")
    if json:
        check = "resume" if resumed else "determinism"
        print_json({"run": str(path), "check": check, **result.as_dict()})
    else:
        show = _resumed if resumed else _repeated
        for line in show(path, result):  # pyright: ignore[reportArgumentType]
            typer.echo(line)
    if not result.equal:
        raise typer.Exit(1)


def _check_backend(run: RunDirectory) -> None:
    """Check that the run was trained with the backend that is in use here.

    Raises:
        UsageError: It was trained with another one.
    """
    here = _settings.keras_settings().backend
    try:
        text = (run.path / "environment.json").read_text(encoding="utf-8")
        trained: Any = json_module.loads(text)["backend"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        # The file is for the user. A training state names the backend too.
        return
    if trained != here:
        raise UsageError(
            f"the run {run.path} was trained with the Keras backend {trained}, and this is {here}, "
            f"which rounds differently: set KERAS_BACKEND={trained}"
        )


def _resumed(path: Path, result: ResumeCheck) -> list[str]:
    steps = result.steps
    lines = [
        f"{path}: trained {steps.describe()}, in copies; the run is unchanged",
        f"not interrupted:    {result.whole[:_DIGITS]}...",
        f"killed and resumed: {result.interrupted[:_DIGITS]}...  (SIGKILL after step "
        f"{result.killed}, resumed after step {result.resumed})",
    ]
    if result.equal:
        return [*lines, "the same bits: this run can be interrupted at any time"]
    found = result.difference
    if found is None:
        return [*lines, "OTHER BITS: the two trainings have other variables"]
    of = f" ({found['layer']})" if found["layer"] else ""
    return [
        *lines,
        f"OTHER BITS: {found['differing']} of {found['variables']} variables differ, first "
        f"{found['variable']}{of}, by up to {found['max']:.3g}",
        f"to find the layer, type: cnnforge doctor --determinism {as_argument(path)}; then "
        f"{_report_it(found['plugin'])}",
    ]


def _repeated(path: Path, result: RepeatCheck) -> list[str]:
    lines = [f"{path}: trained {result.steps.describe()}, in copies; the run is unchanged"]
    width = max(len(how) for how, _ in result.trials) + 1
    lines += [f"{how + ':':{width}} {weights[:_DIGITS]}..." for how, weights in result.trials]
    found = result.difference
    if found is None:
        usual, other = result.threads
        return [
            *lines,
            f"bit-equal here: from run to run, from process to process, with {usual} and {other} "
            f"thread{'s' * (other > 1)}",
        ]
    return [*lines, *_different(found)]


def _different(found: Difference) -> list[str]:
    name = found.name
    if found.layer and found.what != "outputs":
        name += f" ({found.layer})"
    line = (
        f"NOT BIT-EQUAL {_KIND[found.kind]}: first {_WHAT[found.what].format(name)}, in step "
        f"{found.step + 1} ({found.place})"
    )
    if found.compared:
        line += (
            f"; {found.differing} of {found.compared} compared values differ, by up to "
            f"{found.max:.3g} (the largest value is {found.size:.3g})"
        )
    lines = [line]
    if found.what == "gradient":
        equal = f"; the gradient of {found.before} is equal" if found.before else ""
        lines.append(
            "the outputs of all layers are equal, so look at the gradients that this layer and the "
            f"layers after it compute{equal}"
        )
    if found.what == "variable":
        lines.append("outputs and gradients are equal when they are computed layer by layer")
    return [*lines, f"likely cause: {_cause(found)}"]


def _cause(found: Difference) -> str:
    if found.what == "inputs":
        return "the data or an augmentation; report it to the author of its plugin"
    if found.kind == "threads" and found.layer and not found.plugin:
        return (
            "TensorFlow adds in an order that depends on the number of threads; train with "
            "--kernels numba, or with the same number each time (TF_NUM_INTRAOP_THREADS)"
        )
    return f"{_CAUSE[found.kind]}; {_report_it(found.plugin)}"


def _report_it(plugin: str) -> str:
    author = f"the author of the plugin {plugin!r}"
    return f"report it to {author if plugin not in ('', 'builtin') else 'the authors of cnnforge'}"
