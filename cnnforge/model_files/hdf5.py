"""Check HDF5 content, and read all of it once. `hdf5_process` starts this module in a process.

Damaged content can let the HDF5 library loop without end, crash, or ask for all memory. So the
process has limits, and the module imports little.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import sys
import time
import zipfile
from typing import Any

import h5py
from h5py import h5d, h5f, h5l, h5o, h5t

from cnnforge.errors import one_line
from cnnforge.model_files.sizes import expands_too_much, most_memory, readable

try:
    import resource
except ImportError:  # Windows
    resource = None

# deflate, shuffle, fletcher32, lzf. HDF5 would load the library of another filter.
_FILTERS = (1, 2, 3, 32000)
_OPEN = h5f.OBJ_FILE | h5f.OBJ_GROUP | h5f.OBJ_DATASET | h5f.OBJ_ATTR
# Bytes of an array that are read at once.
_PART = 16 << 20


def main() -> None:
    """Answer each line of standard input with a line, until the input ends."""
    if resource is not None:
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit(request["seconds"], most_memory(request["size"]))
        # A name that is not UTF-8 has its bytes as characters.
        path = os.fsdecode(request["path"].encode("latin-1"))
        answer, usable = _answer(path, request["member"], request["size"])
        print(json.dumps(answer), flush=True)
        # If damaged content stays open, HDF5 may read it again for another file of this name.
        if not usable or h5f.get_obj_count(h5f.OBJ_ALL, _OPEN):
            break


def _limit(seconds: int, memory: int) -> None:
    """Limit this process.

    Args:
        seconds: Processor time, from now.
        memory: Bytes, in addition to what it has now.
    """
    limits = {"RLIMIT_CPU": math.ceil(time.process_time()) + seconds}
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        limits["RLIMIT_AS"] = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
    if resource is None:
        return
    for name, limit in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, hard))


def _answer(path: str, member: str, size: int) -> tuple[dict[str, str], bool]:
    """Return the answer, and whether this process can still read other content."""
    try:
        content: Any = path
        if member:
            with zipfile.ZipFile(path) as archive:
                values = archive.read(member)
            content, size = io.BytesIO(values), len(values)
        with h5py.File(content, "r") as file:
            found = _problem(file, size)
            if found:
                return {"refused": found}, True
            _read(file)
    # HDF5, h5py and zipfile raise many kinds of errors for damaged content.
    except Exception as error:
        usable = not isinstance(error, MemoryError | RecursionError | SystemError)
        return {"damaged": one_line(error)}, usable
    return {}, True


def _read(group: h5py.Group) -> None:
    """Read all that is in a group: what hangs or crashes does so here."""
    list(group.attrs.items())
    for item in group.values():
        if isinstance(item, h5py.Group):
            _read(item)
        else:
            list(item.attrs.items())
            _read_array(item)


def _read_array(array: h5py.Dataset) -> None:
    if not array.shape:
        array[()]
        return
    rows = max(_PART * len(array) // max(array.nbytes, 1), 1)
    if array.chunks:
        # HDF5 unpacks a chunk again for each part that is read.
        rows = math.ceil(rows / array.chunks[0]) * array.chunks[0]
    for start in range(0, len(array), rows):
        array[start : start + rows]


def _problem(file: h5py.File, size: int) -> str:
    """Return a clause about the first object that is not a plain array; "" without one."""
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


if __name__ == "__main__":
    main()
