"""Places in the source of traced functions, which instrumented code names by a number."""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Site:
    """A place that reads or writes an array.

    Attributes:
        function: Name of the function.
        file: Path of the source file.
        line: Number of the line, from 1.
        array: Name of the array in this line; "" if the array has no name.
    """

    function: str
    file: str
    line: int
    array: str

    @property
    def name(self) -> str:
        """Name of the array for a message."""
        known = self.array and not self.array.startswith("$")
        return f"'{self.array}'" if known else "an array without a name"

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.line).strip()
        return f"in {self.function!r} ({Path(self.file).name}:{self.line}: {source})"


class _Sites:
    def __init__(self) -> None:
        self._known: dict[Site, int] = {}
        self._list: list[Site] = []

    def number(self, site: Site) -> int:
        """Return the number of a site; a new site gets a new number."""
        if site not in self._known:
            self._known[site] = len(self._list)
            self._list.append(site)
        return self._known[site]

    def __getitem__(self, number: int) -> Site:
        return self._list[number]


sites = _Sites()
