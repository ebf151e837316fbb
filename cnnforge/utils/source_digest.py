"""Compute a digest of source files that may change without a new version number."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def sources_digest(kind: type) -> str:
    """Compute a digest of the source files of a class, without those of installed packages.

    Installed packages are left out because their version numbers identify their sources. But the
    file of a plugin, or a package that is installed in editable mode, may change while its version
    number stays the same.

    Args:
        kind: A class.

    Returns:
        A digest of the source file of the module that defines the class, and of the files of all
        modules from which this module imports directly or indirectly. The digest is "" if all of
        these files belong to installed packages.
    """
    files = sorted(set(_sources(sys.modules.get(kind.__module__), set())))
    if not files:
        return ""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def package_digest(source: str) -> str:
    """Compute a digest of the source files of a package; it is not imported.

    Args:
        source: A module, or the path of a file. The files are all Python files of the package that
            contains the module, or the file alone.

    Returns:
        A digest of the files. It is "" if the package is installed, because its version number
        identifies its sources then, and if it is not found.
    """
    if source.endswith(".py"):
        files = [Path(source)]
    else:
        try:
            found = importlib.util.find_spec(source.partition(".")[0])
        except (ImportError, ValueError):
            found = None
        folders = (found and found.submodule_search_locations) or []
        files = [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
        if found and found.origin and not files:
            files = [Path(found.origin)]
    files = [file for file in files if file.is_file() and not _installed(file)]
    if not files:
        return ""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(module: ModuleType | None, seen: set[str]) -> Iterator[Path]:
    if module is None or module.__name__ in seen:
        return
    seen.add(module.__name__)
    path = Path(getattr(module, "__file__", None) or "")
    if path.suffix != ".py" or _installed(path):
        return
    yield path
    for value in list(vars(module).values()):
        name = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None)
        yield from _sources(sys.modules.get(name) if isinstance(name, str) else None, seen)


def _installed(path: Path) -> bool:
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(
        path.is_relative_to(library) for library in libraries
    )
