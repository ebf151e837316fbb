"""Record in `plugins.json` which plugins a run needs, and check later that they are installed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from typing import Any

from cnnforge.errors import RunError, message_of
from cnnforge.plugin_host.discovery import PluginRecord
from cnnforge.runs import RunDirectory
from cnnforge.utils.names import as_argument, printable
from cnnforge.utils.structured_text import MALFORMED, read_json

PLUGINS = "plugins.json"
# The name and the version of a distribution. Messages name both in a command to copy.
_WORD = re.compile(r"[\w.!+-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A package that a run needs: a plugin, or another library that defines layers of its model.

    Attributes:
        plugin: Name of the plugin; empty for a library that is not a plugin.
        source: Module or file that defines the plugin.
        distribution: Name of the distribution to install; `None` if the plugin is a file.
        version: Version of the distribution.
        origin: URL that it was installed from; `None` if it came from a package index.
        uses: Parts of the plugin that the run uses, as kind and name: `"model acme/net"`.
        layers: Names of its layer classes that the saved model contains.
    """

    plugin: str
    source: str
    distribution: str | None = None
    version: str | None = None
    origin: str | None = None
    uses: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Description for messages, for instance `"plugin 'acme'"`."""
        return f"plugin {self.plugin!r}" if self.plugin else f"package {self.source!r}"

    @property
    def remedy(self) -> str:
        """Text for messages: the command that installs the plugin, or the option that loads it."""
        if self.distribution is None:
            return f"name it with --plugin {as_argument(self.source)}"
        origin = f" (it was installed from {printable(self.origin)})" if self.origin else ""
        return f"pip install {self.distribution}=={self.version}{origin}"


def requirements(
    records: Iterable[PluginRecord],
    names: Iterable[tuple[str, str]],
    layers: Iterable[type],
    declared: Mapping[str, str] | None = None,
) -> list[Requirement]:
    """List the plugins and libraries that a run needs.

    Args:
        records: Records of all plugins.
        names: Kind and qualified name of each part of a plugin that the run uses, for instance
            `("model", "acme/net")`.
        layers: Layer classes in the saved model that do not belong to Keras.
        declared: The plugin of each module that a layer spec names. Other modules belong to the
            plugin with the same package.

    Returns:
        A requirement for each plugin that the run uses, and for each other library that defines a
        layer of the model.
    """
    loaded = {record.name: record for record in records if record.status == "loaded"}
    packages = {_package(record.source): record.name for record in loaded.values()}
    uses: dict[str, list[str]] = {}
    for kind, name in names:
        uses.setdefault(name.partition("/")[0], []).append(f"{kind} {name.partition(':')[0]}")
    found: dict[str, dict[str, None]] = {}
    others: dict[str, dict[str, None]] = {}
    for layer in layers:
        package = layer.__module__.partition(".")[0]
        plugin = (declared or {}).get(layer.__module__, packages.get(package))
        group, key = (others, package) if plugin not in loaded else (found, plugin)
        group.setdefault(key, {})[layer.__name__] = None
    return [
        Requirement(
            plugin=name,
            source=loaded[name].source,
            distribution=loaded[name].distribution,
            version=loaded[name].version,
            origin=_origin(loaded[name].distribution),
            uses=tuple(uses.get(name, ())),
            layers=tuple(found.get(name, ())),
        )
        for name in loaded
        if name in uses or name in found
    ] + [_library(package, tuple(names)) for package, names in others.items()]


def write(run: RunDirectory, used: Sequence[Requirement]) -> None:
    """Write the requirements of a run to `plugins.json`."""
    run.write_json(PLUGINS, [asdict(requirement) for requirement in used])


def read(run: RunDirectory) -> list[Requirement]:
    """Read the requirements of a run from `plugins.json`; empty if there is no such file.

    Raises:
        RunError: The file is damaged.
    """
    path = run.path / PLUGINS
    if not path.is_file():
        return []
    try:
        rows = read_json(path)
        return [_checked(Requirement(**{**row, **_tuples(row)})) for row in rows]
    except (OSError, *MALFORMED) as error:
        raise RunError(f"{path} cannot be read: {message_of(error)}; restore it") from error


def check(
    run: RunDirectory, records: Iterable[PluginRecord], *, model_only: bool
) -> list[Requirement]:
    """Check that the plugins that a run needs are installed.

    Args:
        run: The run.
        records: Records of all plugins.
        model_only: Whether to check only the plugins that a prediction needs: those that define
            layers of the saved model, or its task. To resume training, all plugins are needed.

    Returns:
        The requirements whose installed version differs from the version that the run used.

    Raises:
        RunError: A plugin is missing. The message contains the command that installs it.
    """
    by_name = {record.name: record for record in records}
    changed = []
    for requirement in read(run):
        if model_only and not requirement.layers and not _tasks(requirement):
            continue
        record = by_name.get(requirement.plugin) if requirement.plugin else None
        version = _version(requirement.distribution) if record is None else record.version
        if requirement.plugin and (record is None or record.status != "loaded"):
            why = "is not installed here" if record is None else f"is not loaded: {record.cause}"
            raise RunError(
                f"the run {run.path} needs {_what(requirement)} of the {requirement.name}, "
                f"which {why}; {requirement.remedy}"
            )
        if requirement.distribution is not None and version is None:
            raise RunError(
                f"the run {run.path} needs {_what(requirement)} of the {requirement.name}, "
                f"which is not installed here; {requirement.remedy}"
            )
        if version != requirement.version:
            changed.append(requirement)
    return changed


def describe_change(requirement: Requirement) -> str:
    """Describe how the installed version of a plugin differs from the version that the run used.

    Args:
        requirement: A requirement that `check` returned.

    Returns:
        A clause for a message, without a full stop.
    """
    here = _version(requirement.distribution) or "of no version"
    return (
        f"the {requirement.name} is {requirement.distribution} {here} here, the run was made with "
        f"{requirement.version}"
    )


def _what(requirement: Requirement) -> str:
    layers = [f"layer {name}" for name in requirement.layers]
    names = ", ".join([*layers, *_tasks(requirement)]) or ", ".join(requirement.uses)
    return f"the {printable(names)}"


def _tasks(it: Requirement) -> list[str]:
    # A prediction needs the plugin that defines the task, because the task interprets the outputs
    # of the model.
    return [use for use in it.uses if use.startswith("task ")]


def _package(source: str) -> str:
    return source.replace("\\", "/").rpartition("/")[2].partition(".")[0].partition(":")[0]


def _library(package: str, layers: tuple[str, ...]) -> Requirement:
    names = packages_distributions().get(package, [])
    return Requirement(
        plugin="",
        source=package,
        distribution=names[0] if names else None,
        version=_version(names[0]) if names else None,
        origin=_origin(names[0]) if names else None,
        layers=layers,
    )


def _version(name: str | None) -> str | None:
    try:
        return distribution(name).version if name else None
    except PackageNotFoundError:
        return None


def _origin(name: str | None) -> str | None:
    """Return the URL that a distribution was installed from; `None` for a package index.

    pip writes this URL to the file `direct_url.json` (PEP 610).
    """
    try:
        text = distribution(name).read_text("direct_url.json") if name else None
        return json.loads(text)["url"] if text else None
    except (PackageNotFoundError, ValueError, KeyError):
        return None


def _checked(requirement: Requirement) -> Requirement:
    """Return a requirement whose values have the right types."""
    texts = (requirement.plugin, requirement.source, *requirement.uses, *requirement.layers)
    optional = (requirement.distribution, requirement.version, requirement.origin)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is not a text")
    if not all(isinstance(text, str | None) for text in optional):
        raise ValueError("a distribution, a version or an origin is not a text")
    if not all(_WORD.fullmatch(text or "") for text in optional[:2]):
        raise ValueError("a distribution or a version has other characters than letters and digits")
    return requirement


def _tuples(row: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(row[name]) for name in ("uses", "layers")}
