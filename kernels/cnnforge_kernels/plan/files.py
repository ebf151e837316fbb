"""Write a program to a file, and read it.

The file is a NumPy archive. Its entry ``program`` holds the steps as JSON, ``a0``, ``a1``, ... hold
the arrays, and ``sha256`` is a checksum of all of it. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge_kernels.plan.program import Program
from cnnforge_kernels.plan.steps import PlanError, Step

FORMAT = 1
_NAME = "cnnforge inference plan"


def write(path: str | Path, program: Program) -> None:
    """Write a program to a file.

    The file appears in one moment, so a reader never finds half of it. An earlier file is replaced.

    Args:
        path: The file.
        program: The program.

    Raises:
        OSError: The file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    names: dict[int, str] = {}
    steps = []
    for step in program.steps:
        for array in step.arrays.values():
            # A layer that is used several times is stored once.
            if id(array) not in names:
                names[id(array)] = f"a{len(names)}"
                arrays[names[id(array)]] = np.ascontiguousarray(array)
        record: dict[str, Any] = {"kind": step.kind, "inputs": step.inputs, "output": step.output}
        record["options"] = step.options
        record["arrays"] = {name: names[id(array)] for name, array in step.arrays.items()}
        steps.append(record)
    header = {"name": _NAME, "format": FORMAT, "steps": steps, "outputs": program.outputs}
    text = json.dumps(header)
    path = Path(path)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, program=np.array(text), sha256=np.array(_digest(text, arrays)), **arrays)
        _give_usual_permissions(part)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def read(path: str | Path) -> Program:
    """Read a program from a file that ``write`` made.

    Args:
        path: The file.

    Returns:
        The program. Its weights were checked against the checksum.

    Raises:
        OSError: The file does not exist or cannot be opened.
        PlanError: The file is damaged, is not a plan, or has a newer format.
    """
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            if not {"program", "sha256"} <= set(file.files):
                raise PlanError("it is a NumPy file, but not an inference plan")
            text, stated = str(file["program"]), str(file["sha256"])
            header = json.loads(text)
            _check_header(header)
            arrays = {name: file[name] for name in file.files if name not in ("program", "sha256")}
    except (PlanError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (ValueError, EOFError, OSError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"it is damaged, or it is not an inference plan ({error})") from error
    except (zipfile.BadZipFile, zlib.error, tokenize.TokenError, struct.error) as error:
        raise PlanError(f"it is damaged ({error})") from error
    except (LookupError, OverflowError, NotImplementedError, RuntimeError, SystemError) as error:
        raise PlanError(f"it is damaged ({error})") from error
    if stated != _digest(text, arrays):
        raise PlanError("it is damaged: its content does not match its checksum")
    try:
        steps = tuple(
            Step(
                record["kind"],
                tuple(record["inputs"]),
                record["output"],
                record["options"],
                {name: arrays[stored] for name, stored in record["arrays"].items()},
            )
            for record in header["steps"]
        )
        return Program(steps, header["outputs"])
    except (KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"a step of it is incomplete ({error!r})") from error


def _check_header(header: Any) -> None:
    if not isinstance(header, dict) or header.get("name") != _NAME:
        raise PlanError("it is a NumPy file, but not an inference plan")
    version = header.get("format")
    if type(version) is not int or version < 1:
        raise PlanError(f"it has no valid format number: {version!r}")
    if version > FORMAT:
        raise PlanError(f"it has format {version}, and this version of cnnforge reads {FORMAT}")


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _give_usual_permissions(part: str) -> None:
    """Let a temporary file have the permissions of a file that ``open`` makes."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(part, 0o666 & ~mask)
