"""Finds plugins and loads each so that none can harm another.

First the installed ones, sorted by name: the entry points of the group `cnnforge`. Then those
that the user names, files or modules. Nothing is looked for in the working directory.

Environment variables:
    CNNFORGE_PLUGIN_AUTOLOAD: `0` leaves the installed plugins alone.
    CNNFORGE_DISABLED_PLUGINS: Names of installed plugins, separated by commas, to leave alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from cnnforge import hookspecs
from cnnforge.errors import PluginError, UsageError, one_line
from cnnforge.plugin import (
    DEFAULT_TASK,
    PLUGIN_API,
    AugmentationSpec,
    CallbackSpec,
    DatasetSpec,
    LayerSpec,
    ModelSpec,
    TaskSpec,
    hookimpl,
)
from cnnforge.registry import Registry

ENTRY_POINT_GROUP = "cnnforge"
AUTOLOAD_VARIABLE = "CNNFORGE_PLUGIN_AUTOLOAD"
DISABLED_VARIABLE = "CNNFORGE_DISABLED_PLUGINS"

Status = Literal["loaded", "failed", "incompatible", "disabled"]


class _IncompatibleError(PluginError):
    """A plugin that was written for another plugin API."""


class _Core:
    """What the core declares itself: runs and models of 0.1 name no task and need this one."""

    @hookimpl
    def cnnforge_tasks(self) -> list[TaskSpec]:
        return [
            TaskSpec(
                name=DEFAULT_TASK,
                target="cnnforge.tasks.classification:Classification",
                summary="tells the class of an image",
            )
        ]


@dataclass(slots=True)
class PluginRecord:
    """What became of one plugin.

    Attributes:
        name: The plugin's name: the first half of its qualified names.
        source: The module, or the file, that it comes from.
        distribution: The installed distribution that brings it; `None` for a file.
        version: The version of that distribution.
        status: `"loaded"`, `"failed"`, `"incompatible"` (written for another `PLUGIN_API`), or
            `"disabled"` by the user.
        error: Why it is not loaded, if something was raised.
    """

    name: str
    source: str
    distribution: str | None = None
    version: str | None = None
    status: Status = "loaded"
    error: BaseException | None = None

    @property
    def cause(self) -> str:
        """Why the plugin is not loaded, in one line; empty for one that is."""
        if self.status == "disabled":
            return f"named in {DISABLED_VARIABLE}"
        return "" if self.error is None else one_line(self.error)


@dataclass
class Plugins:
    """All plugins: what they declare, and what became of each.

    Attributes:
        layers: The layers, by name.
        datasets: The datasets, by name.
        models: The models, by name.
        tasks: The tasks, by name; the core's own are there in any case.
        callbacks: The callbacks of training, by name.
        augmentations: The augmentations, by name.
        records: One record per plugin, in the order in which they were looked at.
        manager: The pluggy manager with the loaded plugins.
    """

    layers: Registry[LayerSpec] = field(init=False)
    datasets: Registry[DatasetSpec] = field(init=False)
    models: Registry[ModelSpec] = field(init=False)
    tasks: Registry[TaskSpec] = field(init=False)
    callbacks: Registry[CallbackSpec] = field(init=False)
    augmentations: Registry[AugmentationSpec] = field(init=False)
    records: list[PluginRecord] = field(default_factory=list)
    manager: pluggy.PluginManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.layers = Registry(LayerSpec, self._problems)
        self.datasets = Registry(DatasetSpec, self._problems)
        self.models = Registry(ModelSpec, self._problems)
        self.tasks = Registry(TaskSpec, self._problems)
        self.callbacks = Registry(CallbackSpec, self._problems)
        self.augmentations = Registry(AugmentationSpec, self._problems)
        self.manager = pluggy.PluginManager("cnnforge")
        self.manager.add_hookspecs(hookspecs)
        self.register(_Core(), "cnnforge")

    @property
    def registries(self) -> dict[str, Registry[Any]]:
        """The registries by the hook that fills them."""
        return {
            "cnnforge_layers": self.layers,
            "cnnforge_datasets": self.datasets,
            "cnnforge_models": self.models,
            "cnnforge_tasks": self.tasks,
            "cnnforge_callbacks": self.callbacks,
            "cnnforge_augmentations": self.augmentations,
        }

    def register(self, plugin: object, name: str) -> None:
        """Register a plugin: all that it declares, or nothing.

        Args:
            plugin: A module or an object with hook implementations.
            name: Its name.

        Raises:
            PluginError: If it was written for another plugin API, implements no hook, has the
                name of another one, or declares something that is no spec.
            Exception: Whatever its hooks raise.
        """
        declared = getattr(plugin, "CNNFORGE_PLUGIN_API", PLUGIN_API)
        if declared != PLUGIN_API:
            raise _IncompatibleError(
                f"it is written for plugin API {declared}, this cnnforge has {PLUGIN_API}: "
                "install versions of the two that fit each other"
            )
        if self.manager.has_plugin(name):
            raise PluginError(f"another plugin named {name!r} is loaded already: rename one")
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
            if not self.manager.get_hookcallers(plugin):
                raise PluginError(
                    "it implements no hook: decorate a function named "
                    f"{', '.join(self.registries)} with cnnforge.plugin.hookimpl"
                )
            for hook, registry in self.registries.items():
                registry.add(name, list(self._ask(hook, plugin)))
        except BaseException:
            for registry in self.registries.values():
                registry.discard(name)
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            raise

    def _ask(self, hook: str, plugin: object) -> Iterator[Any]:
        """Call one hook of one plugin alone, so that an error is known to be its own."""
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        for specs in self.manager.subset_hook_caller(hook, others)():
            if isinstance(specs, str) or not hasattr(specs, "__iter__"):
                raise PluginError(f"{hook} returned {specs!r}: return a list of specs")
            yield from specs

    def _problems(self) -> dict[str, str]:
        return {
            record.name: f"{_STATUS_VERB[record.status]}: {record.cause}"
            for record in self.records
            if record.status != "loaded"
        }


_STATUS_VERB = {
    "failed": "failed to load",
    "incompatible": "is incompatible",
    "disabled": "is disabled",
}


def discover(explicit: Sequence[str] = ()) -> Plugins:
    """Load the installed plugins, then those that are named.

    Args:
        explicit: What stood after each `--plugin`: a path that ends in `.py`, or a module.

    Returns:
        The plugins. An installed one that failed has a record that says why, and nothing else.

    Raises:
        PluginError: If one of `explicit` cannot be loaded.
        UsageError: If an environment variable has a value without a meaning.
    """
    plugins = Plugins()
    installed = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda it: (it.name, it.value))
    if _autoload():
        disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
        for entry_point in installed:
            record = _record(entry_point)
            plugins.records.append(record)
            if entry_point.name in disabled:
                record.status = "disabled"
            else:
                _load_installed(plugins, entry_point, record)
    for reference in explicit:
        _load_explicit(plugins, reference, installed)
    return plugins


def _autoload() -> bool:
    value = os.environ.get(AUTOLOAD_VARIABLE, "")
    if value not in ("", "0", "1"):
        raise UsageError(f"{AUTOLOAD_VARIABLE} must be 0 or 1, got {value!r}")
    return value != "0"


def _record(entry_point: EntryPoint) -> PluginRecord:
    distribution = entry_point.dist
    return PluginRecord(
        name=entry_point.name,
        source=entry_point.value,
        distribution=distribution.name if distribution else None,
        version=distribution.version if distribution else None,
    )


def _load_installed(plugins: Plugins, entry_point: EntryPoint, record: PluginRecord) -> None:
    """Load one installed plugin; keep in its record what goes wrong."""
    try:
        plugins.register(entry_point.load(), record.name)
    # A plugin that calls sys.exit() must not end the program; the user's Ctrl-C must.
    except (Exception, SystemExit) as error:
        record.status = "incompatible" if isinstance(error, _IncompatibleError) else "failed"
        record.error = error


def _load_explicit(plugins: Plugins, reference: str, installed: Sequence[EntryPoint]) -> None:
    """Load a plugin that the user named; what goes wrong is fatal."""
    try:
        is_file = reference.endswith(".py")
        if not is_file and not all(part.isidentifier() for part in reference.split(".")):
            raise PluginError("expected a file that ends in .py, or the name of a module")
        module = _import_file(Path(reference)) if is_file else importlib.import_module(reference)
        if plugins.manager.is_registered(module):
            return
        record = PluginRecord(name=module.__name__, source=reference)
        for entry_point in installed:
            # By its module or by its entry point, an installed plugin keeps its name.
            if entry_point.value == reference:
                record = _record(entry_point)
        plugins.register(module, record.name)
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {reference!r} cannot be loaded: {one_line(error)}") from error
    plugins.records = [it for it in plugins.records if it.name != record.name] + [record]


def _import_file(path: Path) -> ModuleType:
    """Import a file as the module of its name, which its specs' targets go by."""
    path = path.resolve()
    name = path.stem
    if not path.is_file():
        raise PluginError(f"there is no file {path}")
    if not name.isidentifier():
        raise PluginError(f"{path.name} has no name that Python can import: rename it")
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    installed = None if known else importlib.util.find_spec(name)
    if known or (installed is not None and installed.origin != str(path)):
        raise PluginError(f"{path.name} would hide the Python module {name!r}: rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is no Python source")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
