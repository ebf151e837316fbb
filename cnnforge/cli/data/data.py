"""The group of commands `cnnforge data`. Each command is in a file of its own."""

from __future__ import annotations

import typer

from cnnforge.cli.data.check import check
from cnnforge.cli.data.convert import convert
from cnnforge.cli.data.show import show

group = typer.Typer(name="data", rich_markup_mode=None)
group.command()(check)
group.command()(convert)
group.command()(show)


@group.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Check data, convert them to another format, or show what a network sees of them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
