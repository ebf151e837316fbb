"""Define options and functions that several commands share.

Every command imports this module at the top. So it must not import slow modules such as Keras.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._streams import shows_unicode

if TYPE_CHECKING:
    from cnnforge.plugin import Spec
    from cnnforge.plugin_host.discovery import Plugins

PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.py|MODULE", help="Load this plugin too; repeatable."),
]
"""The option `--plugin`. It is the type of a command's parameter `plugin` with default `None`."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
"""The option `--json`. It is the type of a command's parameter `json` with default `False`."""


KernelsOption = Annotated[
    str,
    typer.Option(
        metavar="auto|numba|keras",
        help="auto: the inference plan of the run, which needs no Keras; numba, keras: the model "
        "in Keras, with layers of these.",
    ),
]
"""The option `--kernels` of commands that use a trained model; its default is `"auto"`."""


def _trust(context: typer.Context, trust: bool) -> bool:
    if trust:
        from cnnforge.model_files.trust import trusting_models

        # Until the end of the command.
        context.with_resource(trusting_models())
    return trust


TrustModelOption = Annotated[
    bool,
    typer.Option(
        "--trust-model",
        callback=_trust,
        help="Open the model file without checks, and import the plugins that the run names. Both "
        "can run any code, so name only files whose author you trust.",
    ),
]
"""The option `--trust-model`. It is the type of a command's parameter `trust_model` with default
`False`. The option acts by itself, so the command does not use the parameter."""


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


def find_run(named: Path) -> Path:
    """Find the run that the user named, and print on stderr which one `latest` means.

    Args:
        named: The path of a run, `latest`, or `FOLDER/latest`.

    Returns:
        The path of the run directory.

    Raises:
        UsageError: There is no such run.
    """
    from cnnforge.runs import finding

    path = finding.find_run(named)
    if finding.names_latest(named):
        from cnnforge.cli import _render

        _render.message(f"the newest run is {path}")
    return path


def find_weights(named: Path, option: str = "--init-from") -> Path:
    """Find the file or the run that `--init-from` or `--weights` names.

    Args:
        named: The path of a `.keras` or `.weights.h5` file, or a run, see `find_run`.
        option: Name of the option, for the error message.

    Returns:
        The path of the file or of the run directory.

    Raises:
        UsageError: There is no such file or run.
    """
    from cnnforge.errors import UsageError

    path = Path(os.path.expanduser(named))
    if path.suffix.lower() in (".keras", ".h5") and not os.path.exists(path):
        raise UsageError(f"{option}: there is no file {named}; 'cnnforge runs' lists runs")
    if os.path.isfile(path / "saved_model.pb"):
        raise UsageError(
            f"{option}: {named} is a SavedModel, whose graph may do anything, and Keras 3 does not "
            "read it: save the model as a .keras file in the program that made it"
        )
    if not os.path.isfile(path):
        return find_run(path)
    return path


def check_file(option: str, path: Path, suffix: str, what: str) -> Path:
    """Check the path of a file that a command will write, before work begins.

    Args:
        option: Name of the option, for messages.
        path: The path.
        suffix: Ending that the file must have, such as `".png"`.
        what: Clause about the file for messages, such as `"the sheet is a PNG file"`.

    Returns:
        The path, with the home folder for `~`.

    Raises:
        UsageError: If it has another ending, is a folder, or its folder does not exist.
    """
    from cnnforge.errors import UsageError

    path = path.expanduser()
    if path.suffix.lower() != suffix:
        raise UsageError(f"{option} {path}: {what}; give a name that ends in {suffix}")
    if path.is_dir() or not path.parent.is_dir():
        why = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"{option} {path}: {why}; give the name of a file in an existing folder")
    return path


def default_file(folder: Path, stem: str, suffix: str) -> Path:
    """Return the path of a file that does not exist yet: `STEM.png`, `STEM-2.png`, ...

    Args:
        folder: Folder of the file.
        stem: First part of its name.
        suffix: Its ending.
    """
    path, number = folder / f"{stem}{suffix}", 2
    while os.path.lexists(path):
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path


def import_error(spec: Spec) -> str | None:
    """Import all classes and functions that a spec names.

    Returns:
        The error in one line; `None` if everything can be imported.
    """
    from cnnforge.errors import PluginError, one_line

    try:
        spec.load_all()
    except PluginError as error:
        # The caller names the plugin and the target, so it needs only the cause.
        return one_line(error.__cause__ or error)
    return None


class LazyList(list[object]):
    """A list for `print_json` and `json_parts` whose items are made one after another.

    So a long list needs little memory.

    Args:
        items: A sequence.
        convert: Function that converts an item of it to plain values.
    """

    def __init__(self, items: Sequence[Any], convert: Callable[[Any], object]) -> None:
        super().__init__(items[:1])  # An empty list is printed as [].
        self._items, self._convert = items, convert

    def __iter__(self) -> Iterator[object]:
        """Make the items."""
        return map(self._convert, self._items)


def json_parts(value: object, *, ascii_only: bool = False) -> Iterator[str]:
    """Convert a value to JSON, in parts of some thousand letters.

    Args:
        value: A value made of dictionaries, lists, strings, numbers, booleans and `None`.
        ascii_only: Whether to write escapes for letters outside of ASCII.
    """
    import json
    from itertools import islice

    tokens = json.JSONEncoder(indent=2, ensure_ascii=ascii_only).iterencode(value)
    while part := "".join(islice(tokens, 4096)):
        yield part


def print_json(value: object) -> None:
    """Print a value on stdout as JSON.

    Args:
        value: A value made of dictionaries, lists, strings, numbers, booleans and `None`. If stdout
            cannot show every letter, the JSON consists of ASCII, and is the same value.
    """
    import sys

    for part in json_parts(value, ascii_only=not shows_unicode(sys.stdout)):
        typer.echo(part, nl=False)
    typer.echo()
