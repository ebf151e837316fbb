"""Keep which plugins the user has named, so that a run cannot make cnnforge import other code.

The `config.toml` of a run names the plugins that it was trained with. A plugin is code, and the run
may come from a stranger. So such a plugin is imported only if the user has named it, too.

A plugin that the user names is remembered as a file in the cache folder of this machine. Each
plugin has a file of its own, so that commands that run at the same time do not disturb each other.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

from cnnforge.errors import UsageError
from cnnforge.model_files.trust import models_are_trusted
from cnnforge.plugin_host.discovery import ENTRY_POINT_GROUP
from cnnforge.utils.atomic_files import write_bytes
from cnnforge.utils.cache_folder import cache_folder
from cnnforge.utils.names import printable

_FOLDER = "named-plugins"


def plugins_of_run(run: Path, used: Iterable[str], given: Iterable[str] = ()) -> tuple[str, ...]:
    """List the plugins to load for a run, and remember those that the user names.

    Args:
        run: The run directory, for the error message.
        used: Plugins that the run names, as for `--plugin`.
        given: Plugins that the user names: values of `--plugin`, of a config file, or of the
            argument `plugins` of `cnnforge.load`.

    Returns:
        The plugins of the run, and then the others that the user names.

    Raises:
        UsageError: The run names a plugin that is not installed, and that the user has not named on
            this machine. With `--trust-model`, all plugins of the run are allowed.
    """
    used, given = tuple(used), tuple(given)
    # Trust holds for one command, so nothing is remembered then.
    if not models_are_trusted():
        _check(run, used, given)
        remember(given)
    return tuple(dict.fromkeys((*used, *given)))


def remember(plugins: Iterable[str]) -> None:
    """Remember that the user has named plugins. If the cache cannot be written, do nothing.

    Args:
        plugins: Files and modules, as for `--plugin`.
    """
    for key in filter(None, map(_key, plugins)):
        if not _is_remembered(key):
            with suppress(OSError):
                path = _record(key)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, os.fsencode(key))


def _check(run: Path, used: Sequence[str], given: Sequence[str]) -> None:
    named = set(map(_key, given))
    installed = {entry_point.value for entry_point in entry_points(group=ENTRY_POINT_GROUP)}
    unknown = [
        name
        for name in used
        # Nothing can be imported from a file that does not exist. Other messages are about it.
        if (key := _key(name)) is not None
        and key not in named
        and name not in installed
        and not _is_remembered(key)
    ]
    if unknown:
        several = len(unknown) > 1
        options = " ".join(f"--plugin {shlex.quote(printable(name))}" for name in unknown)
        raise UsageError(
            f"the run {printable(run)} names the plugin{'s' if several else ''} "
            f"{', '.join(map(printable, unknown))}, and you have not named "
            f"{'them' if several else 'it'} on this machine before: a plugin can run any code, so "
            f"look at {'them' if several else 'it'}, then add {options} (in Python: "
            f"plugins={unknown})"
        )


def _key(name: str) -> str | None:
    """Return what identifies a plugin: the real path of a file, or the name of a module.

    `None` for a file that does not exist.
    """
    if not name.endswith(".py"):
        return name
    path = Path(name)
    return str(path.resolve()) if path.is_file() else None


def _record(key: str) -> Path:
    return cache_folder() / _FOLDER / hashlib.sha256(os.fsencode(key)).hexdigest()


def _is_remembered(key: str) -> bool:
    try:
        return _record(key).read_bytes() == os.fsencode(key)
    except OSError:
        return False
