"""From a name to a spec: which plugin is meant, and what to say when none or several are."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from cnnforge.errors import AmbiguousNameError, PluginError, UnknownNameError
from cnnforge.plugin import Spec

SpecT = TypeVar("SpecT", bound=Spec)


class Registry(Generic[SpecT]):
    """The specs of one kind, by plugin.

    A spec has the qualified name `plugin/name`; its short name is good while only one plugin
    declares it. Nothing is ever renamed or overwritten.

    Args:
        spec_type: The class of the specs.
        problems: Returns, for each plugin that could not be used, why; an unknown name may be
            one of theirs.
    """

    def __init__(
        self, spec_type: type[SpecT], problems: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self.kind = spec_type.kind
        self._spec_type = spec_type
        self._problems = problems
        self._specs: dict[str, dict[str, SpecT]] = {}

    def add(self, plugin: str, specs: Iterable[SpecT]) -> None:
        """Add all specs of a plugin, or none of them.

        Args:
            plugin: The name of the plugin.
            specs: What it declares.

        Raises:
            PluginError: If something else than a spec of this kind is among them, or a name
                stands there twice, or the plugin was added before.
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
            raise PluginError(f"the {self.kind}s of a plugin named {plugin!r} are there already")
        self._specs[plugin] = own

    def discard(self, plugin: str) -> None:
        """Forget a plugin's specs; nothing happens where there are none."""
        self._specs.pop(plugin, None)

    def __getitem__(self, name: str) -> SpecT:
        """Find a spec by its short or its qualified name.

        Raises:
            UnknownNameError: If no plugin declares it.
            AmbiguousNameError: If the name is short and several do.
        """
        plugin, _, short = name.rpartition("/")
        owners = self._owners(plugin, short)
        if not owners:
            raise UnknownNameError(self._unknown(name))
        if len(owners) > 1:
            choices = " or ".join(f"{owner}/{short}" for owner in owners)
            raise AmbiguousNameError(
                f"the {self.kind} {short!r} is declared by several plugins: write {choices}"
            )
        return self._specs[owners[0]][short]

    def __contains__(self, name: object) -> bool:
        """Whether `registry[name]` finds one spec."""
        if not isinstance(name, str):
            return False
        plugin, _, short = name.rpartition("/")
        return len(self._owners(plugin, short)) == 1

    def __iter__(self) -> Iterator[str]:
        """All qualified names, sorted."""
        return iter(
            sorted(f"{plugin}/{name}" for plugin in self._specs for name in self._of(plugin))
        )

    def __len__(self) -> int:
        """How many specs there are."""
        return sum(map(len, self._specs.values()))

    def values(self) -> list[SpecT]:
        """Return all specs, sorted by qualified name."""
        return [self[name] for name in self]

    def names(self) -> list[str]:
        """Return the shortest name that finds each spec, sorted: short, or qualified."""
        return sorted(
            spec.name if spec.name in self else spec.qualified_name for spec in self.values()
        )

    def _of(self, plugin: str) -> Mapping[str, SpecT]:
        return self._specs.get(plugin, {})

    def _owners(self, plugin: str, short: str) -> list[str]:
        candidates = [plugin] if plugin else sorted(self._specs)
        return [candidate for candidate in candidates if short in self._of(candidate)]

    def _unknown(self, name: str) -> str:
        """Say that a name is unknown, and what may have been meant or may be missing."""
        names = self.names()
        # A short name is compared with short names, though the one meant may have to be qualified.
        known = {name: name for name in self}
        if "/" not in name:
            known = {usable.rpartition("/")[2]: usable for usable in reversed(names)}
        close = [known[it] for it in difflib.get_close_matches(name, known, n=1)]
        message = f"there is no {self.kind} named {name!r}"
        if close:
            message += f"; did you mean {close[0]!r}?"
        elif names:
            message += f"; there are: {', '.join(names)}"
        problems = self._problems()
        # A qualified name says whose it is: the other plugins' troubles have no part in it.
        plugin = name.rpartition("/")[0]
        wanted = [plugin] if plugin in problems else list(problems)
        for owner in wanted:
            message += f" (plugin {owner!r} {problems[owner]})"
        return message
