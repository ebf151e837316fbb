"""What several commands share. Light: every command imports it at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cnnforge.plugin_host.discovery import Plugins

PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py|MODULE",
        help="Load this plugin too; may be given several times.",
    ),
]
"""The option `--plugin`: annotate a parameter `plugin` with it and let its default be `None`."""

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, for programs, instead of a table.")
]
"""The option `--json`: annotate a parameter `json` with it and let its default be `False`."""


def load_plugins(explicit: Sequence[str] | None = None) -> Plugins:
    """Load all plugins; say on stderr, in a line each, which installed ones could not be.

    Args:
        explicit: The values of `--plugin`.

    Returns:
        The plugins.

    Raises:
        PluginError: If one of `explicit` cannot be loaded.
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
        value: Dictionaries, lists, strings, numbers, booleans, `None`.
    """
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
