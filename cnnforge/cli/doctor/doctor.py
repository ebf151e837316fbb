"""The command `cnnforge doctor`: checks this machine, or the training of a run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnforge.cli._common import JsonOption, PluginOption, TrustModelOption, find_run


def doctor(
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Kill and resume the training of a copy of this run, or latest, and compare it "
            "with a training that nothing interrupts.",
        ),
    ] = None,
    determinism: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train copies of this run, or latest, again, in other processes and with other "
            "threads, and name the first layer that differs.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Max number of training steps of the check of a run.  [default: 10 for --resume, "
            "3 for --determinism]",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="New place of the data of the run, if they have moved."),
    ] = None,
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Show what this machine offers; check every layer kernel against its reference.

    With --resume or --determinism, check instead that a run can be resumed or repeated here with
    the same bits. The run itself is not changed. Exit codes: 0 all is equal or passes, 1 something
    differs or fails.
    """
    from cnnforge.errors import UsageError

    if resume is not None and determinism is not None:
        raise UsageError("give one of --resume and --determinism: each is a check of its own")
    named = resume if determinism is None else determinism
    if named is None:
        without = {"--steps": steps, "--data": data, "--trust-model": trust_model or None}
        for option, value in without.items():
            if value is not None:
                raise UsageError(
                    f"{option} belongs to the check of a run: add --resume RUN or "
                    "--determinism RUN, or leave it out"
                )
        from cnnforge.cli.doctor.machine import check_machine

        check_machine(plugin or (), json)
        return
    from cnnforge.cli.doctor.of_run import check_run
    from cnnforge.verifying.processes import CheckOptions

    if steps == 1 and determinism is None:
        raise UsageError("--steps is 1: give 2 or more, so that a step comes after the kill")
    default = 10 if determinism is None else 3
    options = CheckOptions(
        data=data, plugin=tuple(plugin or ()), trust=trust_model, steps=steps or default
    )
    check_run(find_run(named), options, resumed=determinism is None, json=json)
