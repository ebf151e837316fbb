"""Check the members of a `.keras` file, and the objects in a file of weights."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnforge.errors import RunError, one_line
from cnnforge.model_files.arrays import DAMAGED
from cnnforge.model_files.sizes import check_lengths, expands_too_much, readable
from cnnforge.model_files.trust import TRUST, RefusedModelError
from cnnforge.utils.structured_text import MALFORMED, parse_json

if TYPE_CHECKING:
    import h5py

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# Max bytes of each member. The configuration of a network with 500 layers has 0.5 MB.
_MEMBERS = {CONFIG: 8_000_000, "metadata.json": 64_000, WEIGHTS: 1 << 62}
# deflate, shuffle, fletcher32, lzf. HDF5 would load the library of another filter.
_FILTERS = (1, 2, 3, 32000)


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
            weights = io.BytesIO(archive.read(WEIGHTS))
    except (OSError, *MALFORMED, *DAMAGED) as error:
        raise RunError(f"{path} cannot be opened: it is damaged ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} cannot be opened: {CONFIG} is not the configuration of a model")
    _check_weights(path, WEIGHTS, weights, weights.getbuffer().nbytes, advice)
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
    _check_weights(path, "the file", path, path.stat().st_size, advice)


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


def _check_weights(path: Path, member: str, content: Any, size: int, advice: str) -> None:
    import h5py  # Keras needs it too, but only for files.

    try:
        with h5py.File(content, "r") as file:
            found = _problem(file, size)
    except (OSError, RuntimeError, *MALFORMED) as error:
        raise RunError(
            f"{path} cannot be read as weights of Keras: {member} is damaged ({one_line(error)})"
        ) from error
    if found:
        raise RefusedModelError(path, f"{member} has {found}", advice)


def _problem(file: h5py.File, size: int) -> str:
    """Return a clause about the first object that is not a plain array; "" without one."""
    from h5py import h5l, h5o

    names: list[bytes] = []
    known = set()

    def visit(name: bytes, link: Any) -> str | None:
        shown = name.decode("utf-8", "replace")[:80]
        if link.type != h5l.TYPE_HARD:
            return f"the link {shown!r} to another place, expected arrays in the file itself"
        if link.u in known:
            return f"a second name, {shown!r}, of one object"
        known.add(link.u)
        names.append(name)
        return None

    if found := file.id.links.visit(visit, info=True):
        return found
    total = 0
    for name in names:
        item = h5o.open(file.id, name)
        shown = name.decode("utf-8", "replace")[:80]
        if hasattr(item, "get_create_plist") and hasattr(item, "get_space"):
            if found := _array_problem(item):
                return f"the array {shown!r} {found}"
            total += math.prod(item.shape) * item.get_type().get_size()
            if expands_too_much(total, size):
                return f"arrays of {readable(total)} or more in {readable(size)}"
        elif not hasattr(item, "links"):
            return f"the object {shown!r}, expected groups and arrays"
    return ""


def _array_problem(array: Any) -> str:
    from h5py import h5d, h5t

    made = array.get_create_plist()
    if made.get_layout() == h5d.VIRTUAL:
        return "with parts in other files (virtual), expected arrays in the file itself"
    if made.get_layout() == h5d.CONTIGUOUS and made.get_external_count():
        return "whose values are in another file (external), expected arrays in the file itself"
    kind = array.get_type().get_class()
    if kind not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.OPAQUE):
        return "of objects, expected numbers"
    filters = [made.get_filter(number)[0] for number in range(made.get_nfilters())]
    if not set(filters) <= set(_FILTERS):
        return f"with the HDF5 filters {filters}, expected {list(_FILTERS)}"
    return ""
