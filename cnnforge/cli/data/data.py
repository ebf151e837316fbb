"""The group of commands `cnnforge data`. Each command is in a file of its own."""

from __future__ import annotations

import typer

from cnnforge.cli.data.check import check
from cnnforge.cli.data.convert import convert
from cnnforge.cli.data.show import show

group = typer.Typer(name="data", rich_markup_mode=None, no_args_is_help=True)
group.command()(check)
group.command()(convert)
group.command()(show)


@group.callback()
def data() -> None:
    """Check data, convert them to another format, or show what a network sees of them."""
