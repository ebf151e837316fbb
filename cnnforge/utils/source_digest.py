"""Compute a digest of sources that may change without a new version number."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def sources_digest(kind: type) -> str:
    """Compute a digest of those sources of a class that are not part of an installed package.

    The version of an installed package identifies its sources. But the file of a plugin, or a
    package that is installed in editable mode, may change while its version stays the same.

    Args:
        kind: A class.

    Returns:
        A digest of the sources of its module, of the modules from which that module imports, of
        the modules from which those import, and so on; "" if all of them are installed packages.
    """
    files = sorted(set(_sources(sys.modules.get(kind.__module__), set())))
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
