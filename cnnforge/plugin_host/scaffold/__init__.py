"""Write new plugin packages from the files in `templates/`. A new package passes its tests."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import resources
from importlib.metadata import version
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from cnnforge.errors import CnnforgeError, UsageError

KINDS = ("layer", "dataset", "model", "callback", "augmentation", "task")

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_SUFFIX = ".template"
# Placeholder in the names of folders and files; it is replaced by the name of the module.
_MODULE = "__module__"
# Folder of the templates that packages of all kinds have.
_COMMON = "common"
# Folder of the templates that a layer has besides, if it has functions for CUDA devices.
_CUDA = "cuda"


@dataclass(frozen=True)
class NewPlugin:
    """A plugin package that `create` wrote.

    Attributes:
        folder: Folder of the package.
        distribution: Name of the distribution.
        module: Name of the import package, of the plugin, and of the spec that it declares.
        kind: Kind of this spec, one of `KINDS`.
        files: Paths of the files relative to the folder, sorted.
    """

    folder: Path
    distribution: str
    module: str
    kind: str
    files: tuple[str, ...]

    @property
    def declared(self) -> str:
        """Qualified name of the spec that the plugin declares."""
        return f"{self.module}/{self.module}"


def create(
    name: str,
    kind: str = "layer",
    parent: Path = Path(),
    class_name: str | None = None,
    *,
    cuda: bool = False,
) -> NewPlugin:
    """Write a new plugin package into a new folder.

    Args:
        name: Lower-case words with hyphens or underscores between them, such as `"soft-edge"`.
            The folder, the distribution, the import package and the class are named after it.
        kind: Kind of spec that the plugin declares, one of `KINDS`.
        parent: Folder in which the new folder is created.
        class_name: Name of the layer class; by default, the words of `name` with capitals.
        cuda: Whether the op of the layer has functions for CUDA devices too.

    Returns:
        The package.

    Raises:
        UsageError: A name or the kind is invalid, a name is taken, or the folder exists.
        CnnforgeError: A file cannot be written; the folder is removed.
    """
    module = _module(name)
    if kind not in KINDS:
        raise UsageError(f"--kind must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {kind!r}")
    if cuda and kind != "layer":
        raise UsageError(f"--cuda is for the op of a layer, and --kind is {kind}: leave it out")
    distribution = module.replace("_", "-")
    folder = Path(parent) / distribution
    values = {
        "name": distribution,
        "module": module,
        "class_name": _class_name(class_name, kind, module),
        "cnnforge": version("cnnforge"),
        "next_major": str(int(version("cnnforge").partition(".")[0]) + 1),
        "year": str(date.today().year),
        # What is written into files that exist in either case, with and without CUDA.
        "cuda_argument": f'    cuda="{module}.op_cuda",\n' if cuda else "",
        "cuda_checks": ", cuda=True" if cuda else "",
        "cuda_package": ', "numba-cuda[cu13]>=0.30"' if cuda else "",
        "cuda_file": (
            f"| `src/{module}/op_cuda.py` | the functions of the op for CUDA devices |\n"
            if cuda
            else ""
        ),
    }
    if folder.parent.exists() and not folder.parent.is_dir():
        raise UsageError(f"--output: {folder.parent} is not a folder: name another one")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError as error:
        raise UsageError(
            f"{folder} exists already and is not overwritten: choose another name, or another "
            "folder with --output"
        ) from error
    except OSError as error:
        raise CnnforgeError(f"{folder} cannot be created: {error.strerror or error}") from error
    try:
        files = sorted(_write(folder, [_COMMON, kind, *([_CUDA] if cuda else [])], values))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CnnforgeError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}"
        ) from error
    return NewPlugin(folder, distribution, module, kind, tuple(files))


def _module(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a plugin cannot be named {name!r}: use lower-case words of letters and digits with "
            "hyphens between them, a letter first, such as soft-edge"
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise UsageError(
            f"a plugin cannot be named {name!r}, a Python keyword: choose another name"
        )
    if module in sys.modules or importlib.util.find_spec(module) is not None:
        raise UsageError(
            f"a plugin cannot be named {name!r}: it would hide the installed Python module "
            f"{module!r}; choose another name"
        )
    return module


def _class_name(given: str | None, kind: str, module: str) -> str:
    made = "".join(map(str.capitalize, module.split("_")))
    if given is None:
        return made
    if kind != "layer":
        raise UsageError(f"--class names the class of a layer, and --kind is {kind}: leave it out")
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", given) or keyword.iskeyword(given):
        raise UsageError(
            f"--class {given}: a class is named by words that begin with capitals, such as {made}"
        )
    return given


def _write(folder: Path, parts: Sequence[str], values: dict[str, str]) -> Iterator[str]:
    root = resources.files(__name__) / "templates"
    for template, path in (it for part in parts for it in _templates(root / part)):
        path = path.replace(_MODULE, values["module"])
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        text = Template(template.read_text(encoding="utf-8")).substitute(values)
        target.write_text(text, encoding="utf-8")
        yield path


def _templates(folder: Traversable, above: str = "") -> Iterator[tuple[Traversable, str]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _templates(item, f"{above}{item.name}/")
        elif item.name.endswith(_SUFFIX):
            yield item, above + item.name.removesuffix(_SUFFIX)
