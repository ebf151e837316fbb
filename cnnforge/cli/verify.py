"""The command `cnnforge verify`: checks the kernels of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    TrustModelOption,
    find_run,
    load_plugins,
    print_json,
)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or latest.")],
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Check the Numba kernels of the model of a run against stock Keras layers.

    It is the check of train, with the trained weights. It compares outputs and gradients, layer by
    layer, and the outputs of the inference plan. Exit codes: 0 all pass, 1 a layer or the plan
    fails.
    """
    run = find_run(run)
    from cnnforge.cli._trained import open_trained

    trained = open_trained(run, "keras", plugin, load_plugins)
    from cnnforge.conversion import forge
    from cnnforge.conversion.certificate import certify
    from cnnforge.errors import CnnforgeError
    from cnnforge.prediction.keras_model import load_model
    from cnnforge.prediction.plans import check_plan
    from cnnforge.runs import RunDirectory
    from cnnforge.training.run_metadata import read_decisions

    directory, layers = RunDirectory.open(run), trained.plugins.layers
    stock = load_model(directory.model, layers)
    checks = list(certify(forge(stock, read_decisions(directory), layers=layers), layers=layers))
    failed = [check for check in checks if not check.passed]
    plan, plan_passed = check_plan(directory, stock, trained.predictor.task, trained.plugins)
    if json:
        print_json(
            {
                "run": str(run),
                "passed": not failed and plan_passed,
                "layers": [check.to_json() for check in checks],
                "plan": plan,
            }
        )
    elif not checks:
        typer.echo(f"{run}: no layer of the model runs on Numba kernels, so nothing is to check")
    else:
        from cnnforge.cli import _render

        rows = [
            [
                check.layer,
                check.provider,
                "x".join(map(str, check.input_shape)),
                check.error or f"{check.worst:.0%}",
                "passed" if check.passed else "FAILED",
            ]
            for check in checks
        ]
        _render.table(["layer", "kernel", "input", "max error / tolerance", "result"], rows)
    if not json:
        typer.echo(f"inference plan: {plan}")
    if failed:
        names = ", ".join(check.layer for check in failed)
        raise CnnforgeError(
            f"the kernels of {len(failed)} of {len(checks)} layers differ from the stock layers: "
            f"{names}; predict with --kernels keras, and see 'cnnforge doctor'"
        )
    if not plan_passed:
        raise CnnforgeError(
            f"the inference plan of {run} {plan}: predict with --kernels keras, and delete its "
            "plan.json, so that the plan is made again"
        )
