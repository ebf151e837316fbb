"""Which plugins a run was made with, and what to say where one of them is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from typing import Any

from cnnforge.discovery import PluginRecord
from cnnforge.errors import RunError
from cnnforge.runs import RunDirectory

PLUGINS = "plugins.json"


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A plugin that a run has used.

    Attributes:
        plugin: Its name; empty for a library that is none and has layers in the model.
        source: The module or the file that it comes from.
        distribution: The distribution that brings it; `None` for a file.
        version: The version of that.
        origin: The address that it was installed from; `None` for a package index.
        uses: What the run has of it, for instance `"layer acme/gabor"`.
        layers: The layers among these that are in the saved model.
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
        """How messages name it."""
        return f"plugin {self.plugin!r}" if self.plugin else f"package {self.source!r}"

    @property
    def remedy(self) -> str:
        """What to do where it is missing."""
        if self.distribution is None:
            return f"name it with --plugin {self.source}"
        origin = f" (it was installed from {self.origin})" if self.origin else ""
        return f"pip install {self.distribution}=={self.version}{origin}"


def requirements(
    records: Iterable[PluginRecord],
    names: Iterable[tuple[str, str]],
    layers: Iterable[type],
) -> list[Requirement]:
    """Find out which plugins a run uses.

    Args:
        records: What became of each plugin.
        names: Kind and qualified name of what the run uses: `("model", "acme/net")`.
        layers: The classes in the saved model that are not Keras' own.

    Returns:
        One for each plugin, and one for each library besides that has a layer in the model.
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
        group, key = (found, packages[package]) if package in packages else (others, package)
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
    """Write `plugins.json`."""
    run.write_json(PLUGINS, [asdict(it) for it in used])


def read(run: RunDirectory) -> list[Requirement]:
    """Read `plugins.json`; runs of before there was one need nothing.

    Raises:
        RunError: It is damaged.
    """
    path = run.path / PLUGINS
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Requirement(**{**row, **_tuples(row)}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def check(
    run: RunDirectory, records: Iterable[PluginRecord], *, model_only: bool
) -> list[Requirement]:
    """Require that the plugins of a run are there.

    Args:
        run: The run.
        records: What became of each plugin here.
        model_only: Whether only those matter whose layers are in the saved model or whose task it
            learned, which is what predicting takes; to go on with training takes all.

    Returns:
        Those that are there in another version.

    Raises:
        RunError: One is not there; the message holds the line that installs it.
    """
    by_name = {record.name: record for record in records}
    changed = []
    for it in read(run):
        if model_only and not it.layers and not _tasks(it):
            continue
        record = by_name.get(it.plugin) if it.plugin else None
        version = _version(it.distribution) if record is None else record.version
        if it.plugin and (record is None or record.status != "loaded"):
            why = "is not installed here" if record is None else f"is not loaded: {record.cause}"
            raise RunError(
                f"the run {run.path} needs {_what(it)} of the {it.name}, which {why}; {it.remedy}"
            )
        if it.distribution is not None and version is None:
            raise RunError(
                f"the run {run.path} needs {_what(it)} of the {it.name}, which is not "
                f"installed here; {it.remedy}"
            )
        if version != it.version:
            changed.append(it)
    return changed


def describe_change(it: Requirement) -> str:
    """Say which version there was and which there is.

    Args:
        it: What `check` has returned.

    Returns:
        A clause, without its end.
    """
    here = _version(it.distribution) or "of no version"
    return f"the {it.name} is {it.distribution} {here} here, the run was made with {it.version}"


def _what(it: Requirement) -> str:
    names = ", ".join([*(f"layer {name}" for name in it.layers), *_tasks(it)])
    names = names or ", ".join(it.uses)
    return f"the {names}"


def _tasks(it: Requirement) -> list[str]:
    # A task says what the outputs of a model mean: nothing is predicted without it.
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
    """The address in `direct_url.json` (PEP 610), which pip writes unless an index was asked."""
    try:
        text = distribution(name).read_text("direct_url.json") if name else None
        return json.loads(text)["url"] if text else None
    except (PackageNotFoundError, ValueError, KeyError):
        return None


def _tuples(row: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(row[name]) for name in ("uses", "layers")}
