"""Define options and functions that several commands share.

Every command imports this module at the top. So it must not import slow modules such as Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cnnforge.cli._streams import shows_unicode

if TYPE_CHECKING:
    from cnnforge.plugin_host.discovery import Plugins

PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.py|MODULE", help="Load this plugin too; repeatable."),
]
"""The option `--plugin`. It is the type of a command's parameter `plugin` with default `None`."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
"""The option `--json`. It is the type of a command's parameter `json` with default `False`."""


def load_plugins(explicit: Sequence[str] | None = None) -> Plugins:
    """Load all plugins, and print a warning on stderr for each installed plugin that fails to load.

    Args:
        explicit: The values of `--plugin`.

    Returns:
        The plugins.

    Raises:
        PluginError: One of `explicit` cannot be loaded.
    """
    from cnnforge.plugin_host.discovery import discover

    plugins = discover(explicit or ())
    for record in plugins.records:
        if record.status in ("failed", "incompatible"):
            from cnnforge.cli import _render

            _render.message(f"warning: plugin {record.name!r} is not loaded: {record.cause}")
    return plugins


def print_json(value: object) -> None:
    """Print a value on stdout as JSON.

    Args:
        value: A value made of dictionaries, lists, strings, numbers, booleans and `None`. If stdout
            cannot show every letter, the JSON consists of ASCII, and is the same value.
    """
    import json
    import sys

    ascii_only = not shows_unicode(sys.stdout)
    typer.echo(json.dumps(value, indent=2, ensure_ascii=ascii_only))
