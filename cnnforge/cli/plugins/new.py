"""The command `cnnforge plugins new`: writes a plugin package to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnforge.cli._common import JsonOption, print_json

if TYPE_CHECKING:
    from cnnforge.plugin_host.scaffold import NewPlugin


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Lower-case words, such as soft-edge.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            metavar="layer|dataset|model|callback|augmentation|task", help="Kind of plugin."
        ),
    ] = "layer",
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="CLASS", help="Name of the layer class, such as BlurPool2D."
        ),
    ] = None,
    cuda: Annotated[
        bool,
        typer.Option("--cuda", help="Write functions for CUDA devices too, for a layer."),
    ] = False,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Parent folder of the new package.")
    ] = Path(),
    json: JsonOption = False,
) -> None:
    """Write a complete plugin package, with tests that pass, to put your code into."""
    from cnnforge.cli import _render
    from cnnforge.plugin_host.scaffold import create

    made = create(name, kind, output, class_name, cuda=cuda)
    if json:
        print_json(
            {
                "folder": str(made.folder),
                "distribution": made.distribution,
                "kind": made.kind,
                "name": made.declared,
                "files": list(made.files),
                "next": _next_steps(made, cuda),
            }
        )
        return
    for file in made.files:
        typer.echo(made.folder / file)
    _render.message(f"TODO({made.distribution}) marks what to replace. Next:")
    for step in _next_steps(made, cuda):
        _render.message(f"  {step}")


def _next_steps(made: NewPlugin, cuda: bool) -> list[str]:
    module, folder = made.module, made.folder
    tries = {
        "layer": f"{module}_net",
        "dataset": f"--data {module}",
        "model": module,
        "callback": f"--callback {module}",
        "augmentation": f"--augment {module}",
        "task": f"{module}_net --data {module}_data",
    }
    return [
        f"pip install -e {folder}",
        f"cnnforge plugins check {module}{' --cuda' if cuda else ''}",
        f"cnnforge train {tries[made.kind]} --epochs 1",
        f"python -m pytest {folder}",
    ]
