"""List the formats of `cnnforge export`, and check a format and a place before work begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.utils.names import printable

# The file by which TensorFlow recognizes the folder of a SavedModel.
SAVED_MODEL = "saved_model.pb"


class Format(NamedTuple):
    """A format in which a model can be exported.

    Attributes:
        suffix: Ending of the file; empty if it is a folder.
        ending: Text that is appended to the name of the run for the default name.
        runtime: Name of the distribution that runs the file.
        modules: Modules that must be there to write and to run the file, with the name of the
            distribution of each.
        extra: Extra of cnnforge that installs them; empty if cnnforge needs them anyway.
        needs_tensorflow: Whether Keras must compute with TensorFlow to write it.
    """

    suffix: str
    ending: str
    runtime: str
    modules: Mapping[str, str] = {}
    extra: str = ""
    needs_tensorflow: bool = True

    @property
    def runs_in(self) -> str:
        """The program that runs the file, for messages."""
        return "cnnforge_kernels" if self.runtime == "cnnforge" else self.runtime


FORMATS: dict[str, Format] = {
    "keras": Format(".keras", ".keras", "keras", needs_tensorflow=False),
    "savedmodel": Format("", "-savedmodel", "tensorflow"),
    "onnx": Format(
        ".onnx",
        ".onnx",
        "onnxruntime",
        {"onnx": "onnx", "tf2onnx": "tf2onnx", "onnxruntime": "onnxruntime"},
        "onnx",
    ),
    "litert": Format(
        ".tflite", ".tflite", "ai-edge-litert", {"ai_edge_litert": "ai-edge-litert"}, "litert"
    ),
    "plan": Format(".npz", ".plan.npz", "cnnforge", needs_tensorflow=False),
}
"""The formats, by name."""


def check_packages(name: str) -> None:
    """Check that the packages of a format are installed.

    Args:
        name: Name of the format.

    Raises:
        CnnforgeError: A package is missing.
    """
    form = FORMATS[name]
    missing = [package for module, package in form.modules.items() if find_spec(module) is None]
    if missing:
        what = "is" if len(missing) == 1 else "are"
        raise CnnforgeError(
            f"--format {name} needs {' and '.join(missing)}, which {what} not installed: "
            f"pip install 'cnnforge[{form.extra}]'"
        )


def check_output(name: str, path: Path, force: bool) -> Path:
    """Check the place of an exported model.

    Args:
        name: Name of the format.
        path: The file or folder to write.
        force: Whether an older file of the same format is replaced.

    Returns:
        The path, with the home folder for `~`.

    Raises:
        UsageError: The path has another ending, something else is there, or its folder does not
            exist or cannot be written to.
    """
    form, path = FORMATS[name], path.expanduser()
    shown = printable(str(path))
    if form.suffix and path.suffix.lower() != form.suffix:
        raise UsageError(
            f"--output {shown}: the format {name} is a file that ends in {form.suffix}; give such "
            "a name"
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"--output {shown}: there is no folder {printable(str(path.parent))}; make it, or give "
            "another place"
        )
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(
            f"--output {shown}: the folder {printable(str(path.parent))} cannot be written to; "
            "give another place"
        )
    if not os.path.lexists(path):
        return path
    # Nothing that may have been written by another program is removed.
    same = (path / SAVED_MODEL).is_file() if not form.suffix else path.is_file()
    if not same:
        what = "a folder" if path.is_dir() else "a file"
        raise UsageError(
            f"--output {shown} is {what} that this format does not write: give a new name"
        )
    if not force:
        raise UsageError(
            f"{shown} exists, and is not overwritten: add --force, or give another name with "
            "--output"
        )
    return path
