"""Measure the memory that this process may allocate, and recognize errors for lack of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

try:
    import resource
except ImportError:  # Windows
    resource = None

# An unlimited control group of version 1 has a limit near 2**63.
_UNLIMITED = 2**60


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the number of bytes that this process may still allocate, or `None` if unknown.

    The result is the smallest of these: the available memory of the machine, without swap; what is
    left of the limit of each control group of this process, as in a container; and what is left of
    the limits that `ulimit -v` and `ulimit -d` set.

    Args:
        root: Folder that contains `proc` and `sys`; other values are for tests.
    """
    process = _sizes(root / "proc/self/status")
    found = [_sizes(root / "proc/meminfo").get("MemAvailable"), *_left_in_groups(root)]
    if resource is not None:
        limits = (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData"))
        for name, used in limits:
            limit = resource.getrlimit(getattr(resource, name))[0]
            if limit != resource.RLIM_INFINITY and used in process:
                found.append(limit - process[used])
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error was raised because memory ran out.

    Args:
        error: Any exception of Python, NumPy, TensorFlow or PyTorch.
    """
    # The second class is that of TensorFlow, and the third one that of PyTorch for GPUs. For the
    # CPU, PyTorch raises a RuntimeError.
    names = {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}
    if not names.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def in_words(size: float) -> str:
    """Format a number of bytes with one or two digits, such as `"1.2 GB"` or `"45 MB"`."""
    units = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
    unit, value = next((pair for pair in units if size >= pair[1]), units[-1])
    number = max(size / value, 1)
    return f"{number:.1f} {unit}" if number < 10 and unit != "MB" else f"{number:,.0f} {unit}"


def _sizes(path: Path) -> dict[str, int]:
    """Read the sizes in a file with lines such as `MemAvailable:  123 kB`, in bytes by name."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _text(path), re.MULTILINE)
    return {name: 1024 * int(size) for name, size in lines}


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what is left of each limit of the control groups that this process belongs to."""
    groups = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            folder, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            folder = groups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # The limit of an outer group holds for the groups inside it. A container often shows its
        # own group as the outermost one, and the path of the group then does not exist.
        inner = PurePosixPath(path.lstrip("/"))
        for group in (folder / inner, *(folder / outer for outer in inner.parents)):
            limit, used = (_number(group / name) for name in names[:2])
            if limit is not None and used is not None and limit < _UNLIMITED:
                # The system frees cached files when memory is needed.
                cached = re.search(rf"^{names[2]} (\d+)$", _text(group / "memory.stat"), re.M)
                yield limit - used + (int(cached[1]) if cached else 0)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
