"""Compare the installed packages with those with which cnnforge was tested."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cnnforge.utils.environment import versions

FILE_NAME = "requirements.lock"


class OtherVersion(NamedTuple):
    """A package that is installed in another version.

    Attributes:
        name: Name of the distribution.
        installed: Version that is installed.
        tested: Version with which cnnforge was tested.
    """

    name: str
    installed: str
    tested: str


def find_lock_file() -> Path | None:
    """Find the lock file: in the checkout, or in the installed package.

    Returns:
        The path; `None` if there is no such file.
    """
    package = Path(__file__).parents[1]
    places = [package / FILE_NAME, package.parent / FILE_NAME]
    return next((path for path in places if path.is_file()), None)


def parse_lock(lines: Iterable[str]) -> dict[str, str]:
    """Read lines `name==version`. Comments, and lines of another form, are left out.

    Returns:
        The version of each package, by name.
    """
    found = {}
    for line in lines:
        name, separator, version = line.partition("#")[0].partition("==")
        if separator and name.strip() and version.strip():
            found[name.strip()] = version.strip()
    return found


def other_versions(path: Path) -> list[OtherVersion]:
    """List the installed packages that have another version than in a lock file.

    Args:
        path: The lock file. It also has packages that only tests need; if one is not installed, it
            is left out.

    Raises:
        OSError: The file cannot be read.
    """
    tested = parse_lock(path.read_text(encoding="utf-8").splitlines())
    installed = versions(list(tested))
    return [
        OtherVersion(name, installed[name], version)
        for name, version in tested.items()
        if name in installed and installed[name] != version
    ]
