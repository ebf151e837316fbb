"""Check the members of a `.keras` file, and the objects in a file of weights."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from cnnforge.errors import RunError, one_line
from cnnforge.model_files.arrays import DAMAGED
from cnnforge.model_files.hdf5_process import DamagedContentError, NoProcessError, find_problem
from cnnforge.model_files.sizes import check_lengths, expands_too_much, readable
from cnnforge.model_files.trust import TRUST, RefusedModelError
from cnnforge.utils.structured_text import MALFORMED, parse_json

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# Max bytes of each member. The configuration of a network with 500 layers has 0.5 MB.
_MEMBERS = {CONFIG: 8_000_000, "metadata.json": 64_000, WEIGHTS: 1 << 62}


def check_keras_file(path: Path, advice: str = TRUST) -> dict[str, Any]:
    """Check a `.keras` file, except for the classes that it names.

    Args:
        path: The file.
        advice: Clause for the message that tells how to go on.

    Returns:
        The configuration of the model.

    Raises:
        RefusedModelError: The file has another member than a model of Keras, a member is too large,
            or the weights are not plain arrays in this file.
        RunError: The file is missing, damaged or not a `.keras` file.
    """
    if not path.exists():
        raise RunError(f"{path} cannot be opened: there is no such file")
    damaged = "it is damaged or not a Keras model; expected a .keras file, or a run"
    # Keras would open a folder too.
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise RunError(f"{path} cannot be opened: {damaged}")
    try:
        with zipfile.ZipFile(path) as archive:
            check_lengths(archive)
            _check_members(path, archive.infolist(), advice)
            config = parse_json(archive.read(CONFIG))
        size = path.stat().st_size
    except (OSError, *MALFORMED, *DAMAGED) as error:
        raise RunError(f"{path} cannot be opened: it is damaged ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} cannot be opened: {CONFIG} is not the configuration of a model")
    _check_weights(path, WEIGHTS, size, advice)
    return config


def check_weights_file(path: Path, advice: str = TRUST) -> None:
    """Check a `.weights.h5` file.

    Args:
        path: The file.
        advice: Clause for the message that tells how to go on.

    Raises:
        RefusedModelError: The weights are not plain arrays in this file.
        RunError: The file is damaged or not an HDF5 file.
    """
    _check_weights(path, "", path.stat().st_size, advice)


def _check_members(path: Path, members: list[zipfile.ZipInfo], advice: str) -> None:
    names = [member.filename for member in members]
    unknown = [name for name in names if name not in _MEMBERS]
    if unknown:
        raise RefusedModelError(
            path, f"it has the member {unknown[0][:80]!r}, expected {', '.join(_MEMBERS)}", advice
        )
    if len(set(names)) < len(names):
        raise RefusedModelError(path, "it has two members of one name", advice)
    missing = [name for name in (CONFIG, WEIGHTS) if name not in names]
    if missing:
        raise RunError(f"{path} cannot be opened: it has no {missing[0]}; expected a .keras file")
    for member in members:
        limit = _MEMBERS[member.filename]
        if member.file_size > limit:
            found = f"{member.filename} has {readable(member.file_size)}"
            raise RefusedModelError(path, f"{found}, at most {readable(limit)} are allowed", advice)
        if expands_too_much(member.file_size, member.compress_size):
            found = f"{member.filename} expands from {readable(member.compress_size)}"
            raise RefusedModelError(path, f"{found} to {readable(member.file_size)}", advice)


def _check_weights(path: Path, member: str, size: int, advice: str) -> None:
    """Check weights in a member of the archive `path`; if it is empty, in the file itself."""
    place = member or "the file"
    try:
        found = find_problem(path, member, size)
    except DamagedContentError as error:
        raise RunError(
            f"{path} cannot be read as weights of Keras: {place} is damaged ({error})"
        ) from error
    except NoProcessError as error:
        raise RunError(f"{path} cannot be checked: {error}; free memory, and try again") from error
    if found:
        raise RefusedModelError(path, f"{place} has {found}", advice)
