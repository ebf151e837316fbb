"""The base class of all specs, and the hook decorator."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pluggy

from cnnforge.errors import PluginError, one_line

PLUGIN_API = 1
"""Version of this plugin API. A plugin declares the version that it was written for as
`CNNFORGE_PLUGIN_API`; the default is this version."""

hookimpl = pluggy.HookimplMarker("cnnforge")
"""Decorator that marks a function as an implementation of the hook with the same name."""

DEFAULT_TASK = "cnnforge/classification"
"""Name of the task of models and datasets that do not name one. It is qualified, because a plugin
may have a task `classification` too."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Base class of specs. A spec declares the name and the import path of one thing in a plugin.

    Args:
        name: Name in lower_snake_case, unique among the specs of the same kind in the plugin.
        target: Import path `"package.module:Attribute"` of the object that the spec declares.
        summary: Description in one line, shown by `cnnforge plugins`.
        plugin: Name of the plugin, set when the spec is registered.

    Raises:
        ValueError: The name, the target or the summary does not have the form given above.
    """

    kind: ClassVar[str] = "spec"

    name: str
    target: str
    summary: str
    plugin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"a {self.kind} cannot be named {self.name!r}: use lower_snake_case, "
                "a letter first, then letters, digits and underscores"
            )
        check_target(f"the target of {self.kind} {self.name!r}", self.target)
        if not isinstance(self.summary, str) or "\n" in self.summary:
            raise ValueError(
                f"the summary of {self.kind} {self.name!r} must be one line of text, "
                f"got {self.summary!r}"
            )

    @property
    def qualified_name(self) -> str:
        """`"plugin/name"`, or the name alone if the spec is not registered yet."""
        return f"{self.plugin}/{self.name}" if self.plugin else self.name

    def load(self) -> Any:
        """Import the object that the spec declares.

        Returns:
            The object at the import path `target`.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return self.resolve("target", self.target)

    def load_all(self) -> None:
        """Import everything that the spec names.

        Raises:
            PluginError: A module cannot be imported or has no such attribute.
        """
        self.load()

    def resolve(self, what: str, target: str) -> Any:
        """Import an object.

        Args:
            what: The meaning of the object, for the error message.
            target: Import path `"module:attribute"` of the object.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        try:
            return pkgutil.resolve_name(target)
        except (Exception, SystemExit) as error:
            owner = f"plugin {self.plugin!r}: " if self.plugin else ""
            raise PluginError(
                f"{owner}the {what} {target!r} of {self.kind} {self.name!r} cannot be loaded: "
                f"{one_line(error)}; `cnnforge plugins --imports` checks every plugin"
            ) from error


def check_target(what: str, target: object) -> None:
    """Raise a `ValueError` unless `target` has the form `"package.module:Attribute"`."""
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        if all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
            return
    raise ValueError(f"{what} must look like 'package.module:Attribute', got {target!r}")
