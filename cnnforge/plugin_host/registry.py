"""Look up what plugins declare by name. An unknown or ambiguous name raises a helpful error."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from cnnforge.errors import AmbiguousNameError, PluginError, UnknownNameError
from cnnforge.plugin import Spec

SpecT = TypeVar("SpecT", bound=Spec)


class Registry(Generic[SpecT]):
    """A mapping from names to the specs of one kind, such as layers, of all plugins.

    A spec describes one thing that a plugin declares, such as a layer. Its qualified name is
    `plugin/name`. Its short name, `name`, can be used if only one plugin declares this name. A spec
    never replaces another spec.

    Args:
        spec_type: Class of the specs.
        problems: Function that returns a dictionary. Its keys are the names of the plugins that
            could not be loaded, and its values are the reasons. Error messages
            about unknown names include these reasons, since such a plugin may declare the name.
    """

    def __init__(
        self, spec_type: type[SpecT], problems: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self.kind = spec_type.kind
        self._spec_type = spec_type
        self._problems = problems
        self._specs: dict[str, dict[str, SpecT]] = {}

    def add(self, plugin: str, specs: Iterable[SpecT]) -> None:
        """Add all specs of a plugin. If one of them is wrong, add none.

        Args:
            plugin: Name of the plugin.
            specs: Specs of the plugin.

        Raises:
            PluginError: An item is not a spec of this kind, a name is declared twice, or this
                plugin already has specs.
        """
        own: dict[str, SpecT] = {}
        for spec in specs:
            if not isinstance(spec, self._spec_type):
                raise PluginError(
                    f"plugin {plugin!r} declares a {self.kind} that is a "
                    f"{type(spec).__name__}: return {self._spec_type.__name__} objects"
                )
            if spec.name in own:
                raise PluginError(
                    f"plugin {plugin!r} declares the {self.kind} {spec.name!r} twice: rename one"
                )
            own[spec.name] = replace(spec, plugin=plugin)
        if plugin in self._specs:
            raise PluginError(f"the {self.kind}s of a plugin named {plugin!r} were added before")
        self._specs[plugin] = own

    def discard(self, plugin: str) -> None:
        """Remove the specs of a plugin, if there are any."""
        self._specs.pop(plugin, None)

    def __getitem__(self, name: str) -> SpecT:
        """Find a spec by its short or its qualified name, or by the name of its class.

        Raises:
            UnknownNameError: No plugin declares the name.
            AmbiguousNameError: Several plugins declare the short name.
        """
        found = self.find(name)
        if not found:
            close = self._similar(name)
            raise UnknownNameError(
                self._unknown(name, close), correction=(name, close) if close else None
            )
        if len(found) > 1:
            short = name.rpartition("/")[2]
            choices = " or ".join(spec.qualified_name for spec in found)
            raise AmbiguousNameError(
                f"the {self.kind} {short!r} is declared by several plugins: write {choices}"
            )
        return found[0]

    def __contains__(self, name: object) -> bool:
        """Return whether `registry[name]` finds a spec and does not raise an error."""
        if not isinstance(name, str):
            return False
        return len(self.find(name)) == 1

    def __iter__(self) -> Iterator[str]:
        """Iterate over all qualified names in sorted order."""
        return iter(
            sorted(f"{plugin}/{name}" for plugin in self._specs for name in self._of(plugin))
        )

    def __len__(self) -> int:
        """Return the number of specs."""
        return sum(map(len, self._specs.values()))

    def values(self) -> list[SpecT]:
        """Return all specs, sorted by qualified name."""
        return [self[name] for name in self]

    def names(self) -> list[str]:
        """Return a sorted list with the shortest unambiguous name of each spec."""
        return sorted(map(self.shortest_name, self.values()))

    def shortest_name(self, spec: SpecT) -> str:
        """Return the short name of a spec if it is unambiguous, else the qualified name."""
        return spec.name if spec.name in self else spec.qualified_name

    def find(self, name: str) -> list[SpecT]:
        """Return the specs with a name, short or qualified; else those with a class of this name.

        Args:
            name: `"conv2d"`, `"builtin/conv2d"`, `"Conv2D"` or `"builtin/Conv2D"`.
        """
        plugin, _, short = name.rpartition("/")
        specs = [
            spec
            for owner in ([plugin] if plugin else sorted(self._specs))
            for spec in self._of(owner).values()
        ]
        # The name of a spec has no capitals, so it is not mistaken for that of a class.
        classes = [] if short == short.lower() else specs
        return [spec for spec in specs if spec.name == short] or [
            spec for spec in classes if spec.target.partition(":")[2] == short
        ]

    def same(self, one: str, another: str) -> bool:
        """Return whether two names, short or qualified, find the same spec.

        Raises:
            UnknownNameError: No plugin declares one of the names.
            AmbiguousNameError: One of them is a short name that several plugins declare.
        """
        return self[one].qualified_name == self[another].qualified_name

    def _of(self, plugin: str) -> Mapping[str, SpecT]:
        return self._specs.get(plugin, {})

    def _similar(self, name: str) -> str:
        """Return the known name that is similar to an unknown name, or ""."""
        names = self.names()
        # The keys of `known` are compared with the unknown name, and the message shows their
        # values. Compare a short name with short names, but show the qualified name of a spec if
        # its short name is ambiguous.
        known = {name: name for name in self}
        if "/" not in name:
            known = {usable.rpartition("/")[2]: usable for usable in reversed(names)}
        return next((known[match] for match in difflib.get_close_matches(name, known, n=1)), "")

    def _unknown(self, name: str, close: str) -> str:
        """Return a message about an unknown name, with a similar name and plugins that failed."""
        names = self.names()
        message = f"there is no {self.kind} named {name!r}"
        if close:
            message += f"; did you mean {close!r}?"
        elif names:
            message += f"; there are: {', '.join(names)}"
        problems = self._problems()
        # A qualified name begins with the name of its plugin. If that plugin failed to load, show
        # only its error.
        plugin = name.rpartition("/")[0]
        wanted = [plugin] if plugin in problems else list(problems)
        for owner in wanted:
            message += f" (plugin {owner!r} {problems[owner]})"
        return message
