"""Find and load plugins. If an installed plugin fails to load, the others still work.

Installed plugins (entry points of the group `cnnforge`) are loaded first, sorted by name. Files
and modules that the user names are loaded after them. The working directory is not searched.

Environment variables:
    CNNFORGE_PLUGIN_AUTOLOAD: `0` disables all installed plugins.
    CNNFORGE_DISABLED_PLUGINS: Names of installed plugins to disable, separated by commas.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from cnnforge.errors import PluginError, UsageError, one_line
from cnnforge.plugin import (
    DEFAULT_TASK,
    PLUGIN_API,
    AugmentationSpec,
    CallbackSpec,
    DatasetSpec,
    EngineSpec,
    LayerSpec,
    ModelSpec,
    TaskSpec,
    hookimpl,
)
from cnnforge.plugin_host import hookspecs
from cnnforge.plugin_host.registry import Registry

ENTRY_POINT_GROUP = "cnnforge"
AUTOLOAD_VARIABLE = "CNNFORGE_PLUGIN_AUTOLOAD"
DISABLED_VARIABLE = "CNNFORGE_DISABLED_PLUGINS"
API_VARIABLE = "CNNFORGE_PLUGIN_API"

Status = Literal["loaded", "failed", "incompatible", "disabled"]


class _IncompatibleError(PluginError):
    """The plugin was written for another version of the plugin API."""


class _Core:
    """Declares the default task, classification, in the form of a plugin.

    Runs and models of version 0.1 do not name a task. Their task is classification.
    """

    @hookimpl
    def cnnforge_tasks(self) -> list[TaskSpec]:
        return [
            TaskSpec(
                name=DEFAULT_TASK.rpartition("/")[2],
                target="cnnforge.tasks.classification:Classification",
                summary="tells the class of an image",
            )
        ]


@dataclass(slots=True)
class PluginRecord:
    """A plugin, and whether it was loaded.

    Attributes:
        name: Name of the plugin. It is the first part of qualified names, `PLUGIN/NAME`.
        source: Module or file of the plugin.
        distribution: Name of the distribution that contains it; `None` for a file.
        version: Version of the distribution.
        status: `"loaded"`, `"failed"`, `"incompatible"` (written for another `PLUGIN_API`), or
            `"disabled"` by the user.
        error: Exception that prevented loading, if there was one.
        heavy: The large libraries that the import of the plugin has imported.
        api: The number of the plugin API that it was written for, its `CNNFORGE_PLUGIN_API`;
            `None` if it names none, or was not imported.
        bounds: The versions of cnnforge that its distribution needs, such as `">=0.1,<1"`; `None`
            if it does not say.
    """

    name: str
    source: str
    distribution: str | None = None
    version: str | None = None
    status: Status = "loaded"
    error: BaseException | None = None
    heavy: tuple[str, ...] = ()
    api: Any = None
    bounds: str | None = None

    @property
    def warning(self) -> str:
        """The fault of a plugin that works nevertheless, in one line; "" without one."""
        if self.heavy:
            return (
                f"the plugin {self.name!r} imports {', '.join(self.heavy)} in {self.source}, which "
                "slows every start of cnnforge by seconds: import it in the modules of the targets"
            )
        found = {it.version: it for it in distributions(name=self.distribution or "?")}
        if self.distribution is None or len(found) < 2:
            return ""
        places = ", ".join(
            f"{number} in {it.locate_file('')}" for number, it in sorted(found.items())
        )
        return (
            f"the plugin {self.name!r} is installed in {len(found)} versions: {places}; "
            f"{self.version} is used; keep one: pip uninstall {self.distribution}, and install it "
            "again"
        )

    @property
    def cause(self) -> str:
        """Reason why the plugin is not loaded, in one line; empty for a loaded plugin."""
        if self.status == "disabled":
            return f"named in {DISABLED_VARIABLE}"
        return "" if self.error is None else one_line(self.error)


@dataclass
class Plugins:
    """All plugins, and registries of the specs (layers, datasets, ...) that they declare.

    Attributes:
        layers: Registry of layers.
        datasets: Registry of datasets.
        models: Registry of models.
        tasks: Registry of tasks, including those of the core.
        callbacks: Registry of training callbacks.
        augmentations: Registry of augmentations.
        engines: Registry of inference engines.
        records: A record for each plugin, in the order of loading.
        manager: Pluggy manager with the loaded plugins.
    """

    layers: Registry[LayerSpec] = field(init=False)
    datasets: Registry[DatasetSpec] = field(init=False)
    models: Registry[ModelSpec] = field(init=False)
    tasks: Registry[TaskSpec] = field(init=False)
    callbacks: Registry[CallbackSpec] = field(init=False)
    augmentations: Registry[AugmentationSpec] = field(init=False)
    engines: Registry[EngineSpec] = field(init=False)
    records: list[PluginRecord] = field(default_factory=list)
    manager: pluggy.PluginManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.layers = Registry(LayerSpec, self._problems)
        self.datasets = Registry(DatasetSpec, self._problems)
        self.models = Registry(ModelSpec, self._problems)
        self.tasks = Registry(TaskSpec, self._problems)
        self.callbacks = Registry(CallbackSpec, self._problems)
        self.augmentations = Registry(AugmentationSpec, self._problems)
        self.engines = Registry(EngineSpec, self._problems)
        self.manager = pluggy.PluginManager("cnnforge")
        self.manager.add_hookspecs(hookspecs)
        self.register(_Core(), "cnnforge")

    @property
    def registries(self) -> dict[str, Registry[Any]]:
        """The registry of each kind of spec, by the name of the hook that declares this kind."""
        return {
            "cnnforge_layers": self.layers,
            "cnnforge_datasets": self.datasets,
            "cnnforge_models": self.models,
            "cnnforge_tasks": self.tasks,
            "cnnforge_callbacks": self.callbacks,
            "cnnforge_augmentations": self.augmentations,
            "cnnforge_engines": self.engines,
        }

    def register(self, plugin: object, name: str) -> None:
        """Register a plugin and all of its specs. If one spec is wrong, register nothing.

        Args:
            plugin: Module or object with hook implementations.
            name: Name of the plugin.

        Raises:
            PluginError: The plugin was written for another plugin API or names none, implements no
                hook, has the name of another plugin, or declares an object that is not a spec.
            Exception: An exception that a hook of the plugin raised.
        """
        declared = getattr(plugin, API_VARIABLE, PLUGIN_API)
        if type(declared) is not int:
            raise _IncompatibleError(
                f"{API_VARIABLE} is {declared!r}: expected a whole number, such as that of this "
                f"cnnforge, {PLUGIN_API}"
            )
        if declared != PLUGIN_API:
            raise _IncompatibleError(
                f"it was written for plugin API {declared}, this cnnforge has {PLUGIN_API}: "
                "install versions that match"
            )
        if self.manager.has_plugin(name):
            raise PluginError(f"another plugin named {name!r} is already loaded: rename one")
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
        """Call a hook of one plugin only, so that an error is known to come from this plugin.

        Yield the specs that the hook returns.
        """
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
    """Load the installed plugins, and then the plugins that the user names.

    Args:
        explicit: Values of `--plugin`: paths that end in `.py`, or names of modules.

    Returns:
        The plugins. If an installed plugin failed to load, its record contains the error, and the
        registries do not contain its specs.

    Raises:
        PluginError: A plugin in `explicit` cannot be loaded.
        UsageError: An environment variable has an invalid value.
    """
    plugins = Plugins()
    installed = sorted(
        entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: (entry.name, entry.value)
    )
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
        bounds=_bounds(distribution.requires or ()) if distribution else None,
    )


def _bounds(requirements: Sequence[str]) -> str | None:
    """Return the versions of cnnforge that are among the requirements of a distribution."""
    for requirement in requirements:
        # A requirement with a marker, after a semicolon, is one of an extra.
        found = re.fullmatch(r"cnnforge(?![\w.-])(?:\[.*?\])?([^;]*)", requirement.lower())
        if found:
            return found[1].strip(" ()") or None
    return None


# Each of these takes a second or more to import.
_HEAVY = ("keras", "tensorflow", "torch", "jax")


@contextmanager
def _noting(record: PluginRecord) -> Iterator[None]:
    """Note in the record which large libraries are imported within the context."""
    before = set(sys.modules)
    try:
        yield
    finally:
        record.heavy = tuple(name for name in _HEAVY if name in sys.modules and name not in before)


def _load_installed(plugins: Plugins, entry_point: EntryPoint, record: PluginRecord) -> None:
    """Load an installed plugin. An error is not raised, but stored in the record of the plugin."""
    try:
        with _noting(record):
            module = entry_point.load()
            record.api = getattr(module, API_VARIABLE, None)
            plugins.register(module, record.name)
    # Catch SystemExit too, so that a plugin cannot end the program. Do not catch KeyboardInterrupt,
    # so that the user can end it.
    except (Exception, SystemExit) as error:
        record.status = "incompatible" if isinstance(error, _IncompatibleError) else "failed"
        record.error = error


def _load_explicit(plugins: Plugins, reference: str, installed: Sequence[EntryPoint]) -> None:
    """Load a plugin that the user named, and raise `PluginError` if that fails."""
    try:
        is_file = reference.endswith(".py")
        if not is_file and not all(part.isidentifier() for part in reference.split(".")):
            raise PluginError("expected a file that ends in .py, or the name of a module")
        imported = PluginRecord(name=reference, source=reference)
        with _noting(imported):
            module = import_file(Path(reference)) if is_file else importlib.import_module(reference)
        if plugins.manager.is_registered(module):
            return
        record = PluginRecord(name=module.__name__, source=reference)
        for entry_point in installed:
            # The user may name the module of an installed plugin. Use the name of the installed
            # plugin then, so that the qualified names are the same.
            if entry_point.value == reference:
                record = _record(entry_point)
        record.heavy, record.api = imported.heavy, getattr(module, API_VARIABLE, None)
        plugins.register(module, record.name)
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {reference!r} cannot be loaded: {one_line(error)}") from error
    plugins.records = [other for other in plugins.records if other.name != record.name] + [record]


def import_file(path: Path) -> ModuleType:
    """Import a file as a module with the name of the file, without `.py`.

    The import paths in its specs (`"NAME:Attribute"`) use this name. They can also name other files
    in its folder. The folder is the last one that Python searches, so it hides no other module.
    """
    path = path.resolve()
    name = path.stem
    if not path.is_file():
        raise PluginError(f"there is no file {path}")
    if not name.isidentifier():
        raise PluginError(f"Python cannot import a file named {path.name}: rename it")
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    installed = None if known else importlib.util.find_spec(name)
    if known or (installed is not None and installed.origin != str(path)):
        raise PluginError(f"{path.name} would hide the Python module {name!r}: rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
